"""The small world: namespaces on a bridge, and the real program in them."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from . import client

PARTS = pathlib.Path(__file__).resolve().parent
NET = "10.99"
CONTROL, CLIENT = f"{NET}.4.1", f"{NET}.5.1"
SITES = {"s1": f"{NET}.1.1", "s2": f"{NET}.1.2", "s3": f"{NET}.1.3"}
VANTAGES = {"v1": f"{NET}.2.1", "v2": f"{NET}.2.2", "v3": f"{NET}.2.3"}
DNS = {"d1": f"{NET}.3.1", "d2": f"{NET}.3.2"}
NAME = "gw.rig.test"


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options)


class Namespaces:
    """Namespaces of one run: a hub with a bridge, and the others plugged into it. The host's own network is not touched."""

    def __init__(self):
        self.prefix = f"wp{os.getpid()}"
        self.made = []
        self.add("hub")
        self.inside("hub", "ip", "link", "add", "br0", "type", "bridge")
        self.inside("hub", "ip", "link", "set", "br0", "up")

    def full(self, name):
        return f"{self.prefix}-{name}"

    def add(self, name):
        run("ip", "netns", "add", self.full(name))
        self.made.append(name)
        self.inside(name, "ip", "link", "set", "lo", "up")

    def plug(self, name, *addresses):
        """A namespace with addresses on the bridge."""
        self.add(name)
        run("ip", "link", "add", "eth0", "netns", self.full(name), "type", "veth", "peer", "name", f"p-{name}",
            "netns", self.full("hub"))
        self.inside("hub", "ip", "link", "set", f"p-{name}", "master", "br0", "up")
        for address in addresses:
            self.inside(name, "ip", "address", "add", f"{address}/16", "dev", "eth0")
        self.inside(name, "ip", "link", "set", "eth0", "up")

    def command(self, name, *command):
        return ["ip", "netns", "exec", self.full(name), *command]

    def inside(self, name, *command):
        return run(*self.command(name, *command))

    def remove(self):
        for name in reversed(self.made):
            subprocess.run(["ip", "netns", "delete", self.full(name)], capture_output=True)


