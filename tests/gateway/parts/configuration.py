"""What an operator changes while a gateway serves, or sets up before it: the access log and certificates, listeners behind other
proxies, and documents with mistakes."""

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time

from .instances import Instance, each, field
from .node import HOST, Folder, Node, await_instances, documents, eventually, free_port, gateway
from .wire import Connection, exchange, get


class Numbered:
    """A client that asks for /0, /1 and so on over one connection, until it is stopped."""

    def __init__(self, node):
        self.node, self.count, self.failed, self.stopping = node, 0, [], threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        with Connection(self.node.address) as connection:
            while not self.stopping.is_set():
                answer = connection.ask(get(f"/{self.count}", HOST, close=False))
                if answer.status != 200:
                    self.failed.append(answer)
                self.count += 1

    def stop(self):
        self.stopping.set()
        self.thread.join(10)
        assert not self.failed, self.failed[:3]
        return self.count


def lines_of(text):
    """The lines of an access log; others are not JSON, and a line that is not whole is an error."""
    return [json.loads(it) for it in text.splitlines() if it.startswith("{")]


def the_access_log_rotates_on_sighup_and_goes_to_stdout(full):
    """Renamed under load, several times: what comes after the signal is in the new file, and each request has one line in one of them."""
    with Folder() as folder, Instance("a") as one:
        log = folder.path / "access.log"
        node = gateway(folder, [("a", one.port)], settings={"access_log": {"path": str(log)}})
        client, old = Numbered(node), []
        for number in range(3):
            count = client.count
            eventually("more lines", lambda: client.count > count + 50 and log.stat().st_size > 0)
            old.append(log.rename(folder.path / f"access.log.{number}"))
            node.signal(signal.SIGHUP)
            eventually("a new file", lambda: log.exists() and log.stat().st_size > 0)
            assert log.stat().st_mode & 0o777 == 0o640, oct(log.stat().st_mode)
            # What is written to the old file after that would be lost for a program that compresses it.
            size = old[-1].stat().st_size
            count = client.count
            eventually("more requests", lambda: client.count > count + 50)
            assert old[-1].stat().st_size == size, "the old file is still written to"
        count = client.stop()
        found = lambda: [it["path"] for file in (*old, log) for it in lines_of(file.read_text()) if it["path"] != "/who"]  # noqa: E731
        eventually("a line of each request", lambda: len(found()) >= count, 5)
        assert sorted(found()) == sorted(f"/{it}" for it in range(count)), f"{len(found())} lines of {count} requests"
        assert node.metric("access_log_dropped") == 0
        print(f"{count} requests in {len(old) + 1} files")
        to_stdout(folder, one)


def to_stdout(folder, one):
    out = folder.path / "stdout"
    with open(out, "wb") as file:
        node = Node(folder, "second", settings={"access_log": {"path": "stdout"}}).start(stdout=file)
    node.apply(documents())
    node.register("web", "a", one.port)
    node.ready()
    await_instances(node, [("a", one.port)])
    for number in range(20):
        assert exchange(node.address, get(f"/{number}", HOST)).status == 200
        if number == 9:
            node.signal(signal.SIGHUP)
    assert exchange(node.address, get("/nothing", "nobody.example.com")).status == 404
    wanted = [f"/{it}" for it in range(20)] + ["/nothing"]
    found = lambda: [it for it in lines_of(out.read_text()) if it["path"] != "/who"]  # noqa: E731
    # Each worker hands its lines over by itself, so they may come in another order.
    eventually("a line of each request on standard output", lambda: sorted(it["path"] for it in found()) == sorted(wanted), 5)
    refused = [it for it in found() if it["path"] == "/nothing"]
    assert [(it["status"], it["reason"], it["host"]) for it in refused] == [(404, "no_route", "nobody.example.com")], refused
    assert all(it["instance"] == "a" and it["status"] == 200 for it in found() if it not in refused), found()


