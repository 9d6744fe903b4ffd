"""Which instance gets a request: by weight, by the service's check, and by what an instance asks for itself."""

import collections
import threading
import time

from .instances import Instance, each, field, path
from .node import HOST, Folder, Node, await_instances, documents, eventually, gateway
from .wire import Connection, exchange, get


class Checked(Instance):
    """Says whether it is well at /healthz; everything else is answered with its id."""

    def __init__(self, identity):
        self.well, self.checks = True, 0
        super().__init__(identity, self.answer_all)

    def answer_all(self, peer, _):
        while True:
            head = peer.head()
            peer.body(head)
            if path(head) != "/healthz":
                self.note(head, b"")
                peer.reply(self.identity)
            elif field(head, "x-asks") == "gateway":
                self.checks += 1
                peer.reply("" if self.well else "no disk", "200 OK" if self.well else "500 Internal Server Error")
            else:
                peer.reply("who asks?", "400 Bad Request")


CHECK = """---
kind: Check
name: healthz
type: http
path: /healthz
headers: { x-asks: gateway }
interval: 100ms
timeout: 100ms
fall: 2
rise: 2
"""


def who(node, target="/who"):
    answer = exchange(node.address, get(target, HOST))
    assert answer and answer.status == 200, answer
    return answer.body.decode()


def checked_by_its_service(folder, one, two):
    node = Node(folder).start()
    node.apply(documents(more=CHECK).replace(f"hosts: [{HOST}]\n", f"hosts: [{HOST}]\ncheck: healthz\n"))
    for it in (one, two):
        node.register("web", it.identity, it.port)
    node.ready()
    await_instances(node, [("a", one.port), ("b", two.port)])
    return node


def an_instance_whose_check_fails_gets_no_request(full):
    """Its check alone says that it should get none; then it recovers. No prober is there: gateways dial by the check of a service
    themselves. Nobody asks for anything while the check begins to fail."""
    with Folder() as folder, Checked("a") as one, Checked("b") as two:
        node = checked_by_its_service(folder, one, two)
        eventually("both are checked", lambda: one.checks and two.checks)
        for times in range(1, 4 if full else 2):
            two.well = False
            # The first failure is confirmed soon; until then it gets requests, and serves them.
            eventually("the log says that b is down", lambda: node.log().count("instance is down: its check fails") == times, 10)
            eventually("b gets nothing", lambda: [who(node) for _ in range(10)] == ["a"] * 10, 2)
            count, checks = two.count(), two.checks
            assert {who(node) for _ in range(200)} == {"a"}, "an instance that is down got a request"
            assert two.count() == count
            eventually("it is checked all the time", lambda: two.checks > checks)
            two.well = True
            eventually("b gets requests again", lambda: who(node) == "b", 10)
            eventually("the log says that it answers", lambda: node.log().count("instance answers again and gets requests") == times, 5)
            found = collections.Counter(who(node) for _ in range(200))
            assert found["b"] > 20, found


def an_instance_whose_check_fails_under_traffic_gets_no_request(full):
    """The same, while it serves request after request well, as one does that cannot reach its database, or that is about to stop."""
    with Folder() as folder, Checked("a") as one, Checked("b") as two:
        node = checked_by_its_service(folder, one, two)
        two.well = False
        down = lambda: who(node) and "instance is down: its check fails" in node.log()  # noqa: E731
        eventually("b is checked and found down", down, 10, 0.005)
        count = two.count()
        assert {who(node) for _ in range(200)} == {"a"} and two.count() == count, "an instance that is down got a request"


def an_instance_that_fails_at_once_does_not_get_all_requests(full):
    """One answers with 503 at once, the other well after 20 ms: being quick at that does not make it the better one."""
    def well(peer, instance):
        while True:
            head = peer.head()
            peer.body(head)
            instance.note(head, b"")
            time.sleep(0.02)
            peer.reply(instance.identity)

    with Folder() as folder, Instance("a", each(lambda peer, head, body: peer.reply("no", "503 Service Unavailable"))) as one, Instance("b", well) as two:
        node = gateway(folder, [("a", one.port), ("b", two.port)])
        found = collections.Counter(exchange(node.address, get(f"/{number}", HOST)).status for number in range(500))
        print(f"{found[503]} of {found.total()} requests failed")
        assert found[503] < 100, f"{found[503]} of {found.total()} requests failed, although an instance is well"


