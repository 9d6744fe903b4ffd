"""HTTP/1.1 as bytes: a client that reads answers strictly and hides nothing."""

import re
import socket
import time


class Incomplete(Exception):
    """The connection ended, or nothing more came, in the middle of an answer. `seen` is what there was."""

    def __init__(self, why, seen=b""):
        super().__init__(f"{why}; seen: {seen[:200]!r}")
        self.why, self.seen = why, seen


class Answer:
    def __init__(self, head, body=b"", trailers=()):
        lines = head.decode("latin-1").split("\r\n")
        self.line = lines[0]
        found = re.fullmatch(r"HTTP/1\.[01] (\d{3}) ?(.*)", self.line)
        if not found:
            raise Incomplete("no status line", head)
        self.status, self.reason = int(found[1]), found[2]
        self.fields = [(name.lower(), value.strip()) for name, _, value in (it.partition(":") for it in lines[1:] if it)]
        self.body, self.trailers, self.interim = body, list(trailers), []

    def field(self, name):
        return next((value for key, value in self.fields if key == name), None)

    def all(self, name):
        return [value for key, value in self.fields if key == name]

    @property
    def closes(self):
        return "close" in (self.field("connection") or "").lower()

    def __repr__(self):
        return f"{self.line!r} {self.fields} {self.body[:200]!r}"


class Connection:
    """One connection; what it read and did not use stays in `unread`."""

    def __init__(self, address, patience=10.0, source=None):
        self.sock = socket.create_connection(address, patience, source_address=source)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(patience)
        self.unread = b""

    def send(self, data):
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)
        return self

    def more(self):
        try:
            data = self.sock.recv(65536)
        except TimeoutError:
            raise Incomplete("nothing more came", self.unread) from None
        except OSError as error:
            raise Incomplete(f"connection lost: {error.strerror}", self.unread) from None
        self.unread += data
        return len(data)

    def until(self, end):
        while end not in self.unread:
            if not self.more():
                raise Incomplete("the connection ended" + (" before anything came" if not self.unread else ""), self.unread)
        found, self.unread = self.unread.split(end, 1)
        return found

    def exactly(self, length):
        while len(self.unread) < length:
            if not self.more():
                raise Incomplete("the connection ended in a body", self.unread)
        found, self.unread = self.unread[:length], self.unread[length:]
        return found

    def answer(self, bodiless=False):
        """The next final answer, with the interim ones before it."""
        interim = []
        while True:
            answer = Answer(self.until(b"\r\n\r\n"))
            if answer.status >= 200 or answer.status == 101:
                break
            interim.append(answer)
        answer.interim = interim
        if bodiless or answer.status in (101, 204, 304):
            return answer
        if (answer.field("transfer-encoding") or "").lower() == "chunked":
            answer.body, answer.trailers = self.chunks()
        elif answer.field("content-length") is not None:
            answer.body = self.exactly(int(answer.field("content-length")))
        else:
            while self.more():
                pass
            answer.body, self.unread = self.unread, b""
        return answer

    def chunks(self):
        body = b""
        while True:
            size = int(self.until(b"\r\n").split(b";")[0], 16)
            if size == 0:
                trailers = []
                while line := self.until(b"\r\n"):
                    name, _, value = line.decode("latin-1").partition(":")
                    trailers.append((name.lower(), value.strip()))
                return body, trailers
            body += self.exactly(size)
            if self.exactly(2) != b"\r\n":
                raise Incomplete("a chunk without its end", body)

    def ask(self, request, bodiless=False):
        return self.send(request).answer(bodiless)

    def ended(self, patience=5.0):
        """True when the other side closes within this time and sends nothing more."""
        self.sock.settimeout(patience)
        try:
            return self.more() == 0
        except Incomplete as error:
            return error.why.startswith("connection lost")

    def close(self):
        self.sock.close()

    def reset(self):
        """Closes with a reset, as a process that is killed with unread data does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def exchange(address, request, patience=10.0):
    """One request on a connection of its own; None when there was no whole answer."""
    try:
        with Connection(address, patience) as connection:
            return connection.ask(request)
    except (OSError, Incomplete):
        return None


def get(path, host, close=True):
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n" + ("Connection: close\r\n" if close else "") + "\r\n"


class Honest:
    """Requests of a well-behaved client at a steady pace, each on a connection of its own, from a thread: who answered, what
    failed, how long the slowest took."""

    def __init__(self, address, host, every=0.05, path="/who", patience=10.0):
        import threading
        self.address, self.request, self.every, self.patience = address, get(path, host), every, patience
        self.by, self.failed, self.sent, self.slowest, self.took = {}, [], 0, 0.0, []
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.stopping.wait(self.every):
            start = time.monotonic()
            answer = exchange(self.address, self.request, self.patience)
            self.sent += 1
            self.took.append(time.monotonic() - start)
            self.slowest = max(self.slowest, self.took[-1])
            if answer is None or answer.status != 200:
                self.failed.append(answer.status if answer else "no answer")
            else:
                who = answer.body.decode(errors="replace")
                self.by[who] = self.by.get(who, 0) + 1

    def stop(self):
        self.stopping.set()
        self.thread.join(self.patience + 5)
        return self

    def p99(self):
        """Seconds."""
        return sorted(self.took)[len(self.took) * 99 // 100] if self.took else 0.0