class Certificate:
    """Files of a certificate for the host, and what clients see of it."""

    def __init__(self, folder, name):
        self.chain, self.key = folder.path / f"{name}.pem", folder.path / f"{name}.key"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-keyout", self.key,
                   "-out", self.chain, "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
        subprocess.run([str(it) for it in command], check=True, capture_output=True)
        self.shown = ssl.PEM_cert_to_DER_cert(self.chain.read_text())

    def put(self, chain, key):
        """As programs that renew certificates do: each file at once, one after the other."""
        for made, used in ((self.chain, chain), (self.key, key)):
            new = used.with_suffix(".new")
            new.write_bytes(made.read_bytes())
            os.replace(new, used)


class Secure(Connection):
    """A connection over TLS that takes any certificate, and knows which."""

    def __init__(self, address, patience=10.0):
        super().__init__(address, patience)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.sock = context.wrap_socket(self.sock, server_hostname=HOST)
        self.shown = self.sock.getpeercert(binary_form=True)


def certificates_are_read_again_without_a_restart(full):
    """By itself within ten seconds and at once on SIGHUP; a key that does not fit is not taken. Connections go on."""
    with Folder() as folder, Instance("a") as one:
        first, second, third = (Certificate(folder, it) for it in ("first", "second", "third"))
        chain, key, port = folder.path / "cert.pem", folder.path / "key.pem", free_port()
        first.put(chain, key)
        settings = {"tls_listen": [f"127.0.0.1:{port}"], "certificates": [{"certificate": str(chain), "key": str(key)}]}
        node = gateway(folder, [("a", one.port)], settings=settings)
        address = "127.0.0.1", port

        def shown():
            with Secure(address) as connection:
                assert connection.ask(get("/who", HOST)).status == 200
                return connection.shown

        with Secure(address) as kept:
            goes_on = lambda: kept.ask(get("/who", HOST, close=False)).status == 200  # noqa: E731
            assert kept.shown == first.shown and shown() == first.shown and goes_on()
            second.put(chain, key)
            start = time.monotonic()
            eventually("the second is shown by itself", lambda: goes_on() and shown() == second.shown, 12)
            print(f"taken by itself after {time.monotonic() - start:.1f} s")
            # Half of a change: the certificate is new, the key is not. Nothing changes, and the log says so.
            chain.write_bytes(third.chain.read_bytes())
            node.signal(signal.SIGHUP)
            eventually("the log says that they do not fit", lambda: re.search(r"ERROR.*certificates.*key", node.log()), 5)
            assert shown() == second.shown and goes_on() and node.metric("waypost_files_kept_total") >= 1
            third.put(chain, key)
            start = time.monotonic()
            node.signal(signal.SIGHUP)
            eventually("the third is shown", lambda: shown() == third.shown, 2)
            print(f"taken on SIGHUP after {time.monotonic() - start:.2f} s")
            assert goes_on(), "the connection of before the changes has ended"
        verified = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", HOST, "-CAfile", str(third.chain),
                                   "-verify_return_error"], input=b"", capture_output=True, timeout=20)
        assert b"Verify return code: 0" in verified.stdout, verified.stdout[-500:]


def a_redirect_to_https_ends_behind_a_trusted_terminator(full):
    """Clients come over HTTPS to a proxy that ends TLS, and the proxy comes here in the clear. From others, the same fields are words."""
    routes = f"""---
kind: Route
name: to-https
hosts: [{HOST}]
scheme: http
request_redirect: {{ scheme: https, status_code: 308 }}
---
kind: Route
name: page
hosts: [{HOST}]
to: [{{ service: web }}]
"""
    with Folder() as folder, Instance("a", each(lambda peer, head, body: peer.reply(field(head, "x-forwarded-proto") or "none"))) as one:
        node = Node(folder, settings={"trusted_networks": ["127.0.0.2/32"]}).start()
        node.apply(documents(more=routes))
        node.register("web", "a", one.port)
        node.ready()

        def ask(source, fields):
            with Connection(node.address, source=(source, 0)) as connection:
                return connection.ask(get("/shop?x=1", HOST).replace("\r\n\r\n", f"\r\n{fields}\r\n"))

        def page():
            answer = ask("127.0.0.2", "X-Forwarded-Proto: https\r\n")
            assert answer.status in (200, 503), answer
            return answer.status == 200 and answer

        assert eventually("the page", page).body == b"https", "the instance is told of another scheme"
        for fields in ("X-Forwarded-Proto: https\r\nX-Forwarded-For: 203.0.113.9\r\n", f"Forwarded: for=203.0.113.9;proto=https;host={HOST}\r\n"):
            assert ask("127.0.0.2", fields).status == 200, f"{fields!r} of the terminator is not believed"
            answer = ask("127.0.0.3", fields)
            assert (answer.status, answer.field("location")) == (308, f"https://{HOST}/shop?x=1"), f"{fields!r} of a stranger: {answer}"
        for source, fields in (("127.0.0.2", ""), ("127.0.0.2", "X-Forwarded-Proto: http\r\n"), ("127.0.0.3", "")):
            assert ask(source, fields).status == 308, f"{fields!r} from {source}"


SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def header(command, family, addresses, more=b""):
    """A PROXY header of version 2. `command`: 0 LOCAL, 1 PROXY; `family`: with the transport, such as 0x11 for TCP over IPv4."""
    rest = addresses + more
    return SIGNATURE + bytes([0x20 | command, family]) + len(rest).to_bytes(2, "big") + rest


def of_addresses(client, ours, port):
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    both = socket.inet_pton(family, client) + socket.inet_pton(family, ours)
    return both + port.to_bytes(2, "big") + (80).to_bytes(2, "big")


def a_proxy_header_of_version_2_names_the_client(full):
    """Over IPv4 and IPv6, with what may follow the addresses, in pieces, before TLS, and LOCAL, which names nobody."""
    with Folder() as folder, Instance("a", each(lambda peer, head, body: peer.reply(field(head, "x-forwarded-for") or "none"))) as one:
        certificate = Certificate(folder, "cert")
        plain, tls, strange = free_port(), free_port(), free_port()
        listeners = [{"address": f"127.0.0.1:{plain}", "proxy_protocol": True}, {"address": f"127.0.0.1:{tls}", "proxy_protocol": True, "tls": True},
                     {"address": f"127.0.0.1:{strange}", "proxy_protocol": True, "trusted_networks": ["192.0.2.0/24"]}]
        settings = {"trusted_networks": ["127.0.0.0/8"], "listeners": listeners, "certificates": [{"certificate": str(certificate.chain), "key": str(certificate.key)}]}
        node = gateway(folder, [("a", one.port)], settings=settings)

        def client_of(octets, port=plain):
            with Connection(("127.0.0.1", port), 5) as connection:
                for piece in octets if isinstance(octets, list) else [octets]:
                    connection.send(piece)
                if port == tls:
                    context = ssl.create_default_context()
                    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                    connection.sock = context.wrap_socket(connection.sock, server_hostname=HOST)
                answers = [connection.ask(get("/x", HOST, close=False)) for _ in range(2)]
                assert all(it.status == 200 for it in answers), answers
                assert answers[0].body == answers[1].body, "the second request of the connection is another client's"
                return answers[0].body.decode()

        four = header(1, 0x11, of_addresses("203.0.113.7", "192.0.2.1", 51000))
        assert client_of(four) == "203.0.113.7"
        assert client_of(header(1, 0x21, of_addresses("2001:db8::7", "2001:db8::1", 51000))) == "2001:db8::7"
        # PP2_TYPE_ALPN, and PP2_TYPE_NOOP as padding.
        assert client_of(header(1, 0x11, of_addresses("203.0.113.8", "192.0.2.1", 51000), b"\1\0\2h1" + b"\4\0\x64" + b"\0" * 100)) == "203.0.113.8"
        assert client_of([bytes([it]) for it in four]) == "203.0.113.7"
        for local in (header(0, 0, b""), header(0, 0x11, of_addresses("203.0.113.9", "192.0.2.1", 51000))):
            assert client_of(local) == "127.0.0.1", "LOCAL is about the connection itself"
        assert client_of(four, tls) == "203.0.113.7"
        refused = {
            "no header": get("/x", HOST).encode(),
            "a version that is not known": four.replace(SIGNATURE + b"\x21", SIGNATURE + b"\x31"),
            "addresses that are cut": header(1, 0x11, b"\1\2\3"),
        }
        for what, octets in refused.items():
            assert_refused(plain, octets, what)
        assert_refused(strange, four + get("/x", HOST).encode(), "a header of one that is not trusted")
        assert client_of(four) == "203.0.113.7"


