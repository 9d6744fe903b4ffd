"""What the gateway says when it cannot serve a request: the status, the reason in the body, the line in the log and the count, of each
way to fail that a process can be brought to; and the files that replace its texts."""

import collections
import html
import json
import signal
import socket
import threading

from .instances import Instance, each
from .node import HOST, Folder, Node, await_instances, documents, eventually, free_port, gateway
from .wire import Connection, exchange, get

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
PROBLEM = "application/problem+json"
LIMITS = {"response_timeout": "400ms", "connect_timeout": "300ms"}


def host_of(service):
    return f"{service}.example.com"


def to(service, fields="", path="/x"):
    return get(path, host_of(service)).replace("\r\n\r\n", f"\r\n{fields}\r\n")


class Asking:
    """Requests to one gateway. Of its answers from 500 on, how many there were of each reason is kept."""

    def __init__(self, node):
        self.node, self.seen = node, collections.Counter()

    def ask(self, request, accept=PROBLEM):
        answer = exchange(self.node.address, request.replace("\r\n\r\n", f"\r\nAccept: {accept}\r\n\r\n", 1))
        assert answer, f"no answer to {request!r}"
        return answer

    def check(self, answer, service, status, word, sentence):
        """An answer for programs, and the line of the log about it."""
        assert answer.status == status and answer.field("content-type") == PROBLEM, f"{service}: {answer}"
        self.seen[word] += 1
        problem, identity = json.loads(answer.body), answer.field("x-request-id")
        assert (problem["status"], problem["reason"], problem["instance"]) == (status, word, identity), f"{service}: {problem}, of {identity}"
        assert problem["type"].endswith(f":{word}") and problem["detail"].startswith(sentence), f"{service}: {problem}"
        line = eventually(f"a line about {service or word}", lambda: line_about(self.node, identity), 5)
        parts = (" WARN ", f'reason="{word}"', f"status={status}", f'service="{service}"')
        assert all(it in line for it in parts), f"{parts} are not all in {line}"
        return problem

    def check_page(self, answer, status, word, problem, sentence):
        """The same answer for a browser."""
        self.seen[word] += 1
        if word in UNREAD:
            assert (answer.status, answer.field("content-type")) == (status, PROBLEM), f"{word}: {answer}"
            return
        assert (answer.status, answer.field("content-type")) == (status, "text/html; charset=utf-8"), f"{word}: {answer}"
        text = html.unescape(answer.body.decode())
        assert text.lower().startswith("<!doctype html") and problem["title"] in text and sentence in text, text


def line_about(node, identity):
    """The line of the log at its default level about a request that failed."""
    return next((it for it in node.log().splitlines() if "a request failed" in it and identity in it), None)


def is_silent(peer, head, body):
    """Until the gateway ends the connection."""
    while True:
        peer.more()


def fails_by_itself(peer, head, body):
    peer.reply("out of order", "500 Internal Server Error")


class Full:
    """A listener whose queue is full: a connection to it is neither made nor refused."""

    def __enter__(self):
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.port = self.listener.getsockname()[1]
        self.waiting = [socket.socket() for _ in range(4)]
        for it in self.waiting:
            it.setblocking(False)
            it.connect_ex(self.listener.getsockname())
        return self

    def __exit__(self, *_):
        for it in (self.listener, *self.waiting):
            it.close()


class Busy(Instance):
    """Answers when it is told to."""

    def __init__(self, identity):
        self.released = threading.Event()
        super().__init__(identity, each(self.answer))

    def answer(self, peer, head, body):
        self.released.wait(20)
        peer.reply("late")


class TakesNothing(Instance):
    """Reads the head of a request and no body."""

    def __init__(self, identity):
        self.released = threading.Event()
        super().__init__(identity, self.take)

    def take(self, peer, _):
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.head()
        self.released.wait(20)


def in_the_clear(peer, instance):
    """What it is asked for over TLS."""
    peer.more()
    peer.reply("hello", "400 Bad Request")


