"""The network of the rig: namespaces around a router, sites, DNS nodes and a client. The DNS servers are not here."""

import contextlib
import ctypes
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

from . import client

PARTS = pathlib.Path(__file__).resolve().parent
NET = "10.99"
HUB = f"{NET}.0.1"
CONTROL, CLIENT = f"{NET}.4.1", f"{NET}.5.1"
SITES = {"s1": f"{NET}.1.1", "s2": f"{NET}.1.2", "s3": f"{NET}.1.3"}
VANTAGES = {"v1": f"{NET}.2.1", "v2": f"{NET}.2.2", "v3": f"{NET}.2.3"}
DNS = {"d1": f"{NET}.3.1", "d2": f"{NET}.3.2"}
ZONE = "rig.test"
NAME = f"gw.{ZONE}"

PREFIX = "wprig"
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done


def die_with_parent():
    """Between fork and exec: a rig that is killed with SIGKILL leaves no process behind. Signals that end the rig are
    blocked while it starts something, and a child would inherit that."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@contextlib.contextmanager
def unbroken():
    """What is made is also noted: no signal ends the rig in between."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def spawn(command, **options):
    # A group of its own, so that Ctrl-C reaches the rig alone, which ends everything in order.
    return subprocess.Popen(command, preexec_fn=die_with_parent, start_new_session=True, **options)


class Namespaces:
    """Namespaces of one run: a hub that routes, and the others plugged into it. The host's own network is not touched.
    What is dropped is dropped by the hub, so that both ends see a network that loses packets."""

    def __init__(self):
        self.prefix = f"{PREFIX}{os.getpid()}"
        self.made = []

    def build(self):
        self.sweep()
        self.add("hub")
        # The kernel keeps this setting per namespace.
        self.inside("hub", "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")

    @staticmethod
    def sweep():
        """Takes away what a run left that could not do it any more."""
        for line in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.splitlines():
            found = re.match(rf"{PREFIX}(\d+)-\S+", line)
            if found and not os.path.exists(f"/proc/{found[1]}"):
                subprocess.run(["ip", "netns", "delete", found[0]], capture_output=True)

    def full(self, name):
        return f"{self.prefix}-{name}"

    def add(self, name):
        with unbroken():
            run("ip", "netns", "add", self.full(name))
            self.made.append(name)
        self.inside(name, "ip", "link", "set", "lo", "up")

    def plug(self, name, *addresses):
        """A namespace with addresses, one hop from the hub. Both ends of the pair are made inside, none is ever the
        host's."""
        self.add(name)
        self.inside("hub", "ip", "link", "add", f"p-{name}", "type", "veth", "peer", "name", "eth0", "netns", self.full(name))
        self.inside("hub", "ip", "address", "add", f"{HUB}/32", "dev", f"p-{name}")
        self.inside("hub", "ip", "link", "set", f"p-{name}", "up")
        self.inside(name, "ip", "link", "set", "eth0", "up")
        for address in addresses:
            self.inside(name, "ip", "address", "add", f"{address}/32", "dev", "eth0")
            self.inside("hub", "ip", "route", "add", address, "dev", f"p-{name}")
        self.inside(name, "ip", "route", "add", HUB, "dev", "eth0", "scope", "link")
        self.inside(name, "ip", "route", "add", "default", "via", HUB, "src", addresses[0])

    def command(self, name, *command):
        return ["ip", "netns", "exec", self.full(name), *command]

    def inside(self, name, *command):
        return run(*self.command(name, *command))

    def remove(self):
        for name in reversed(self.made):
            subprocess.run(["ip", "netns", "delete", self.full(name)], capture_output=True)


