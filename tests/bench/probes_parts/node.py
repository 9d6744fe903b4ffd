"""The processes of the bench: control with the embedded engine, a prober of its own, what it probes. All on loopback."""

import ctypes
import mmap
import os
import pathlib
import signal
import socket
import struct
import subprocess
import tempfile
import time
import urllib.request

PARTS = pathlib.Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")
SITES = 10
# Addresses of a site in one cluster.
TOGETHER = 100
SECONDS = 65536
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def address(number):
    """Of a target; every one is this machine's."""
    block, rest = divmod(number, 250 * 250)
    return f"127.{1 + block}.{rest // 250}.{1 + rest % 250}"


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def eventually(what, holds, patience, every=0.2):
    start = time.monotonic()
    while not holds():
        if time.monotonic() > start + patience:
            raise RuntimeError(f"waited {patience} s for {what}")
        time.sleep(every)
    return time.monotonic() - start


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def megabytes(pid, what):
    """Of memory: VmHWM, the most there ever was, or VmRSS, now."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no {what} of {pid}")


def scrape(url):
    """A node's metrics by name and labels: `waypost_prober_starts_total{why="interval"}`."""
    found = {}
    with urllib.request.urlopen(url, timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                found[name] = float(value)
    return found


class Target:
    """What is probed, and how many connections each second brought."""

    def __init__(self, bench, kind):
        self.bench, self.kind, self.port, self.process = bench, kind, free_port(), None
        self.program = bench.folder / "target"
        if not self.program.exists():
            subprocess.run(["cc", "-O2", "-o", self.program, PARTS / "target.c"], check=True)
        self.counts = bench.folder / f"{kind}-counts"
        self.start()
        eventually("the target", lambda: self.counts.exists() and self.counts.stat().st_size == SECONDS * 8, 5)
        with open(self.counts, "rb") as file:
            self.seconds = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def start(self):
        self.process = self.bench.spawn([self.program, str(self.port), self.kind, self.counts])

    def stop(self):
        self.bench.end(self.process)

    def cpu_seconds(self):
        return cpu_seconds(self.process.pid) if self.process.poll() is None else 0

    def connections(self, second):
        return struct.unpack_from("<Q", self.seconds, second % SECONDS * 8)[0]


class Bench:
    """A folder, and the processes that are ended with it."""

    def __init__(self, binary):
        self.binary, self.processes = binary, []

    def __enter__(self):
        self.scratch = tempfile.TemporaryDirectory(prefix="waypost-probes-")
        self.folder = pathlib.Path(self.scratch.name)
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            self.end(process)
        self.scratch.cleanup()

    def spawn(self, command, **options):
        process = subprocess.Popen(command, preexec_fn=die_with_parent, start_new_session=True, **options)
        self.processes.append(process)
        return process

    def end(self, process):
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process in self.processes:
            self.processes.remove(process)

    def node(self, name, sections):
        config = self.folder / f"{name}.toml"
        config.write_text(f'node = "{name}"\nsite = "s0"\ndata_dir = "{self.folder}/{name}"\n{sections}\n')
        log = open(self.folder / f"{name}.log", "ab")
        return self.spawn([self.binary, "run", "--config", config], stderr=log, stdout=log)


class World:
    """Control and one prober with so many targets."""

    def __init__(self, bench, kind, port, targets, interval_ms):
        self.bench, self.kind, self.port, self.targets = bench, kind, port, targets
        self.name = f"{kind}-{free_port()}"
        self.admin, self.engine, self.metrics = free_port(), free_port(), free_port()
        self.control = bench.node(f"control-{self.name}", f"""
[store]
engine = "embedded"
http = "127.0.0.1:{self.engine}"
[control]
listen = "127.0.0.1:{self.admin}"
[telemetry]
log = "warn"
""")
        eventually("control", lambda: self.cli("get", "site").returncode == 0, 30)
        self.apply(self.documents(interval_ms))
        self.prober = bench.node(f"prober-{self.name}", f"""
[prober]
vantage = "bench"
report_to = ["http://127.0.0.1:{self.admin}"]
canaries = ["127.0.0.1:{self.admin}"]
max_dials = 8192
[telemetry]
log = "warn"
listen = "127.0.0.1:{self.metrics}"
""")

    def end(self):
        self.bench.end(self.prober)
        self.bench.end(self.control)

    def cli(self, *arguments):
        command = [self.bench.binary, "--server", f"http://127.0.0.1:{self.admin}", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    def apply(self, documents):
        file = self.bench.folder / "documents.yaml"
        file.write_text(documents)
        applied = self.cli("apply", "-f", file)
        if applied.returncode:
            raise RuntimeError(f"the documents: {applied.stderr[:2000]}")

    def check(self, interval_ms):
        probe = "type: tcp\n" if self.kind == "tcp" else "type: http\npath: /readyz\nexpect_status: [200]\n"
        return (f"kind: Check\nname: web\n{probe}port: {self.port}\n"
                f"interval: {interval_ms}ms\ntimeout: {min(interval_ms, 800)}ms\n")

    def documents(self, interval_ms):
        texts = [f"kind: Site\nname: s{n}\n" for n in range(SITES)]
        texts.append("kind: Vantage\nname: bench\nsite: null\n")
        texts.append("kind: Zone\nname: probes.test\nnameservers: [{ name: ns1, a: [127.0.0.1] }]\n"
                     "ttl: 1h\nnegative_ttl: 60s\n")
        texts.append(self.check(interval_ms))
        for number, first in enumerate(range(0, self.targets, SITES * TOGETHER)):
            gateways = ""
            for site in range(SITES):
                begin = first + site * TOGETHER
                own = [address(n) for n in range(begin, min(begin + TOGETHER, self.targets))]
                gateways += f"  s{site}: {{ a: [{', '.join(own)}] }}\n" if own else ""
            texts.append(f"kind: Cluster\nname: c{number}\nzone: probes.test\ngateway_domain: g{number}.probes.test\n"
                         f"gateways:\n{gateways}")
            texts.append(f"kind: Domain\nname: g{number}.probes.test\ncluster: c{number}\n"
                         "policy: { type: nearest }\ncheck: web\n")
        return "---\n".join(texts)

    def prober_metrics(self):
        return scrape(f"http://127.0.0.1:{self.metrics}/metrics")

    def verdicts(self):
        """How many targets have which verdict, as control sees it."""
        found = scrape(f"http://127.0.0.1:{self.admin}/metrics")
        return {state: found.get(f'waypost_store_targets{{verdict="{state}"}}', 0)
                for state in ("up", "down", "unknown")}