# By service: what its instance does with a request, and what then is the status, the word and the sentence.
ILL = {
    "resets": (lambda peer, head, body: peer.reset(), 502, "reset", "resets did not answer: the connection was reset or closed before its answer"),
    "ends": (lambda peer, head, body: peer.sock.shutdown(socket.SHUT_RDWR), 502, "reset",
             "ends did not answer: the connection was reset or closed before its answer"),
    "hangs": (is_silent, 504, "first_byte_timeout", "hangs timed out: it did not answer in time"),
    "garbage": (lambda peer, head, body: peer.send("what do you want?\r\n\r\n"), 502, "invalid_answer", "garbage sent an invalid answer"),
    "two-lengths": (lambda peer, head, body: peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), 502, "invalid_answer",
                    "two-lengths sent an invalid answer"),
    "oversized": (lambda peer, head, body: peer.send(f"HTTP/1.1 200 OK\r\nX-Large: {'x' * 100_000}\r\n\r\n"), 502, "oversized_answer",
                  "oversized sent an oversized answer: its head is larger than allowed"),
    "one-try": (is_silent, 504, "per_try_timeout", "one-try timed out: no attempt was answered in time"),
    "in-all": (is_silent, 504, "total_timeout", "in-all timed out: the request took longer than it may in all"),
}
# The same of services whose instance cannot be connected to, or is not there.
AWAY = {
    "refuses": (502, "connect_refused", "refuses could not be reached: the connection was refused"),
    "full": (504, "connect_timeout", "full could not be reached: connecting timed out"),
    "no-way": (502, "connect_failed", "no-way could not be reached: there is no way to its instance"),
    "nameless": (502, "unresolved", "nameless could not be reached: the name of its instance could not be resolved"),
    "secret": (502, "tls_to_instance", "secret could not be reached: no TLS connection to its instance could be made"),
    "nobody": (503, "no_instance", "no instance of nobody can be used"),
}
# Requests that no instance is asked for.
REFUSED = [
    (to("well", "Waypost-Hops: 4\r\n"), 508, "loop", "the request came through too many gateways"),
    (f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n", 501, "not_implemented", "the request needs something that the gateway does not do"),
    (to("well").replace("HTTP/1.1", "HTTP/2.0"), 505, "version_not_supported", "the request's version of HTTP is not spoken here"),
]
# Of these, the gateway reads no more than the first line, so it does not know what the client wants to read.
UNREAD = {"not_implemented", "version_not_supported"}
ROUTES = f"""---
kind: Route
name: one-try
hosts: [{host_of('one-try')}]
to: [{{ service: one-try }}]
timeouts: {{ backend_request: 300ms }}
retry: {{ attempts: 0 }}
---
kind: Route
name: in-all
hosts: [{host_of('in-all')}]
to: [{{ service: in-all }}]
timeouts: {{ request: 300ms }}
---
kind: Route
name: queue
hosts: [{host_of('queue')}]
to: [{{ service: queue }}]
timeouts: {{ first_byte: 20s }}
---
kind: Route
name: busy
hosts: [{host_of('busy')}]
to: [{{ service: busy }}]
timeouts: {{ first_byte: 20s }}
"""
SETTINGS = {
    "secret": "tls: {}",
    "busy": "circuit_breaker: { requests: 1, pending: 0 }",
    "queue": "circuit_breaker: { requests: 1, pending: 1 }",
}


def every_5xx_has_its_reason(full):
    """In both forms, in the log at its default level, and in the metrics: as many as the clients have seen, and no more."""
    with Folder() as folder, Full() as queue, Instance("well", each(fails_by_itself)) as one, Busy("busy") as busy, TakesNothing("upload") as upload:
        secret = Instance("secret", in_the_clear)
        ill = {name: Instance(name, each(does)) for name, (does, *_) in ILL.items()}
        node = node_of(folder, {**{name: it.port for name, it in ill.items()}, "well": one.port, "busy": busy.port, "queue": busy.port,
                                "upload": upload.port, "refuses": free_port(), "full": queue.port, "secret": secret.port}, one.port)
        before = node.metrics()
        asking = Asking(node)
        cases = [(name, to(name), *expected) for name, (_, *expected) in ILL.items()]
        cases += [(name, to(name), *expected) for name, expected in AWAY.items()]
        cases += [("", *it) for it in REFUSED]
        for service, request, status, word, sentence in cases:
            problem = asking.check(asking.ask(request), service, status, word, sentence)
            asking.check_page(asking.ask(request, BROWSER), status, word, problem, sentence)
        crowded(asking, busy)
        not_taken(asking)
        # What an instance says itself is passed on as it is, and is no failure of the gateway.
        answer = asking.ask(to("well"))
        assert (answer.status, answer.body) == (500, b"out of order"), answer
        compare_counts(node, before, asking.seen)
        print(f"{asking.seen.total()} failures of {len(asking.seen)} reasons, all counted")
        busy.released.set()
        upload.released.set()
        for it in ill.values():
            it.close()


def node_of(folder, ports, first):
    """A gateway with a service for each of these, with the instance at that port, and a few whose address is none."""
    services = [("web", (HOST,)), *((it, (host_of(it),)) for it in (*ports, "no-way", "nameless", "nobody"))]
    text = documents(services, ROUTES)
    for name, more in SETTINGS.items():
        text = text.replace(f"kind: Service\nname: {name}\n", f"kind: Service\nname: {name}\n{more}\n")
    node = Node(folder, limits=LIMITS).start()
    node.apply(text)
    for name, port in ports.items():
        node.register(name, f"{name}-1", port)
    # There is no way to the address of everyone by TCP, on any machine.
    node.register("no-way", "no-way-1", 80, address="255.255.255.255")
    node.register("nameless", "nameless-1", 80, address="nameless.invalid")
    node.register("web", "well", first)
    node.ready()
    await_instances(node, [("well", first)])
    for name in [*ports, "no-way", "nameless"]:
        eventually(f"the gateway has the instance of {name}", lambda: f'service present service="{name}"' in node.log())
    return node


def crowded(asking, busy):
    """Two services with room for one request at a time, of which one has a queue of one. Who is in the queue waits in vain."""
    overloaded = {
        "circuit_open": "busy has as many requests in flight as it may have",
        "queue_full": "too many requests wait for queue already",
        "queue_timeout": "the request waited for queue as long as it may, and had no turn",
    }
    for service, words in (("busy", ["circuit_open"]), ("queue", ["queue_full", "queue_timeout"])):
        count = busy.count()
        first, *others = [Connection(asking.node.address) for _ in ("in flight", *words)]
        first.send(to(service))
        eventually(f"{service} is busy", lambda: busy.count() > count, every=0.005)
        for it in others:
            it.send(to(service, f"Accept: {PROBLEM}\r\n"))
        answers = [it.answer() for it in others]
        found = [json.loads(it.body)["reason"] for it in answers]
        assert sorted(found) == words, f"{service}: {found}"
        for word, answer in zip(found, answers):
            asking.check(answer, service, 503, word, overloaded[word])
            assert answer.field("retry-after") == "1", answer
        busy.released.set()
        assert first.answer().status == 200, "the one in flight was not served"
        busy.released.clear()


def not_taken(asking):
    """An instance that does not read what is uploaded."""
    piece = b"x" * 65536
    with Connection(asking.node.address) as connection:
        head = f"POST /x HTTP/1.1\r\nHost: {host_of('upload')}\r\nAccept: {PROBLEM}\r\nContent-Length: 100000000\r\n\r\n"
        connection.send(head)

        def send():
            while True:
                connection.sock.sendall(piece)

        threading.Thread(target=send, daemon=True).start()
        asking.check(connection.answer(), "upload", 504, "body_not_taken", "upload timed out: it did not take the request's body in time")


def compare_counts(node, before, seen):
    """Every failure is counted once, under its reason; every answer, under its status."""
    part = 'waypost_proxy_failures_total{reason="'

    def counted():
        grown = {name: int(value - before.get(name, 0)) for name, value in node.metrics().items()}
        return {name.split('"')[1]: value for name, value in grown.items() if name.startswith(part) and value}

    eventually(f"the failures by reason are {dict(seen)}", lambda: counted() == dict(seen), 5)
    name = 'waypost_proxy_responses_total{class="5xx"}'
    answers = node.metrics()[name] - before.get(name, 0)
    assert answers == seen.total() + 1, f"{answers} answers with 5xx are counted, {seen.total()} of the gateway and 1 of an instance were seen"


def texts_of_answers_are_read_again_on_sighup(full):
    """A file that cannot be used leaves the texts as they are, and the log says so."""
    with Folder() as folder, Instance("a") as one:
        problem, page = folder.path / "problem.json", folder.path / "page.html"
        problem.write_text('{"error": "{{reason}}", "code": {{status}}, "what": "{{detail}}"}')
        page.write_text("<p>Sorry: {{detail}}.</p>")
        node = gateway(folder, [("a", one.port)], settings={"answers": {"problem_file": str(problem), "page_file": str(page)}})

        def texts():
            request = get("/", "nobody.example.com")
            return [exchange(node.address, request.replace("\r\n\r\n", f"\r\nAccept: {it}\r\n\r\n")).body.decode() for it in (PROBLEM, BROWSER)]

        sentence = "no route leads to a service for this request"
        first = [f'{{"error": "no_route", "code": 404, "what": "{sentence}"}}', f"<p>Sorry: {sentence}.</p>"]
        eventually("the files are in use", lambda: texts() == first)
        problem.write_text('{"fault": "{{reason}}"}')
        page.write_text("<h1>{{status}}: {{title}}</h1>")
        node.signal(signal.SIGHUP)
        second = ['{"fault": "no_route"}', "<h1>404: No route</h1>"]
        eventually("the new files are in use", lambda: texts() == second)
        problem.write_text('{"ok": true}')
        page.write_text("<h1>{{weather}}</h1>")
        node.signal(signal.SIGHUP)
        line = eventually("the log says what is wrong", lambda: next((it for it in node.log().splitlines() if "{{weather}} is not known" in it), None))
        assert "ERROR" in line and "page_file: line 1" in line, line
        assert texts() == second, texts()
        assert node.metric("waypost_files_kept_total") >= 1


SCENARIOS = [every_5xx_has_its_reason, texts_of_answers_are_read_again_on_sighup]