def assert_refused(port, octets, what):
    """The connection ends without an answer."""
    with Connection(("127.0.0.1", port), 5) as connection, contextlib.suppress(OSError):
        connection.send(octets)
        assert connection.ended(), f"{what}: {connection.unread!r}"


HIDDEN = f"""kind: Route
name: first
hosts: [{HOST}]
priority: 5
paths: [{{ prefix: /api }}]
to: [{{ service: web }}]
---
kind: Route
name: never
hosts: [{HOST}]
paths: [{{ exact: /api/x }}]
to: [{{ service: web }}]
"""
# With one mistake each; its line, and what is said of it.
REFUSED = {
    f"kind: Route\nname: it\nhosts: [{HOST}]\nto:\n  - {{ service: wbe }}\n": (5, "to[0].service", "there is no Service wbe; did you mean \"web\"?"),
    f"kind: Route\nname: it\nhosts: [{HOST}]\npaths:\n  - prefix: /a\n  - regex: /(a\nto: [{{ service: web }}]\n":
        (6, "paths[1].regex", "is not a regular expression: unclosed group"),
    f"kind: Route\nname: it\nhosts: [{HOST}]\nto: [{{ service: web }}]\nheaders:\n  - {{ name: X-A, regex: '(a{{100}}){{100}}' }}\n":
        (6, "headers[0].regex", "compiled it takes more than 65536 bytes"),
    f"kind: Route\nname: it\nto: [{{ service: web, weight: 0 }}, {{ service: other, weight: 0 }}]\nhosts: [{HOST}]\n":
        (3, "to", "no service gets a request; expected at least one service with a weight above 0"),
}


def apply_says_what_is_hidden(full):
    """What is allowed and hardly meant is a warning with its line; a mistake is an error with its line, and nothing of the file is taken."""
    with Folder() as folder:
        node = Node(folder).start()
        node.apply(documents([("web", (HOST,)), ("other", ("other.example.com",))]))
        file = folder.path / "routes.yaml"

        def apply(text, *options):
            file.write_text(text)
            done = node.cli(*options, "apply", "-f", str(file))
            return done.returncode, done.stdout, done.stderr

        code, out, err = apply(HIDDEN)
        hidden = f"warning: {file}:9: Route never: gets no request: the Route first comes first for all of them by its priority"
        replaced = f"warning: {file}:3: Route first: hosts: the Route first replaces the implied route of {HOST}, which leads everything to the Service web"
        warned = [it for it in (out + err).splitlines() if it.startswith("warning: ")]
        assert code == 0 and len(warned) == 2, f"{code}: {out}{err}"
        assert hidden in warned and any(it.startswith(replaced) for it in warned), warned
        assert "+ Route never" in out and "generation" in out, out
        # The same again changes nothing, and is said again.
        code, out, _ = apply(HIDDEN, "--json")
        found = {(it["document"], it["line"]) for it in json.loads(out)["warnings"]}
        assert code == 0 and found == {("Route never", 9), ("Route first", 3)}, out
        stored = node.cli("export").stdout
        for text, (line, at, problem) in REFUSED.items():
            code, out, err = apply("kind: Route\nname: fine\npaths: [{ prefix: /fine }]\nto: [{ service: web }]\n---\n" + text)
            line += 5
            assert code == 2 and out == "", f"{code}: {out}"
            assert f"{file}:{line}: Route it: {at}: " in err and problem in err and "1 error, nothing was changed" in err, f"line {line}: {err}"
            code, out, err = apply(text, "--json")
            told = json.loads(err)
            assert code == told["exit"] == 2 and out == "", f"{code}: {err}"
            assert [(it["line"], it["field"]) for it in told["mistakes"]] == [(line - 5, at)], err
        assert node.cli("export").stdout == stored, "a part of a file with a mistake was taken"


SCENARIOS = [
    the_access_log_rotates_on_sighup_and_goes_to_stdout,
    certificates_are_read_again_without_a_restart,
    a_redirect_to_https_ends_behind_a_trusted_terminator,
    a_proxy_header_of_version_2_names_the_client,
    apply_says_what_is_hidden,
]
