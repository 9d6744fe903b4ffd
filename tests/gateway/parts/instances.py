"""Back ends on plain sockets, each in a thread per connection: what they got is kept as bytes, what they do is a function."""

import os
import socket
import threading
import time

from .node import free_port


class Lost(Exception):
    """The gateway ended the connection."""


class Peer:
    """The gateway's connection, as an instance sees it."""

    def __init__(self, sock, number):
        self.sock, self.number, self.unread, self.raw, self.served = sock, number, b"", b"", 0
        self.idle_since = time.monotonic()

    def more(self):
        try:
            data = self.sock.recv(65536)
        except OSError as error:
            raise Lost(str(error)) from None
        if not data:
            raise Lost("ended")
        self.raw += data
        self.unread += data

    def head(self):
        """The next request's head, without its end."""
        while b"\r\n\r\n" not in self.unread:
            self.more()
        head, self.unread = self.unread.split(b"\r\n\r\n", 1)
        return head.decode("latin-1")

    def body(self, head):
        length = field(head, "content-length")
        if length is not None:
            return self.exactly(int(length))
        if (field(head, "transfer-encoding") or "").lower() != "chunked":
            return b""
        body = b""
        while True:
            size = int(self.line().split(b";")[0], 16)
            if size == 0:
                while self.line():
                    pass
                return body
            body += self.exactly(size)
            self.exactly(2)

    def line(self):
        while b"\r\n" not in self.unread:
            self.more()
        line, self.unread = self.unread.split(b"\r\n", 1)
        return line

    def exactly(self, length):
        while len(self.unread) < length:
            self.more()
        found, self.unread = self.unread[:length], self.unread[length:]
        return found

    def send(self, data):
        try:
            self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)
        except OSError as error:
            raise Lost(str(error)) from None

    def reply(self, body=b"", status="200 OK", fields=""):
        body = body.encode() if isinstance(body, str) else body
        self.send(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{fields}\r\n".encode() + body)

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()


def field(head, name):
    for line in head.split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name:
            return value.strip()
    return None


def path(head):
    return head.split(" ", 2)[1]


class Instance:
    """Listens at a port of its own until closed. `serve(peer, instance)` handles a connection; by default each request is
    read whole and answered with the instance's id."""

    def __init__(self, identity, serve=None, port=0):
        self.identity, self.serve = identity, serve or each(lambda peer, head, body: peer.reply(self.identity))
        self.lock = threading.Lock()
        self.connections, self.requests, self.open = 0, [], set()
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", port))
        self.listener.listen(1024)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                peer = Peer(sock, self.connections)
                self.connections += 1
                self.open.add(peer)
            threading.Thread(target=self.handle, args=(peer,), daemon=True).start()

    def handle(self, peer):
        try:
            self.serve(peer, self)
        except (Lost, OSError, ValueError):
            pass
        finally:
            peer.sock.close()
            with self.lock:
                self.open.discard(peer)

    def note(self, head, body):
        with self.lock:
            self.requests.append((head, body))

    def count(self):
        with self.lock:
            return len(self.requests)

    def close(self):
        """The process ends: its listener, then its connections."""
        # Shut down first: a thread in accept() holds the listening socket open.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.lock:
            peers = list(self.open)
        for peer in peers:
            try:
                peer.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.close()
        except OSError:
            pass


def each(answer):
    """Serves request after request: reads one whole, notes it, and lets `answer(peer, head, body)` reply. `/who` is always
    answered with the instance's id, which is how a test learns that the gateway has it."""

    def serve(peer, instance):
        while True:
            head = peer.head()
            body = peer.body(head)
            if path(head) == "/who":
                peer.reply(instance.identity)
            else:
                instance.note(head, body)
                answer(peer, head, body)
            peer.served += 1
            peer.idle_since = time.monotonic()

    return serve


def nginx(folder, body=500_000):
    """Two instances, `a` and `b`, that are nginx: fast, and in no process that measures. `/who` is answered with the id, everything
    else with a body of this size. Returns what a gateway has to know of them."""
    (folder.path / "large").write_bytes(b"x" * body)
    known = [("a", free_port()), ("b", free_port())]
    temps = " ".join(f"{kind}_temp_path {folder.path}/instance-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    # nginx refuses a POST to a file before it reads its body; a way around by itself has the body read first.
    servers = "\n".join(f'''server {{ listen 127.0.0.1:{port} backlog=4096; root {folder.path}; location = /who {{ return 200 "{name}"; }}
 location / {{ rewrite ^ /large break; error_page 405 = @post; }}
 location @post {{ rewrite ^ /large break; proxy_method GET; proxy_pass_request_body off; proxy_set_header Content-Length ""; proxy_pass http://127.0.0.1:{port}; }} }}'''
                        for name, port in known)
    path = folder.path / "instances.conf"
    path.write_text(f"""{"user root; " if os.getuid() == 0 else ""}worker_processes 1; daemon off; error_log {folder.path}/instances-error.log; pid {folder.path}/instances.pid;
events {{ worker_connections 8192; }}
http {{ access_log off; tcp_nodelay on; keepalive_requests 1000000; client_max_body_size 0; {temps}
{servers}
}}
""")
    folder.start("instances", ["nginx", "-c", path], env={**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin"})
    return known
