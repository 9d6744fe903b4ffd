"""Real clients and servers: curl, wrk, openssl s_client, a WebSocket library, httpbin, slowhttptest. What each gets through the gateway
is compared with what it gets without it."""

import json
import os
import re
import subprocess
import sys
import threading
import time

from .attacks import ATTACKS, HOSTS, LIMITS, Attack
from .instances import Instance, Lost, each, field, nginx, path
from .node import HOST, WORKSPACE, Folder, eventually, free_port, gateway
from .wire import Connection, exchange, get

PACKAGES = WORKSPACE / "target/components/gateway"
# What the gateway puts into requests, as httpbin shows them, and into answers.
ADDED_TO_REQUESTS = {"via", "waypost-hops", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-request-id", "forwarded"}
ADDED_TO_ANSWERS = {"via", "x-request-id", "server-timing"}
# What an answer has of its moment or of the connection.
OF_THE_MOMENT = {"date", "connection", "keep-alive"}


def run(*command, patience=60, check=True, **options):
    done = subprocess.run([str(it) for it in command], capture_output=True, timeout=patience, **options)
    if check:
        assert done.returncode == 0, f"{command}: {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}"
    return done


def packages():
    if not PACKAGES.is_dir():
        raise SystemExit("no Python packages below target/components; tests/components installs them")
    return {**os.environ, "PYTHONPATH": str(PACKAGES)}


def httpbin(folder):
    """A real httpbin; returns its port."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--worker-class", "gthread", "--threads", "8", "--keep-alive", "30", "httpbin:app"]
    folder.start("httpbin", command, env=packages(), cwd=str(folder.path))
    eventually("httpbin answers", lambda: (it := exchange(("127.0.0.1", port), get("/status/200", HOST))) and it.status == 200, 30)
    return port


def with_httpbin(folder, **options):
    port = httpbin(folder)
    node = gateway(folder, [], **options)
    node.register("web", "httpbin", port)
    eventually("the gateway has it", lambda: (it := exchange(node.address, get("/status/200", HOST))) and it.status == 200)
    return port, node


# Each with curl's arguments; every answer is compared in status, fields and body.
CURL = {
    "GET": ["/get?a=1&b=%20x"],
    "HTTP/1.0": ["-0", "/get"],
    "HEAD": ["-I", "/encoding/utf8"],
    "PUT": ["-X", "PUT", "-d", "hello", "/put"],
    "PATCH": ["-X", "PATCH", "-d", "a=b", "/patch"],
    "DELETE": ["-X", "DELETE", "/delete"],
    "a form": ["-d", "a=b&c=d", "/post"],
    "a file in parts": ["-F", "file=@UPLOAD", "/post"],
    "chunks": ["-H", "Transfer-Encoding: chunked", "-d", "@SMALL", "/post"],
    "5 MB with 100-continue": ["-H", "Expect: 100-continue", "--data-binary", "@UPLOAD", "/post"],
    "an upload by HTTP/1.0": ["-0", "--data-binary", "@SMALL", "/post"],
    "204": ["/status/204"],
    "304": ["-H", "If-None-Match: etag", "/etag/etag"],
    "404": ["/status/404"],
    "418": ["/status/418"],
    "500": ["/status/500"],
    "503": ["/status/503"],
    "a range": ["-r", "10-19", "/range/1000"],
    "a range at the end": ["-r", "-5", "/range/1000"],
    "a range that is not there": ["-r", "2000-", "/range/1000"],
    "a redirect": ["/redirect-to?url=/get"],
    "a redirect followed": ["-L", "/redirect/3"],
    "a stream": ["/stream/20"],
    "a stream by HTTP/1.0": ["-0", "/stream/20"],
    "octets": ["/bytes/100000?seed=1"],
    "octets in chunks": ["/stream-bytes/100000?seed=1"],
    "slowly": ["/drip?duration=1&numbytes=20&delay=0"],
    "gzip": ["--compressed", "/gzip"],
    "deflate": ["--compressed", "/deflate"],
    "cookies": ["-b", "x=y; z=1", "/cookies"],
    "cookies that are set": ["/cookies/set?a=b&c=d"],
    "basic authentication": ["-u", "user:secret", "/basic-auth/user/secret"],
    "a refused authentication": ["/basic-auth/user/secret"],
    "fields": ["-H", "X-Empty;", "-H", "X-Latin: \xe4", "-H", "X-Two: 1", "-H", "X-Two: 2", "/headers"],
    "fields of an answer": ["/response-headers?X-A=1&X-A=2&Content-Type=text/plain"],
    "UTF-8": ["/encoding/utf8"],
    "an image": ["/image/png"],
    "any path": ["--path-as-is", "/anything/a//b;c=d/%C3%A9?q=%2f"],
}


def curl(folder, address, arguments):
    upload, small = folder.path / "upload", folder.path / "small"
    if not upload.exists():
        upload.write_bytes(bytes(range(256)) * 20_000)
        small.write_bytes(b"some octets of a body\n" * 50)
    url = f"http://{HOST}:{address[1]}{arguments[-1]}"
    said = [it.replace("UPLOAD", str(upload)).replace("SMALL", str(small)) for it in arguments[:-1]]
    # A fixed boundary would be better; curl draws one, so it is taken out below.
    done = run("curl", "-sS", "-i", "--noproxy", "*", "--max-time", "30", "--resolve", f"{HOST}:{address[1]}:127.0.0.1",
               "-H", f"Host: {HOST}", *said, url)
    return normal(done.stdout)


def normal(output):
    """Of curl's output with heads: heads as status and sorted fields, without what the moment and the gateway add."""
    heads = []
    while output.startswith(b"HTTP/"):
        head, _, output = output.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        version, _, status = lines[0].partition(" ")
        fields = sorted((name.lower(), value.strip()) for name, _, value in (it.partition(":") for it in lines[1:]))
        if not status.startswith("100"):
            heads.append((status, [it for it in fields if it[0] not in ADDED_TO_ANSWERS | OF_THE_MOMENT]))
    text = output.decode("latin-1")
    boundary = re.search(r"boundary=(-+\w+)", text)
    if boundary:
        text = text.replace(boundary[1], "BOUNDARY")
    documents = []
    for line in [text] if text.startswith("{\n") else text.splitlines():
        try:
            documents.append(json.loads(line))
        except ValueError:
            return heads, text
    # What the gateway adds makes a document longer.
    heads = [(status, [it for it in fields if it[0] != "content-length"]) for status, fields in heads]
    for document in documents:
        fields = document.get("headers", {}) if isinstance(document, dict) else {}
        # How a body is framed, and whether the connection stays, is between neighbours.
        for name in [it for it in fields if it.lower() in ADDED_TO_REQUESTS | {"transfer-encoding", "connection"}]:
            del fields[name]
    return heads, documents or text


def curl_gets_from_httpbin_what_it_gets_without_the_gateway(full):
    with Folder() as folder:
        port, node = with_httpbin(folder)
        different = []
        for what, arguments in CURL.items():
            through, direct = (curl(folder, it, arguments) for it in (node.address, ("127.0.0.1", port)))
            through, direct = unframed(through), unframed(direct)
            if through != direct:
                different.append(f"{what}: {shown(through)} instead of {shown(direct)}")
        print(f"{len(CURL)} requests; the gateway may add {', '.join(sorted(ADDED_TO_REQUESTS))} to requests and {', '.join(sorted(ADDED_TO_ANSWERS))} to answers")
        assert not different, "\n      ".join(["", *different])


def unframed(answer):
    """An HTTP/1.0 client gets a body without chunks, and by the connection's end."""
    heads, body = answer
    return [(status, [it for it in fields if it[0] != "transfer-encoding"]) for status, fields in heads], body


def shown(it):
    return str(it)[:600]


def an_expectation_is_answered_by_the_instance(full):
    """RFC 9110 §10.1.1: the body waits for the instance's 100, and a refusal comes instead of it."""
    early = []

    def serve(peer, instance):
        while True:
            head = peer.head()
            if path(head) == "/who":
                peer.reply(instance.identity)
                continue
            if path(head) == "/refused":
                peer.reply("no", "417 Expectation Failed", "Connection: close\r\n")
                return
            if path(head) != "/silent":
                peer.sock.settimeout(0.3)
                try:
                    peer.more()
                except Lost:
                    pass
                early.append(len(peer.unread))
                peer.sock.settimeout(None)
                peer.send("HTTP/1.1 100 Continue\r\n\r\n")
            peer.body(head)
            peer.reply("done")

    with Folder() as folder, Instance("a", serve) as one:
        node = gateway(folder, [("a", one.port)])
        ask = f"POST %s HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        with Connection(node.address) as connection:
            connection.send(ask % "/waits")
            assert connection.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100"), "no 100"
            answer = connection.ask("hello")
            assert answer.status == 200 and answer.body == b"done", answer
        assert early == [0], f"{early} octets of the body came before the instance wanted it"
        with Connection(node.address) as connection:
            answer = connection.ask(ask % "/refused")
            assert answer.status == 417 and not answer.interim, f"{answer} {answer.interim}"
        with Connection(node.address) as connection:
            # One that never says 100 gets the body anyway, after a second.
            connection.send(ask % "/silent")
            start = time.monotonic()
            connection.send("hello")
            answer = connection.answer()
            assert answer.status == 200 and answer.body == b"done", answer
            assert time.monotonic() - start < 3, "the body was held back too long"


def interim_answers_and_trailers_pass(full):
    def answer(peer, head, body):
        peer.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
        peer.send("HTTP/1.1 102 Processing\r\n\r\n")
        peer.send("HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n")

    with Folder() as folder, Instance("a", each(answer)) as one:
        node = gateway(folder, [("a", one.port)])
        with Connection(node.address) as connection:
            chunked = "3\r\nabc\r\n0\r\nX-Check: 3\r\n\r\n"
            found = connection.ask(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\nTrailer: X-Check\r\n\r\n{chunked}")
            assert [it.status for it in found.interim] == [103, 102], found.interim
            assert found.interim[0].field("link") == "</a.css>; rel=preload"
            assert (found.status, found.reason, found.body, found.trailers) == (200, "Fine", b"hello", [("x-sum", "5")]), f"{found} {found.trailers}"
        raw = b"".join(it.raw for it in one.open)
        assert b"x-check: 3" in raw.lower(), "the trailer of the request is lost"
        with Connection(node.address) as connection:
            # One that speaks HTTP/1.0 knows neither.
            found = connection.ask(f"GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n")
            assert (found.status, found.body, found.interim) == (200, b"hello", []), f"{found} {found.interim}"


def bodies_pass_in_flat_memory(full):
    """An upload and a download at once, with back-pressure."""
    size = (10 << 30) if full else (256 << 20)
    piece = bytes(range(256)) * 4096
    received = [0]

    def serve(peer, instance):
        while True:
            head = peer.head()
            if path(head) == "/who":
                peer.reply(instance.identity)
            elif path(head) == "/down":
                peer.send(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")
                for _ in range(size // len(piece)):
                    peer.send(piece)
            else:
                left = int(field(head, "content-length")) - len(peer.unread)
                peer.unread = peer.raw = b""
                into = bytearray(1 << 20)
                while left > 0:
                    count = peer.sock.recv_into(into, min(left, len(into)))
                    if not count:
                        raise Lost("short")
                    left -= count
                received[0] = int(field(head, "content-length"))
                peer.reply("got it")

    with Folder() as folder, Instance("a", serve) as one:
        node = gateway(folder, [("a", one.port)])
        before = node.memory()
        most = [0]
        done = threading.Event()

        def watch():
            while not done.wait(0.05):
                most[0] = max(most[0], node.memory())

        def up():
            with Connection(node.address, 60) as connection:
                connection.send(f"POST /up HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {size}\r\n\r\n")
                for _ in range(size // len(piece)):
                    connection.sock.sendall(piece)
                assert connection.answer().body == b"got it"

        threads = [threading.Thread(target=it, daemon=True) for it in (watch, up)]
        for it in threads:
            it.start()
        with Connection(node.address, 60) as connection:
            connection.send(get("/down", HOST, close=False)).until(b"\r\n\r\n")
            left = size - len(connection.unread)
            into = bytearray(1 << 20)
            while left > 0:
                count = connection.sock.recv_into(into, min(left, len(into)))
                assert count, "the download was cut"
                left -= count
        threads[1].join(600)
        done.set()
        assert received[0] == size, "the upload was not whole"
        grown = (most[0] - before) / 1024
        print(f"{size >> 20} MiB each way; {grown:.0f} MiB of memory more")
        assert grown < 16, f"{grown:.0f} MiB"


def wrk_gets_no_error(full):
    with Folder() as folder, Instance("a") as one, Instance("b") as two:
        node = gateway(folder, [("a", one.port), ("b", two.port)])
        for fields in ([], ["-H", "Connection: close"]):
            done = run("wrk", "-t1", "-c16", f"-d{20 if full else 2}s", "-H", f"Host: {HOST}", *fields, f"http://127.0.0.1:{node.port}/who")
            text = done.stdout.decode()
            count = int(re.search(r"(\d+) requests in", text)[1])
            print(f"{count} requests{' on a connection each' if fields else ''}")
            assert count > 50 and "Non-2xx" not in text and "Socket errors" not in text, text


WEBSOCKET = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[1])
import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

URL = "ws://web.example.com/"

async def echo(connection):
    async for message in connection:
        if message == "close me":
            await connection.close(4001, "as you wish")
        elif message == "drop me":
            connection.transport.abort()
        else:
            await connection.send(message)

async def one(port):
    async with connect(URL, subprotocols=["echo"], max_size=None, proxy=None, host="127.0.0.1", port=port) as it:
        assert it.subprotocol == "echo", it.subprotocol
        for message in ["hello", "", "ä" * 1000, b"", bytes(range(256)) * 4096]:
            await it.send(message)
            assert await it.recv() == message
        assert await (await it.ping(b"there?")) >= 0
        async def pieces():
            for piece in ("in ", "three ", "pieces"):
                yield piece
        await it.send(pieces())
        assert await it.recv() == "in three pieces"
        await it.send("close me")
        try:
            await it.recv()
        except websockets.ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "as you wish"), closed
        else:
            raise AssertionError("it was not closed")

async def dropped(port):
    async with connect(URL, subprotocols=["echo"], proxy=None, host="127.0.0.1", port=port) as it:
        await it.send("drop me")
        try:
            await asyncio.wait_for(it.recv(), 5)
        except websockets.ConnectionClosed:
            return
        raise AssertionError("an end of the server did not come through")

async def main():
    if sys.argv[2] == "serve":
        async with serve(echo, "127.0.0.1", 0, subprotocols=["echo"], max_size=None) as server:
            print(server.sockets[0].getsockname()[1], flush=True)
            await server.serve_forever()
    port, count = int(sys.argv[3]), int(sys.argv[4])
    await asyncio.wait_for(asyncio.gather(*(one(port) for _ in range(count))), 60)
    await dropped(port)
    print("fine")

asyncio.run(main())
"""


def a_websocket_library_talks_through_the_gateway(full):
    packages()
    with Folder() as folder:
        program = folder.path / "websocket.py"
        program.write_text(WEBSOCKET)
        server = folder.start("server", [sys.executable, program, PACKAGES, "serve"], stdout=subprocess.PIPE, text=True)
        port = int(server.stdout.readline())
        node = gateway(folder, [])
        node.register("web", "echo", port)
        # The server answers what is no WebSocket with 426.
        eventually("the gateway has it", lambda: (it := exchange(node.address, get("/", HOST))) and it.status == 426)
        done = run(sys.executable, program, PACKAGES, "ask", node.port, 100 if full else 20, check=False)
        assert done.stdout.strip().endswith(b"fine"), done.stderr.decode(errors="replace")[-300:]


def s_client_talks_to_the_tls_listener(full):
    with Folder() as folder, Instance("a") as one:
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-keyout", folder.path / "key.pem",
            "-out", folder.path / "cert.pem", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}")
        port = free_port()
        node = gateway(folder, [("a", one.port)], settings=tls_settings(folder, port))
        assert "tls_listen" in node.config.read_text(), "this binary has no TLS listener"

        def ask(*arguments):
            text = f"GET /who HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()
            command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", HOST, "-CAfile", folder.path / "cert.pem",
                       "-verify_return_error", "-ign_eof", *arguments]
            return run(*command, input=text, check=False, patience=20).stdout.decode(errors="replace")

        session = folder.path / "session"
        for version in ("-tls1_2", "-tls1_3"):
            text = ask(version, "-alpn", "http/1.1", "-sess_out", session)
            assert "HTTP/1.1 200" in text and "ALPN protocol: http/1.1" in text and "Verify return code: 0" in text, text[-1500:]
            text = ask(version, "-sess_in", session)
            assert "HTTP/1.1 200" in text and "Reused, " in text, f"{version}: the session was not resumed: {text[-1500:]}"
        assert "HTTP/1.1 200" not in ask("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"), "TLS 1.1 is spoken"


def tls_settings(folder, port):
    """How a TLS listener is written in [proxy]."""
    certificate = {"certificate": str(folder.path / "cert.pem"), "key": str(folder.path / "key.pem")}
    return {"tls_listen": [f"127.0.0.1:{port}"], "certificates": [certificate]}


def slowhttptest_harms_nobody_else(full):
    """Attacks by a real tool, far more connections than honest clients have; afterwards its connections are gone. The instances are
    nginx, and no process of this test is between: Python's threads would wait for one another."""
    for name in ATTACKS:
        with Folder() as folder:
            known = nginx(folder)
            node = gateway(folder, known, [("web", HOSTS)], limits=LIMITS)
            open_ = lambda: node.metric("waypost_proxy_connections_open")  # noqa: E731
            counts = []
            attack = Attack(folder, name, (node.address, node.process), ("127.0.0.1", known[0][1]), 30 if full else 10, lambda: counts.append(open_()))
            most, at_the_end = max(counts), counts[-1]
            eventually(f"{name}: no connection is left", lambda: open_() <= 2, 15)
            print(f"{name}: at most {most:.0f} connections, {at_the_end:.0f} at the end; {attack}")
            assert not attack.honest.failed, f"{name}: {attack.honest.failed[:5]}"
            # What requests wait that go past the gateway, others would wait without it.
            waited = attack.honest.slowest - attack.direct.slowest
            assert waited < 1, f"{name}: an honest request took {waited:.2f} s longer than the slowest past the gateway"
            assert most > 100 or name == "ranges", f"{name}: the tool did not attack: {folder.log('slowhttptest')[-800:]}"
            assert at_the_end < 100, f"{name}: {at_the_end:.0f} of its connections are still open"
            assert node.metric("ejections_total") == 0, f"{name}: an instance was ejected"


SCENARIOS = [
    curl_gets_from_httpbin_what_it_gets_without_the_gateway,
    an_expectation_is_answered_by_the_instance,
    interim_answers_and_trailers_pass,
    bodies_pass_in_flat_memory,
    wrk_gets_no_error,
    a_websocket_library_talks_through_the_gateway,
    s_client_talks_to_the_tls_listener,
    slowhttptest_harms_nobody_else,
]
