"""F3: readers that do not read, instances that stall, and a drain that neither may hold up."""

import re
import socket
import time

from .instances import Instance, each
from .node import HOST, Folder, eventually, gateway
from .wire import Connection, Honest, Incomplete, get

# How much memory of the process one such client may take, in kB: two buffers and what belongs to them.
MEMORY_PER_CLIENT = 256
PIECE = b"x" * 65536


def endless(peer, head, body):
    """An answer of 1 GiB, as fast as the other side takes it."""
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
    for _ in range(16384):
        peer.send(PIECE)


def unread(address, path="/"):
    """A client with a small window that asks and never reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(10)
    sock.connect(address)
    sock.sendall(get(path, HOST, close=False).encode())
    return sock


def is_cut(sock):
    """True once the gateway has ended the connection, without reading more than what tells that."""
    try:
        # An end behind unread octets shows in the state only.
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] not in (1,)
    except OSError:
        return True


def readers_that_do_not_read_are_cut_and_hold_little_memory(full):
    count = 400 if full else 40
    with Folder() as folder, Instance("a", each(endless)) as one, gateway_of(folder, [("a", one.port)], send_timeout="2s") as node:
        before = node.memory()
        clients = [unread(node.address) for _ in range(count)]
        eventually("all of them are being answered", lambda: one.count() == count)
        most, deadline = 0, time.monotonic() + 1
        while time.monotonic() < deadline:
            most = max(most, node.memory())
            time.sleep(0.05)
        each_kb = (most - before) / count
        print(f"{each_kb:.0f} kB for each of {count} clients that do not read")
        eventually("those who read nothing are cut", lambda: all(map(is_cut, clients)), 15)
        eventually("their instances' connections are closed, too", lambda: not one.open or all(it.served == 0 for it in one.open) and len(one.open) <= 2, 15)
        assert each_kb <= MEMORY_PER_CLIENT, f"{each_kb:.0f} kB of memory for each, at most {MEMORY_PER_CLIENT}"
        assert node.metric("waypost_proxy_ejections_total") == 0, "the instance is not to blame"


def a_slow_reader_that_keeps_the_rate_gets_everything(full):
    size = (8 if full else 1) * 1024 * 1024
    body = bytes(range(256)) * (size // 256)
    with Folder() as folder, Instance("a", each(lambda peer, head, got: peer.reply(body))) as one:
        with gateway_of(folder, [("a", one.port)], send_timeout="2s") as node, Connection(node.address, 10) as connection:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            connection.send(get("/", HOST, close=False))
            got = connection.until(b"\r\n\r\n") and connection.unread
            while len(got) < size:
                piece = connection.sock.recv(32768)
                assert piece, f"cut after {len(got)} of {size} octets"
                got += piece
                time.sleep(0.05)
            assert got == body


def an_instance_that_stalls_in_its_body_is_cut(full):
    def stalls(peer, head, body):
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbeginning")
        peer.more()

    with Folder() as folder, Instance("a", each(stalls)) as one, gateway_of(folder, [("a", one.port)], response_idle="2s") as node:
        with Connection(node.address, 15) as connection:
            connection.send(get("/", HOST, close=False))
            start = time.monotonic()
            try:
                answer = connection.answer()
            except Incomplete as error:
                assert "nothing more came" not in error.why, "nothing happened within 15 s"
            else:
                raise AssertionError(f"a stalled body came as whole: {answer}")
            took = time.monotonic() - start
            print(f"cut after {took:.1f} s")
            assert 1.5 < took < 10, f"after {took:.1f} s"
        eventually("its connection is closed", lambda: not any(it.served == 0 for it in one.open))
        assert_reason(node, ("stall", "idle", "timed out", "silent", "nothing more"))


def assert_reason(node, words):
    """The log says at its default level why."""
    eventually(f"a line of the log with one of {words}", lambda: any(it in node.log() for it in words), 5)


def assert_cut(node, reason, count):
    """The log names each request that was cut: its service, its instance, and its id, by which the access log has it."""
    lines = [it for it in node.log().splitlines() if f'reason="{reason}"' in it]
    assert all('service="web" instance="a"' in it for it in lines), lines
    found = {re.search(r" request=([-0-9a-f]{36}) ", it)[1] for it in lines}
    assert len(found) == len(lines) == count, f"{count} were cut, and the log names {len(found)} in {len(lines)} lines"


def a_drain_is_not_held_up_by_readers_that_do_not_read(full):
    settings = {"lameduck": "500ms", "shutdown_deadline": "3s"}
    with Folder() as folder, Instance("a", each(endless)) as one, gateway_of(folder, [("a", one.port)], settings, send_timeout="10m") as node:
        clients = [unread(node.address) for _ in range(5)]
        eventually("all of them are being answered", lambda: one.count() == len(clients))
        start = time.monotonic()
        node.signal(15)
        node.process.wait(30)
        took = time.monotonic() - start
        print(f"ended after {took:.1f} s with status {node.process.returncode}")
        assert took < 10, f"the end took {took:.1f} s"
        assert_cut(node, "cut_at_shutdown", len(clients))
        for it in clients:
            it.close()


def a_drain_of_an_instance_is_not_held_up_by_a_reader_that_does_not_read(full):
    """`waypost drain instance`: what nobody reads is cut after its send timeout, or at the drain's deadline, and the receipt comes."""
    for limits in ({"send_timeout": "2s"}, {"send_timeout": "10m", "drain_deadline": "2s"}):
        with Folder() as folder, Instance("a", each(endless)) as one, Instance("b") as two:
            node = gateway(folder, [("a", one.port), ("b", two.port)], limits=limits)
            clients = []
            while one.count() == 0:
                clients.append(unread(node.address))
                time.sleep(0.05)
            start = time.monotonic()
            done = node.cli("drain", "instance", "web", "a", "--wait", patience=25)
            took = time.monotonic() - start
            print(f"drained after {took:.1f} s")
            assert done.returncode == 0, done.stdout + done.stderr
            assert took < 20, f"the drain took {took:.1f} s"
            if "drain_deadline" in limits:
                told = [it for it in node.log().splitlines() if "requests in flight are cut" in it]
                assert len(told) == 1 and 'service="web" instance="a"' in told[0] and f"requests={one.count()}" in told[0], told
                assert_cut(node, "cut_at_drain", one.count())


