"""F4: a gateway that is stopped under load loses no request.

Clients keep their connections and send POSTs, which nobody may repeat for them. They do what a load balancer makes of two
gateways: new connections go to the first while its /readyz says so, then to the second. A request counts as lost when it was
written and no whole answer came.
"""

import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time

from .node import HOST, WORKSPACE, Folder, Node, documents, eventually, spawn
from .wire import exchange, get

CLIENTS = 40
REQUEST = f"POST /count HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\nhello".encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def serve():
    """The instance: a process of its own, one loop over all connections. It answers each request that is whole."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    print(listener.getsockname()[1], flush=True)
    poll, open_ = select.epoll(), {}
    poll.register(listener.fileno(), select.EPOLLIN)
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                sock, _ = listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                open_[sock.fileno()] = [sock, b""]
                poll.register(sock.fileno(), select.EPOLLIN)
                continue
            sock, unread = open_[number]
            try:
                data = sock.recv(65536)
            except OSError:
                data = b""
            if not data:
                del open_[number]
                sock.close()
                continue
            unread += data
            answers = 0
            while b"\r\n\r\n" in unread:
                head, rest = unread.split(b"\r\n\r\n", 1)
                length = 5 if head.startswith(b"POST") else 0
                if len(rest) < length:
                    break
                unread = rest[length:]
                answers += 1
            open_[number][1] = unread
            if answers:
                sock.sendall(ANSWER * answers)


class Client:
    """One client; a state machine for the loop below."""

    def __init__(self):
        self.sock, self.unread, self.waiting, self.to = None, b"", False, None


class Load:
    """All clients in one loop, in a process of their own. Prints what came of it as JSON when it is told to stop."""

    def __init__(self, first, second, wanted):
        self.addresses, self.current, self.wanted = [first, second], 0, wanted
        self.done = self.lost = self.bad = self.closed = self.refused = 0
        self.why = {}
        self.poll, self.by = select.epoll(), {}

    def connect(self, client):
        while True:
            sock = socket.socket()
            try:
                sock.connect(self.addresses[self.current])
                break
            except OSError:
                # Nothing was sent: a balancer takes the other one.
                sock.close()
                self.refused += 1
                try:
                    sock = socket.socket()
                    sock.connect(self.addresses[1])
                    break
                except OSError:
                    time.sleep(0.01)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        client.sock, client.unread = sock, b""
        self.by[sock.fileno()] = client
        self.poll.register(sock.fileno(), select.EPOLLIN)

    def drop(self, client):
        if client.sock:
            del self.by[client.sock.fileno()]
            client.sock.close()
            client.sock = None

    def ask(self, client):
        if client.sock is None:
            self.connect(client)
        else:
            # The gateway may have closed an idle connection: nothing was sent on it then.
            try:
                if client.sock.recv(1, socket.MSG_PEEK) == b"":
                    self.drop(client)
                    self.closed += 1
                    self.connect(client)
            except BlockingIOError:
                pass
            except OSError:
                self.drop(client)
                self.closed += 1
                self.connect(client)
        try:
            client.sock.sendall(REQUEST)
        except OSError as error:
            self.fail(client, f"while writing: {errno.errorcode.get(error.errno)}")
            return
        client.waiting = True

    def fail(self, client, why):
        self.lost += 1
        self.why[why] = self.why.get(why, 0) + 1
        self.drop(client)
        client.waiting = False

    def read(self, client):
        try:
            data = client.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            data, reason = b"", errno.errorcode.get(error.errno)
        else:
            reason = "closed"
        if not data:
            if client.waiting:
                self.fail(client, f"{reason} before an answer" if not client.unread else f"{reason} in an answer")
            else:
                self.drop(client)
                self.closed += 1
            return
        client.unread += data
        head, found, rest = client.unread.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        at = lower.find(b"content-length:")
        length = int(lower[at + 15:].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(rest) < length:
            return
        client.unread, client.waiting = rest[length:], False
        self.done += 1
        if not head.startswith(b"HTTP/1.1 200"):
            self.bad += 1
            line = head.split(b"\r\n")[0].decode()
            self.why[line] = self.why.get(line, 0) + 1
        if b"connection: close" in lower:
            self.drop(client)
            self.closed += 1

    def run(self, commands):
        clients = [Client() for _ in range(CLIENTS)]
        stopping = False
        while not stopping or any(it.waiting for it in clients):
            if select.select([commands], [], [], 0)[0]:
                line = commands.readline().strip()
                if line == "second":
                    self.current = 1
                elif line == "count":
                    print(self.done, flush=True)
                else:
                    stopping = True
            for client in clients:
                if not client.waiting and not stopping:
                    self.ask(client)
            for number, _ in self.poll.poll(1):
                client = self.by.get(number)
                if client:
                    self.read(client)
        print(json.dumps({"done": self.done, "lost": self.lost, "bad": self.bad, "closed": self.closed, "why": self.why}), flush=True)


def part(*arguments, **options):
    """This file again, as a process of its own."""
    program = "import sys; sys.dont_write_bytecode = True; sys.path.insert(0, sys.argv.pop(1)); from parts import stopping; stopping.main()"
    folder = str(WORKSPACE / "tests/gateway")
    return spawn([sys.executable, "-c", program, folder, *map(str, arguments)], stdout=subprocess.PIPE, text=True, bufsize=1, **options)


def main():
    if sys.argv[1] == "serve":
        serve()
    else:
        first, second = (("127.0.0.1", int(it)) for it in sys.argv[2:4])
        # Unbuffered, so that select tells the truth.
        Load(first, second, 0).run(os.fdopen(0, "r", 1))


def one_stop(engine, folder, number, wanted):
    """Starts a gateway, stops it in the middle of the load, and returns what came of the load."""
    settings = {"lameduck": "1s", "shutdown_deadline": "10s"}
    first = Node(folder, f"first-{number}", engine=engine, settings=settings).start().ready()
    eventually("the first gateway answers", lambda: (it := exchange(first.address, get("/", HOST))) and it.status == 200)
    load = part("load", first.port, engine.port, stdin=subprocess.PIPE)

    def done():
        load.stdin.write("count\n")
        return int(load.stdout.readline())

    eventually("the first half", lambda: done() >= wanted / 2, 120, 0.02)
    first.signal(signal.SIGTERM)
    threading.Thread(target=follow_readyz, args=(first, load), daemon=True).start()
    first.process.wait(60)
    second_half = done() + wanted / 10
    eventually("the second half", lambda: done() >= max(wanted, second_half), 120, 0.02)
    load.stdin.write("stop\n")
    report = json.loads(load.stdout.readline())
    load.wait(10)
    report["status"] = first.process.returncode
    return report


def follow_readyz(node, load):
    """The balancer: its checks are quick, but not at once."""
    while node.is_ready():
        time.sleep(0.1)
    try:
        load.stdin.write("second\n")
    except (OSError, ValueError):
        pass


def stopping_under_load_loses_no_request(full):
    each, stops = (25_000, 40) if full else (6_000, 3)
    total = {"done": 0, "lost": 0, "bad": 0, "closed": 0}
    why = {}
    with Folder() as folder:
        instance = part("serve")
        folder.processes.append(instance)
        port = int(instance.stdout.readline())
        # The second gateway has engine and control, and stays.
        engine = Node(folder, "second").start()
        engine.apply(documents())
        engine.register("web", "a", port)
        engine.ready()
        eventually("the second gateway answers", lambda: (it := exchange(engine.address, get("/", HOST))) and it.status == 200)
        for number in range(stops):
            report = one_stop(engine, folder, number, each)
            for key in total:
                total[key] += report[key]
            for key, count in report["why"].items():
                why[key] = why.get(key, 0) + count
            assert report["status"] == 0, f"the gateway ended with {report['status']}"
        print(f"{total['lost']} lost, {total['bad']} not 200, of {total['done']} POSTs in {stops} stops; {total['closed']} connections ended in between")
        assert total["lost"] == 0 and total["bad"] == 0, f"{total} {why}"


SCENARIOS = [stopping_under_load_loses_no_request]