class Rig:
    """Everything, running. A context, so that everything ends."""

    def __init__(self, binary, targets=3):
        self.binary, self.targets = binary, targets
        self.processes = {}
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        try:
            self.folder = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="waypost-rig-")))
            self.net = Namespaces()
            self.stack.callback(self.net.remove)
            self.stack.callback(self.stop_all)
            self.build()
            return self
        except BaseException as error:
            self.__exit__(type(error))
            raise

    def __exit__(self, kind, *_):
        if kind and kind is not SystemExit:
            self.show_logs()
        self.stack.close()

    def show_logs(self):
        """The ends of all logs: what went wrong is mostly said in one of them."""
        for log in sorted(self.folder.glob("*.log")):
            for line in log.read_text(errors="replace").splitlines()[-5:]:
                print(f"{log.stem}: {line}", file=sys.stderr)

    def path(self, name):
        return str(self.folder / name)

    def build(self):
        self.net.plug("control", CONTROL)
        self.net.plug("client", CLIENT)
        for number, (site, address) in enumerate(SITES.items()):
            extra = [f"{NET}.{11 + number}.{n}" for n in range(1, self.per_site() + 1)] if self.targets > 3 else []
            self.net.plug(site, address, *extra)
            self.start_site(site)
        for name, address in {**VANTAGES, **DNS}.items():
            self.net.plug(name, address)
        self.start_control()
        for name in DNS:
            self.node(name, f'[dns]\nlisten = ["{DNS[name]}:53"]\n', store=True)
        for name in VANTAGES:
            secret = self.token(f"prober-{name}", "--role", "vantage", "--vantage", name)
            self.node(name, f'[prober]\nvantage = "{name}"\nreport_to = ["https://{CONTROL}:8580"]\n'
                            f'token_file = "{secret}"\nca_file = "{self.path("cert.pem")}"\ncanaries = ["{CONTROL}:8580"]\n')
        self.client = client.Client(self, DNS, NAME)
        self.stack.callback(self.client.stop)
        self.settle()

    def per_site(self):
        return -(-self.targets // len(SITES))

    def start(self, name, namespace, *command):
        log = open(self.path(f"{name}.log"), "ab")
        process = subprocess.Popen(self.net.command(namespace, *command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.processes[name] = process
        return process

    def kill(self, name):
        process = self.processes.pop(name, None)
        if process:
            process.kill()
            process.wait()

    def stop_all(self):
        for name in list(self.processes):
            self.kill(name)

    def start_site(self, site):
        self.start(f"site-{site}", site, "python3", str(PARTS / "backend.py"), site, self.path(f"{site}.slow"))

    def start_control(self):
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", "/CN=rig", "-addext", f"subjectAltName=IP:{CONTROL}", "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", self.path("key.pem"),
            "-out", self.path("cert.pem"))
        (self.folder / "first").write_text("the-first-operator-of-the-rig\n")
        os.chmod(self.path("first"), 0o600)
        guard = (f'tls = {{ cert = "{self.path("cert.pem")}", key = "{self.path("key.pem")}" }}\n'
                 f'token_file = "{self.path("first")}"\n')
        self.node("control", f'[store]\nengine = "embedded"\nhttp = "{CONTROL}:8500"\n{guard}'
                             f'[control]\nlisten = "{CONTROL}:8580"\n{guard}')
        (self.folder / "world.yaml").write_text(self.documents())
        self.eventually("control", lambda: self.cli("get", "site").returncode == 0, 30)
        applied = self.cli("apply", "-f", self.path("world.yaml"))
        if applied.returncode:
            raise RuntimeError(f"the documents: {applied.stderr}")
        self.token("dns-node", "--role", "node")

    def node(self, name, sections, store=False):
        if store:
            sections = (f'[store]\nengine = "consul"\nurl = "https://{CONTROL}:8500"\n'
                        f'token_file = "{self.path("dns-node")}"\nca_file = "{self.path("cert.pem")}"\n{sections}')
        config = self.folder / f"{name}.toml"
        config.write_text(f'node = "{name}"\nsite = "s1"\ndata_dir = "{self.path(name + "-data")}"\n{sections}')
        self.start(name, name, self.binary, "run", "--config", str(config))

    def cli(self, *arguments):
        command = [self.binary, *arguments, "--server", f"https://{CONTROL}:8580", "--ca-file", self.path("cert.pem"),
                   "--token-file", self.path("first")]
        return subprocess.run(self.net.command("control", *command), capture_output=True, text=True)

    def token(self, name, *arguments):
        made = self.cli("token", "create", name, *arguments)
        if made.returncode:
            raise RuntimeError(f"token {name}: {made.stderr}")
        (self.folder / name).write_text(made.stdout.strip())
        os.chmod(self.path(name), 0o600)
        return self.path(name)

    def documents(self):
        texts = [f"kind: Site\nname: {site}\n" for site in SITES]
        texts += [f"kind: Vantage\nname: {vantage}\nsite: null\n" for vantage in VANTAGES]
        texts.append("kind: Zone\nname: rig.test\nnameservers: [{ name: ns1, a: [%s] }]\nttl: 1h\nnegative_ttl: 60s\n" % DNS["d1"])
        texts.append("kind: Check\nname: web\ntype: http\nport: 80\npath: /readyz\nexpect_status: [200]\ndamping: 5s\n")
        recovery = "recovery: { mode: automatic, hold_down: 1s, ramp: 0s }\n"
        order = "policy: { type: failover, order: [s1, s2, s3] }\n"
        for number, addresses in enumerate(self.clusters()):
            cluster = "main" if number == 0 else f"more-{number}"
            name = NAME if number == 0 else f"gw{number}.rig.test"
            gateways = "".join(f"  {site}: {{ a: [{address}] }}\n" for site, address in addresses.items())
            texts.append(f"kind: Cluster\nname: {cluster}\nzone: rig.test\ngateway_domain: {name}\ngateways:\n{gateways}")
            texts.append(f"kind: Domain\nname: {name}\ncluster: {cluster}\n{order}check: web\n{recovery}")
        return "---\n".join(texts)

    def clusters(self):
        """Per cluster, an address at each site: as many targets as asked for."""
        yield SITES
        if self.targets > 3:
            for n in range(1, self.per_site()):
                yield {site: f"{NET}.{11 + number}.{n}" for number, site in enumerate(SITES)}

    @staticmethod
    def eventually(what, condition, within):
        deadline = time.monotonic() + within
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not happen within {within} s")
            time.sleep(0.05)

    def targets_seen(self):
        status = self.cli("status", "--json")
        return json.loads(status.stdout)["targets"] if status.returncode == 0 else []

    def settle(self):
        """Every target is Up for every vantage, and both nodes answer with the first site again."""
        def all_up():
            targets = self.targets_seen()
            up = [it for it in targets if it["verdict"]["state"] == "up" and not it["verdict"]["unsettled"]]
            sure = [it for it in up if it["verdict"]["tally"]["up"] == len(VANTAGES)]
            return targets and len(sure) == len(targets)
        self.eventually("every target Up", all_up, 60)
        self.eventually("the first site answered", lambda: self.client.answers() == {SITES["s1"]}, 30)

    def iptables(self, namespace, *rule):
        self.net.inside(namespace, "iptables", "-w", *rule)

    @contextlib.contextmanager
    def dropping(self, namespace, share=None):
        """Drops what goes in and out of a namespace, or a share of it."""
        chance = [] if share is None else ["-m", "statistic", "--mode", "random", "--probability", str(share)]
        for chain in ("INPUT", "OUTPUT"):
            self.iptables(namespace, "-I", chain, "!", "-i" if chain == "INPUT" else "-o", "lo", *chance, "-j", "DROP")
        try:
            yield
        finally:
            self.iptables(namespace, "-F")

    def count_flips(self, seconds):
        """Turns of verdicts and answers while a twentieth of the packets is lost each way, and nothing dies."""
        self.settle()
        before = self.downs()
        with contextlib.ExitStack() as lossy:
            for site in SITES:
                lossy.enter_context(self.dropping(site, 0.05))
            start = time.monotonic()
            time.sleep(seconds)
            answers = len(self.client.changes_since(start))
            changes = self.downs() - before
        return {"targets": len(self.targets_seen()), "seconds": seconds, "changes": changes, "answers": answers}

    def downs(self):
        history = [step for it in self.targets_seen() for step in it["verdict"]["history"]]
        return sum(1 for step in history if step["to"] == "down")
