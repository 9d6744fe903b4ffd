"""A site: answers every request with its name; slowly while the file of its second argument is there."""

import asyncio
import os
import sys

SITE, SLOW = sys.argv[1], sys.argv[2]
ANSWER = f"HTTP/1.1 200 OK\r\nContent-Length: {len(SITE)}\r\nConnection: close\r\n\r\n{SITE}".encode()


async def serve(reader, writer):
    try:
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        if os.path.exists(SLOW):
            await asyncio.sleep(3)
        writer.write(ANSWER)
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.TimeoutError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", 80, backlog=1024)
    async with server:
        await server.serve_forever()


asyncio.run(main())
