"""What the client in its namespace saw."""

import collections
import contextlib
import json
import pathlib
import subprocess
import sys
import threading
import time

from . import lab

ASKER = pathlib.Path(__file__).resolve().parent / "asker.py"


class Client:
    def __init__(self, rig, nodes, name):
        self.nodes, self.newest, self.changes = nodes, {}, []
        self.sent = self.failed = 0
        self.failures = []
        # When a request was sent, and who answered it, of the last ones.
        self.answered = collections.deque(maxlen=1000)
        self.news = threading.Condition()
        where = [f"{node}={address}" for node, address in nodes.items()]
        command = rig.net.command("client", sys.executable, str(ASKER), name, *map(str, rig.REQUESTS), *where)
        with lab.unbroken():
            self.process = lab.spawn(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
            rig.stack.callback(self.stop)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            it = json.loads(line)
            with self.news:
                if "node" in it:
                    self.newest[it["node"]] = it["answer"]
                    self.changes.append((it["at"], it["node"], it["answer"]))
                    self.news.notify_all()
                else:
                    self.sent += it["sent"]
                    self.failed += it["failed"]
                    if it["failed"]:
                        self.failures.append(it["at"])
                    elif it["by"]:
                        self.answered.append((it["at"], it["by"]))

    def stop(self):
        self.process.kill()
        self.process.wait()

    def answers(self):
        with self.news:
            return {self.newest.get(node) for node in self.nodes}

    def changes_since(self, start):
        with self.news:
            return [it for it in self.changes if it[0] >= start]

    def flips_since(self, start, before):
        """Changes from one answer to another, and how often none came in time: that is no change of mind."""
        newest, flips, unanswered = dict(before), [], 0
        for at, node, answer in self.changes_since(start):
            if answer.startswith("none"):
                unanswered += 1
            elif answer != newest.get(node):
                flips.append((round(at - start, 3), node, newest.get(node), answer))
                newest[node] = answer
        return flips, unanswered

    def changes_within(self, start, seconds):
        time.sleep(max(0, start + seconds - time.monotonic()))
        return self.changes_since(start)

    def until(self, fits, start, within):
        """When the later of the nodes first answered as wanted, if all do in the end; None if one does not in time."""
        with self.news:
            if not self.news.wait_for(lambda: all(fits(self.newest.get(node)) for node in self.nodes),
                                      start + within - time.monotonic()):
                return None
            first = {}
            for at, node, answer in self.changes:
                if at >= start and fits(answer):
                    first.setdefault(node, at)
            return max(first.values(), default=start)

    def relapses(self, fits, start):
        """Changes to an answer that does not fit."""
        return [it for it in self.changes_since(start) if not fits(it[2]) and not it[2].startswith("none")]

    def failing_until(self, start, end):
        """When the last request was sent that failed, of those sent between these moments; the first moment if none did."""
        with self.news:
            return max((at for at in self.failures if start <= at <= end), default=start)

    def busiest(self, names, seconds=2):
        """The one of these that answered most requests of the last seconds."""
        with self.news:
            since = time.monotonic() - seconds
            counts = collections.Counter(by for at, by in self.answered if at >= since and by in names)
        if not counts:
            raise RuntimeError(f"none of {names} has answered a request in {seconds} s")
        return counts.most_common(1)[0][0]

    @contextlib.contextmanager
    def counted(self):
        """Requests that were sent, and that failed, meanwhile."""
        counts = {}
        with self.news:
            before = self.sent, self.failed
        try:
            yield counts
        finally:
            with self.news:
                counts.update(sent=self.sent - before[0], failed=self.failed - before[1])
