"""What the client in its namespace saw."""

import contextlib
import json
import pathlib
import subprocess
import threading
import time

ASKER = pathlib.Path(__file__).resolve().parent / "asker.py"


class Client:
    def __init__(self, rig, nodes, name):
        self.nodes, self.newest, self.changes = nodes, {}, []
        self.sent = self.failed = 0
        self.news = threading.Condition()
        where = [f"{node}={address}" for node, address in nodes.items()]
        command = rig.net.command("client", "python3", str(ASKER), name, *where)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
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

    def stop(self):
        self.process.kill()
        self.process.wait()

    def answers(self):
        with self.news:
            return {self.newest.get(node) for node in self.nodes}

    def changes_since(self, start):
        with self.news:
            return [it for it in self.changes if it[0] >= start]

    def changes_within(self, start, seconds):
        time.sleep(max(0, start + seconds - time.monotonic()))
        return self.changes_since(start)

    def until(self, fits, start, within):
        """When the last of the nodes began to answer as wanted; None if one does not in time."""
        with self.news:
            done = lambda: all(fits(self.newest.get(node)) for node in self.nodes)
            if not self.news.wait_for(done, start + within - time.monotonic()):
                return None
            first = {}
            for at, node, answer in self.changes:
                if at >= start and fits(answer):
                    first.setdefault(node, at)
            return max(first.values(), default=start)

    @contextlib.contextmanager
    def counted(self):
        """Requests that were sent, and that failed, meanwhile."""
        counts = {}
        with self.news:
            before = self.sent, self.failed
        yield counts
        with self.news:
            counts.update(sent=self.sent - before[0], failed=self.failed - before[1])