def weights_hold_with_three_clients(full):
    """Weights of the registry of 10 to 1, and fewer clients than weights: what is picked by requests in flight alone would give the light
    instance a quarter and more."""
    requests = 12_000 if full else 1200

    def answer(peer, head, body):
        # Longer than this machine makes anyone wait by itself, because latency counts, too.
        time.sleep(0.015)
        peer.reply("well")

    with Folder() as folder, Instance("heavy", each(answer)) as heavy, Instance("light", each(answer)) as light:
        node = Node(folder).start()
        node.apply(documents())
        node.register("web", "heavy", heavy.port, weight=10)
        node.register("web", "light", light.port, weight=1)
        node.ready()
        await_instances(node, [("heavy", heavy.port), ("light", light.port)])

        def client(failed):
            with Connection(node.address) as connection:
                for _ in range(requests // 3):
                    if connection.ask(get("/x", HOST, close=False)).status != 200:
                        failed.append(1)

        failed = []
        clients = [threading.Thread(target=client, args=(failed,)) for _ in range(3)]
        for it in clients:
            it.start()
        for it in clients:
            it.join(60)
        share = heavy.count() / max(light.count(), 1)
        print(f"{heavy.count()} and {light.count()} requests: {share:.1f} to 1")
        assert not failed and heavy.count() + light.count() == requests
        assert 7.5 <= share <= 12.5, f"{heavy.count()} and {light.count()} requests: {share:.1f} to 1 instead of 10 to 1"


def retry_after_of_an_instance_is_obeyed(full):
    """What asks to be left alone for some seconds is, as long as another takes its requests; then it gets them again."""
    rest = 2
    busy, at = [True], []

    def answers(peer, head, body):
        at.append(time.monotonic())
        if busy[0]:
            peer.reply("not now", "503 Service Unavailable", f"Retry-After: {rest}\r\n")
        else:
            peer.reply("a")

    with Folder() as folder, Instance("a", each(answers)) as one, Instance("b", each(lambda peer, head, body: peer.reply("b"))) as two:
        # Failures alone would eject it only much later, and both are asked from the beginning.
        node = Node(folder, limits={"eject_after": 100}).start()
        node.apply(documents().replace(f"hosts: [{HOST}]\n", f"hosts: [{HOST}]\nbalance: {{ type: round_robin }}\n"))
        for it in (one, two):
            node.register("web", it.identity, it.port)
        node.ready()
        await_instances(node, [("a", one.port), ("b", two.port)])
        ask = lambda: exchange(node.address, get("/x", HOST))  # noqa: E731
        # Until what fails there is known to be answered elsewhere, the fault may be the request's.
        before = []
        while at == [] or time.monotonic() - at[-1] < 0.5:
            before.append(ask().status)
            assert len(at) <= 3, f"it was asked {len(at)} times within {at[-1] - at[0]:.2f} s"
        busy[0], told = False, at[-1]
        asked = len(at)
        during = []
        while len(at) == asked:
            during.append(ask())
            assert time.monotonic() - told < rest + 10, "it gets no requests any more"
        after = at[asked] - told
        print(f"{asked} answers with 503, then {len(before) - asked + len(during)} requests at the other, and again after {after:.1f} s")
        assert before.count(503) == asked and all(it.status == 200 for it in during), f"{before} {during}"
        assert rest - 0.1 <= after <= rest + 2, f"it was asked again after {after:.2f} s"


def a_repetition_waits_as_long_as_the_instance_says(full):
    """There is no other instance, and the route repeats what was answered with 503: not before the time of the Retry-After is over."""
    at = []

    def answers(peer, head, body):
        at.append(time.monotonic())
        if len(at) % 2:
            peer.reply("not now", "503 Service Unavailable", "Retry-After: 1\r\n")
        else:
            peer.reply("now")

    route = f"---\nkind: Route\nname: again\nhosts: [{HOST}]\nto: [{{ service: web }}]\nretry: {{ on: [gateway_error] }}\n"
    with Folder() as folder, Instance("a", each(answers)) as one:
        node = gateway(folder, [("a", one.port)], more=route)
        for method, status in (("GET", 200), ("POST", 503)):
            del at[:]
            answer = exchange(node.address, get("/x", HOST).replace("GET", method, 1))
            assert answer and answer.status == status, f"{method}: {answer}"
            assert len(at) == (2 if status == 200 else 1), f"{method}: asked {len(at)} times"
            if status == 200:
                print(f"asked again after {at[1] - at[0]:.2f} s")
                assert 1 <= at[1] - at[0] < 3, f"asked again after {at[1] - at[0]:.2f} s"
            else:
                assert answer.field("retry-after") == "1", answer


SCENARIOS = [
    an_instance_whose_check_fails_gets_no_request,
    an_instance_whose_check_fails_under_traffic_gets_no_request,
    an_instance_that_fails_at_once_does_not_get_all_requests,
    weights_hold_with_three_clients,
    retry_after_of_an_instance_is_obeyed,
    a_repetition_waits_as_long_as_the_instance_says,
]
