"""slowhttptest, a real tool that holds servers' connections with slow requests and slow reading, and honest clients beside it."""

import pathlib
import shutil
import subprocess
import time

from .node import HOST
from .wire import Honest

CONNECTIONS, RATE = 400, 200
ATTACKS = {
    "slow heads": ["-H", "-i", "1"],
    "slow bodies": ["-B", "-i", "1", "-s", "8192"],
    "slow reading": ["-X", "-w", "1", "-y", "2", "-n", "5", "-z", "1", "-k", "3"],
    "ranges": ["-R"],
}
# Our time limits, so that each attack is over within its run.
LIMITS = {"header_timeout": "2s", "body_timeout": "2s", "send_timeout": "2s", "client_idle": "2s", "min_request_rate": 500,
          "min_response_rate": 500, "rate_grace": "1s"}
# The tool resolves the host that it names, so the service has it too.
HOSTS = HOST, "localhost"


def cpu(pid):
    """Seconds that a process and its children have used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    return (int(fields[11]) + int(fields[12])) / 100 + sum(map(cpu, map(int, children)))


class Attack:
    """One attack on a proxy for so many seconds. Honest requests go to it (`honest`) and past it to an instance (`direct`): what those
    wait for, too, is the machine."""

    def __init__(self, folder, name, proxy, instance, seconds, each=lambda: None):
        if not shutil.which("slowhttptest"):
            raise SystemExit("no slowhttptest; tests/components installs it")
        address, process = proxy
        method = "POST" if "-B" in ATTACKS[name] else "GET"
        command = ["slowhttptest", *ATTACKS[name], "-c", CONNECTIONS, "-r", RATE, "-l", seconds, "-p", "3", "-t", method,
                   "-u", f"http://localhost:{address[1]}/"]
        before = cpu(process.pid)
        tool = folder.start("slowhttptest", command, stdin=subprocess.PIPE)
        self.honest, self.direct = Honest(address, HOST, 0.01), Honest(instance, HOST, 0.01)
        start = time.monotonic()
        while time.monotonic() < start + seconds - 0.5 and tool.poll() is None:
            each()
            time.sleep(0.1)
        self.of_tool = cpu(tool.pid) if tool.poll() is None else 0.0
        self.of_proxy = cpu(process.pid) - before
        tool.kill()
        tool.wait()
        self.honest.stop()
        self.direct.stop()

    def __str__(self):
        return (f"{self.honest.sent} honest requests, {len(self.honest.failed)} failed, slowest {self.honest.slowest * 1000:.0f} ms, p99 {self.honest.p99() * 1000:.0f} ms; "
                f"past the proxy {self.direct.slowest * 1000:.0f} and {self.direct.p99() * 1000:.0f} ms; CPU of the tool {self.of_tool:.1f} s, of the proxy {self.of_proxy:.1f} s")
