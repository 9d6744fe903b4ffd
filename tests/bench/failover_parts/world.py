"""The program on the rig: control with the embedded engine over TLS, probers at three vantages, two DNS nodes."""

import json
import os
import subprocess

from .lab import CONTROL, DNS, NAME, NET, SITES, VANTAGES, ZONE, Lab, run


# So that trials can follow one another.
QUICK = ("damping: 5s\n", "recovery: { mode: automatic, hold_down: 1s, ramp: 0s }\n")


class Rig(Lab):
    """Three sites behind one name; with more targets, further names whose sites have further addresses. Recovery is
    quick, or at its defaults; detection is always at its defaults."""

    def __init__(self, binary, targets=len(SITES), quick=True):
        super().__init__()
        self.binary = binary
        self.damping, self.recovery = QUICK if quick else ("", "")
        self.per_site = -(-targets // len(SITES))

    def further_addresses(self, site):
        return [f"{NET}.{11 + list(SITES).index(site)}.{n}" for n in range(1, self.per_site)]

    def start_dns(self):
        self.start_control()
        for name, address in DNS.items():
            store = (f'[store]\nengine = "consul"\nurl = "https://{CONTROL}:8500"\n'
                     f'token_file = "{self.path("dns-node")}"\nca_file = "{self.path("cert.pem")}"\n')
            self.node(name, f'{store}[dns]\nlisten = ["{address}:53"]\n')
        for name in VANTAGES:
            secret = self.token(f"prober-{name}", "--role", "vantage", "--vantage", name)
            self.node(name, f'[prober]\nvantage = "{name}"\nreport_to = ["https://{CONTROL}:8580"]\n'
                            f'token_file = "{secret}"\nca_file = "{self.path("cert.pem")}"\n'
                            f'canaries = ["{CONTROL}:8580"]\n')

    def start_control(self):
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", "/CN=rig", "-addext", f"subjectAltName=IP:{CONTROL}",
            "-addext", "basicConstraints=critical,CA:FALSE",
            "-keyout", self.path("key.pem"), "-out", self.path("cert.pem"))
        self.secret("first", "the-first-operator-of-the-rig")
        guard = (f'tls = {{ certificate = "{self.path("cert.pem")}", key = "{self.path("key.pem")}" }}\n'
                 f'token_file = "{self.path("first")}"\n')
        self.node("control", f'[store]\nengine = "embedded"\nhttp = "{CONTROL}:8500"\n{guard}'
                             f'[control]\nlisten = "{CONTROL}:8580"\n{guard}')
        (self.folder / "world.yaml").write_text(self.documents())
        self.eventually("control", lambda: self.cli("get", "site").returncode == 0, 30)
        applied = self.cli("apply", "-f", self.path("world.yaml"))
        if applied.returncode:
            raise RuntimeError(f"the documents: {applied.stderr}")
        self.token("dns-node", "--role", "node")

    def node(self, name, sections):
        config = self.folder / f"{name}.toml"
        config.write_text(f'node = "{name}"\nsite = "s1"\ndata_dir = "{self.path(name + "-data")}"\n{sections}')
        self.start(name, name, self.binary, "run", "--config", str(config))

    def cli(self, *arguments):
        command = [self.binary, *arguments, "--server", f"https://{CONTROL}:8580",
                   "--ca-file", self.path("cert.pem"), "--token-file", self.path("first")]
        return subprocess.run(self.net.command("control", *command), capture_output=True, text=True)

    def secret(self, name, text):
        with open(self.path(name), "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(f"{text}\n")
        return self.path(name)

    def token(self, name, *arguments):
        made = self.cli("token", "create", name, *arguments)
        if made.returncode:
            raise RuntimeError(f"token {name}: {made.stderr}")
        return self.secret(name, made.stdout.strip())

    def documents(self):
        texts = [f"kind: Site\nname: {site}\n" for site in SITES]
        texts += [f"kind: Vantage\nname: {vantage}\nsite: null\n" for vantage in VANTAGES]
        texts.append(f"kind: Zone\nname: {ZONE}\nnameservers: [{{ name: ns1, a: [{DNS['d1']}] }}]\n"
                     "ttl: 1h\nnegative_ttl: 60s\n")
        texts.append("kind: Check\nname: web\ntype: http\nport: 80\npath: /readyz\nexpect_status: [200]\n"
                     f"{self.damping}")
        order = f"policy: {{ type: failover, order: [{', '.join(SITES)}] }}\n"
        for number, addresses in enumerate(self.clusters()):
            cluster = "main" if number == 0 else f"more-{number}"
            name = NAME if number == 0 else f"gw{number}.{ZONE}"
            gateways = "".join(f"  {site}: {{ a: [{address}] }}\n" for site, address in addresses.items())
            texts.append(f"kind: Cluster\nname: {cluster}\nzone: {ZONE}\ngateway_domain: {name}\n"
                         f"gateways:\n{gateways}")
            texts.append(f"kind: Domain\nname: {name}\ncluster: {cluster}\n{order}check: web\n{self.recovery}")
        return "---\n".join(texts)

    def clusters(self):
        """Per cluster, an address at each site."""
        yield SITES
        for n in range(self.per_site - 1):
            yield {site: self.further_addresses(site)[n] for site in SITES}

    def another_phase(self):
        """When in its interval a vantage dials is drawn when it starts."""
        for vantage in VANTAGES:
            self.restart(vantage)

    def targets_seen(self):
        status = self.cli("status", "--json")
        return json.loads(status.stdout)["targets"] if status.returncode == 0 else []

    def settle(self):
        """Every target is Up for every vantage, and both nodes answer with the first site again."""
        def sure(it):
            verdict = it["verdict"]
            return verdict["state"] == "up" and not verdict["unsettled"] and verdict["tally"]["up"] == len(VANTAGES)

        def all_up():
            targets = self.targets_seen()
            return len(targets) == self.per_site * len(SITES) and all(map(sure, targets))
        # A target that flapped for a while is damped for longer than a trial takes.
        self.eventually("every target Up", all_up, 240, every=0.2)
        super().settle()

    def verdicts_and_answers(self, seconds):
        """False flips of both."""
        self.settle()
        self.changes = set()
        self.look()
        before = frozenset(self.changes)
        answers, unanswered = self.count_flips(seconds)
        return {"targets": self.per_site * len(SITES), "minutes": seconds / 60,
                "verdicts": sorted(self.changes - before), "answers": answers, "unanswered": unanswered}

    def look(self):
        """Every change of a verdict that is remembered: the target, when, to what. The memory of each has an end."""
        for it in self.targets_seen():
            self.changes |= {(it["key"], str(step["at"]), step["to"]) for step in it["verdict"]["history"]}
