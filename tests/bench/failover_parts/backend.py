"""A site, or an instance at the port of its third argument: answers every request with its name; slowly while the file of its second
argument is there. Instances keep connections."""

import asyncio
import os
import sys

SITE, SLOW = sys.argv[1], sys.argv[2]
PORT = int(sys.argv[3]) if len(sys.argv) > 3 else 80
KEEPS = PORT != 80
CLOSES = "" if KEEPS else "Connection: close\r\n"
ANSWER = f"HTTP/1.1 200 OK\r\nContent-Length: {len(SITE)}\r\n{CLOSES}\r\n{SITE}".encode()


async def serve(reader, writer):
    try:
        while True:
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 600 if KEEPS else 5)
            if os.path.exists(SLOW):
                await asyncio.sleep(3)
            writer.write(ANSWER)
            await writer.drain()
            if not KEEPS:
                break
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.TimeoutError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", PORT, backlog=1024)
    async with server:
        await server.serve_forever()


asyncio.run(main())
