"""Queries a DNS server over HTTP/3, with aioquic: a client that shares no code with the server.

Usage: http3_client.py PORT CA_FILE SERVER_NAME, one query in hexadecimal per line on standard input. Each is sent
once by GET and once by POST on one connection to 127.0.0.1; prints one line per answer: the method, the status, the
content type and the body in hexadecimal.
"""

import asyncio
import base64
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration

PATIENCE = 20


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.answers = {}

    async def ask(self, method, path, body=b""):
        stream = self._quic.get_next_available_stream_id()
        done = self._loop.create_future()
        self.answers[stream] = ({}, bytearray(), done)
        headers = [(b":method", method), (b":scheme", b"https"), (b":authority", b"dns"), (b":path", path)]
        if body:
            headers += [(b"content-type", b"application/dns-message")]
        self.http.send_headers(stream, headers, end_stream=not body)
        if body:
            self.http.send_data(stream, body, end_stream=True)
        self.transmit()
        return await asyncio.wait_for(done, PATIENCE)

    def quic_event_received(self, event):
        for event in self.http.handle_event(event):
            if not isinstance(event, (HeadersReceived, DataReceived)):
                continue
            headers, body, done = self.answers[event.stream_id]
            if isinstance(event, HeadersReceived):
                headers.update(event.headers)
            else:
                body.extend(event.data)
            if event.stream_ended and not done.done():
                done.set_result((headers, bytes(body)))


async def main(port, ca, name):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=name)
    configuration.verify_mode = ssl.CERT_REQUIRED
    configuration.load_verify_locations(ca)
    queries = [bytes.fromhex(line) for line in sys.stdin.read().split()]
    async with connect("127.0.0.1", port, configuration=configuration, create_protocol=Client) as client:
        for query in queries:
            parameter = base64.urlsafe_b64encode(query).rstrip(b"=")
            for method, path, body in [
                (b"GET", b"/dns-query?dns=" + parameter, b""),
                (b"POST", b"/dns-query", query),
            ]:
                headers, answer = await client.ask(method, path, body)
                kind = headers.get(b"content-type", b"-").decode()
                print(method.decode(), headers[b":status"].decode(), kind, answer.hex())


asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