def slow_clients_do_not_slow_others(full):
    """Clients that do not read, that do not write, and that send octet by octet, beside honest ones."""
    with Folder() as folder, Instance("a", each(lambda peer, head, body: endless(peer, head, body))) as one, Instance("b") as two:
        with gateway_of(folder, [("a", one.port), ("b", two.port)], send_timeout="60s") as node:
            bad = [unread(node.address) for _ in range(50)]
            for _ in range(50):
                sock = socket.create_connection(node.address)
                sock.sendall(b"GET / HT")
                bad.append(sock)
            for _ in range(20):
                sock = socket.create_connection(node.address)
                sock.sendall(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100\r\n\r\nx".encode())
                bad.append(sock)
            honest = Honest(node.address, HOST, 0.005, "/who")
            time.sleep(10 if full else 3)
            honest.stop()
            print(f"{honest.sent} honest requests, {len(honest.failed)} failed, slowest {honest.slowest * 1000:.0f} ms")
            assert not honest.failed, honest.failed[:5]
            assert honest.slowest < 1, f"the slowest took {honest.slowest:.2f} s"


class gateway_of:
    """A gateway with limits, as a context so that scenarios read from top to bottom."""

    def __init__(self, folder, instances, settings=None, **limits):
        self.arguments = folder, instances, settings, limits

    def __enter__(self):
        folder, instances, settings, limits = self.arguments
        return gateway(folder, instances, settings=settings, limits=limits)

    def __exit__(self, *_):
        pass


SCENARIOS = [
    readers_that_do_not_read_are_cut_and_hold_little_memory,
    a_slow_reader_that_keeps_the_rate_gets_everything,
    an_instance_that_stalls_in_its_body_is_cut,
    a_drain_is_not_held_up_by_readers_that_do_not_read,
    a_drain_of_an_instance_is_not_held_up_by_a_reader_that_does_not_read,
    slow_clients_do_not_slow_others,
]