class Lab:
    """Sites and a client, running; those who inherit add what answers DNS. A context, so that everything ends."""

    # Trials begin at a random moment of this many seconds, so that none is in step with a periodic event.
    PHASE = 1.0
    # The host of the client's requests, and seconds from one to the next.
    REQUESTS = "rig", 0.05

    def __init__(self):
        self.processes, self.commands = {}, {}
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        try:
            # How a process is ended is registered before it is used.
            with unbroken():
                folder = tempfile.TemporaryDirectory(prefix="waypost-rig-", ignore_cleanup_errors=True)
                self.folder = pathlib.Path(self.stack.enter_context(folder))
            # Daemons that give up root need to find their files.
            self.folder.chmod(0o755)
            self.net = Namespaces()
            self.stack.callback(self.net.remove)
            self.stack.callback(self.stop_all)
            self.net.build()
            self.build()
            return self
        except BaseException as error:
            self.__exit__(type(error))
            raise

    def __exit__(self, kind, *_):
        for number in ENDING:
            # A second interrupt does not prevent the clean-up.
            signal.signal(number, signal.SIG_IGN)
        if kind and kind is not SystemExit:
            self.show_logs()
        self.stack.close()
        for number in ENDING:
            signal.signal(number, end)

    def build(self):
        self.plug_all()
        self.start_dns()
        self.client = client.Client(self, DNS, NAME)
        self.stack.callback(self.client.stop)
        self.settle()

    def plug_all(self):
        self.net.plug("control", CONTROL)
        self.net.plug("client", CLIENT)
        for site, address in SITES.items():
            self.net.plug(site, address, *self.further_addresses(site))
            self.start_site(site)
        for name, address in {**VANTAGES, **DNS}.items():
            self.net.plug(name, address)

    def further_addresses(self, _site):
        return []

    def show_logs(self):
        """The ends of all logs: the reason of a failure is mostly in one of them."""
        for log in sorted(self.folder.glob("*.log")):
            for line in log.read_text(errors="replace").splitlines()[-5:]:
                print(f"{log.stem}: {line}", file=sys.stderr)

    def path(self, name):
        return str(self.folder / name)

    def start(self, name, namespace, *command):
        with unbroken(), open(self.path(f"{name}.log"), "ab") as log:
            process = spawn(self.net.command(namespace, *command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self.processes[name] = process
        self.commands[name] = namespace, command

    def restart(self, name):
        self.kill(name)
        namespace, command = self.commands[name]
        self.start(name, namespace, *command)

    def kill(self, name):
        process = self.processes.pop(name, None)
        if process:
            process.kill()
            process.wait()

    def stop_all(self):
        for name in list(self.processes):
            self.kill(name)

    def start_site(self, site):
        self.start(f"site-{site}", site, sys.executable, str(PARTS / "backend.py"), site, self.path(f"{site}.slow"))

    @staticmethod
    def eventually(what, condition, within, every=0.05):
        deadline = time.monotonic() + within
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not happen within {within} s")
            time.sleep(every)

    def settle(self):
        """Everything is as it should be before a trial: here, both nodes answer with the first site."""
        self.eventually("the first site answered", lambda: self.client.answers() == {SITES["s1"]}, 60)

    def another_phase(self):
        """Draws anew what is drawn once, so that trials do not all have the same luck."""

    def drop(self, *rule):
        """Drops packets on their way; returns what undoes it."""
        hub = lambda what: self.net.inside("hub", "iptables", "-w", what, "FORWARD", *rule, "-j", "DROP")  # noqa: E731
        with unbroken():
            hub("-I")
        return lambda: hub("-D")

    @contextlib.contextmanager
    def dropping(self, name, share=None, others=None):
        """Drops what comes from and goes to a namespace, or a share of it, or only what it and some others exchange."""
        chance = [] if share is None else ["-m", "statistic", "--mode", "random", "--probability", str(share)]
        with contextlib.ExitStack() as undo:
            for other in others or [None]:
                away, home = ([], []) if other is None else (["-o", f"p-{other}"], ["-i", f"p-{other}"])
                undo.callback(self.drop("-i", f"p-{name}", *away, *chance))
                undo.callback(self.drop("-o", f"p-{name}", *home, *chance))
            yield

    def count_flips(self, seconds):
        """Changes of answers while a twentieth of the packets is lost each way between sites and others, and nothing
        dies; and how many queries were not answered."""
        self.settle()
        before = dict(self.client.newest)
        with contextlib.ExitStack() as lossy:
            for site in SITES:
                lossy.enter_context(self.dropping(site, 0.05))
            start = time.monotonic()
            while time.monotonic() < start + seconds:
                time.sleep(min(5.0, max(0.0, start + seconds - time.monotonic())))
                self.look()
            flips = self.client.flips_since(start, before)
            if not self.dropped():
                raise RuntimeError("a defect of the rig: no packet was dropped")
            return flips

    def dropped(self):
        """How many packets the rules in force have dropped."""
        rules = self.net.inside("hub", "iptables", "-w", "-nvxL", "FORWARD").stdout.splitlines()
        return sum(int(line.split()[0]) for line in rules if " DROP " in line)

    def look(self):
        """Every few seconds of counting."""


def end(number, _frame):
    sys.exit(128 + number)
