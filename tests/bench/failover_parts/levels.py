"""The three levels of disaster tolerance: an instance dies behind a gateway, a gateway behind a load balancer, a site behind DNS.

Each site has three instances, two gateways, and HAProxy as a balancer of TCP connections that asks each gateway's /readyz. The client
sends requests to what DNS answers. What counts is how many of them fail, and for how long.
"""

import contextlib
import json
import shutil
import signal
import statistics
import subprocess
import sys
import time

from .lab import CONTROL, PARTS, SITES, unbroken
from .world import Rig

HOST = "www.rig.test"
GATEWAYS, INSTANCES = (1, 2), (1, 2, 3)
# How long failures are waited for: longer than any detection.
WATCHED = 12.0
NEEDED = ("haproxy", "curl")


class Tiers(Rig):
    # Host of the requests, and seconds from one to the next.
    REQUESTS = HOST, 0.02

    def start_site(self, site):
        """Sites begin when there is an engine to register in."""

    def start_dns(self):
        super().start_dns()
        for site in SITES:
            self.start_tiers(site)

    def documents(self):
        return super().documents() + f"---\nkind: Service\nname: web\ncluster: main\nhosts: [{HOST}]\n"

    def start_tiers(self, site):
        for number in INSTANCES:
            self.start_instance(site, number)
            self.register(site, number)
        for number in GATEWAYS:
            self.start_gateway(site, number)
        self.start_balancer(site)

    def start_instance(self, site, number):
        name = f"{site}-i{number}"
        self.start(name, site, sys.executable, str(PARTS / "backend.py"), name, self.path(f"{site}.slow"), str(7000 + number))

    def register(self, site, number):
        body = {"Name": "web", "ID": f"{site}-i{number}", "Address": SITES[site], "Port": 7000 + number, "Meta": {"site": site}}
        self.net.inside("control", "curl", "-sSf", "--cacert", self.path("cert.pem"), "-X", "PUT", "-H", "X-Consul-Token: the-first-operator-of-the-rig",
                        "-d", json.dumps(body), f"https://{CONTROL}:8500/v1/agent/service/register")

    def start_gateway(self, site, number):
        name = f"{site}-g{number}"
        config = self.folder / f"{name}.toml"
        config.write_text(f'node = "{name}"\nsite = "{site}"\ndata_dir = "{self.path(name + "-data")}"\n'
                          f'[store]\nengine = "consul"\nurl = "https://{CONTROL}:8500"\ntoken_file = "{self.path("dns-node")}"\n'
                          f'ca_file = "{self.path("cert.pem")}"\n[proxy]\ncluster = "main"\nlisten = ["127.0.0.1:{8080 + number}"]\nworkers = 1\n'
                          f'[telemetry]\nlisten = "127.0.0.1:{9080 + number}"\n')
        self.start(name, site, self.binary, "run", "--config", str(config))

    def start_balancer(self, site):
        config = self.folder / f"{site}-balancer.cfg"
        servers = "".join(f"  server g{it} 127.0.0.1:{8080 + it} check port {9080 + it} inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions\n"
                          for it in GATEWAYS)
        config.write_text(f"global\n  nbthread 1\n  maxconn 4000\n  no strict-limits\ndefaults\n  mode tcp\n  timeout connect 500ms\n  timeout client 60s\n"
                          f"  timeout server 60s\n  timeout check 400ms\n  retries 2\n  option redispatch 1\nfrontend all\n  bind :80\n  default_backend gateways\n"
                          f"backend gateways\n  balance roundrobin\n  option httpchk GET /readyz\n{servers}")
        self.start(f"{site}-balancer", site, "haproxy", "-db", "-f", str(config))

    def settle(self):
        super().settle()
        # Nothing fails for a second: every gateway and every instance is back.
        def quiet():
            with self.client.counted() as counts:
                time.sleep(1)
            return counts["failed"] == 0 and self.gateways_ready()
        self.eventually("requests without a failure", quiet, 60, every=0)

    def gateways_ready(self):
        ready = lambda site, it: subprocess.run(  # noqa: E731
            self.net.command(site, "curl", "-sf", "-o", "/dev/null", f"http://127.0.0.1:{9080 + it}/readyz")).returncode == 0
        return all(ready(site, it) for site in SITES for it in GATEWAYS)

    def signal(self, name, number):
        self.processes[name].send_signal(number)

    @contextlib.contextmanager
    def killed(self, *names):
        for name in names:
            self.kill(name)
        try:
            yield
        finally:
            for name in names:
                namespace, command = self.commands[name]
                self.start(name, namespace, *command)

    @contextlib.contextmanager
    def without(self, site, port):
        """What comes for a port vanishes, as if the instance's machine were gone."""
        rule = ("INPUT", "-p", "tcp", "--dport", str(port), "-j", "DROP")
        with unbroken():
            self.net.inside(site, "iptables", "-w", "-I", *rule)
        try:
            yield
        finally:
            self.net.inside(site, "iptables", "-w", "-D", *rule)

    @contextlib.contextmanager
    def frozen(self, name):
        self.signal(name, signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(name, signal.SIGCONT)

    @contextlib.contextmanager
    def stopped(self, name):
        self.signal(name, signal.SIGTERM)
        try:
            yield
        finally:
            self.restart(name)


def instances(site):
    return [f"{site}-i{it}" for it in INSTANCES]


def busiest(rig):
    """An instance of the first site that dies is one that serves: some get few requests, and would not be missed."""
    return rig.client.busiest(instances("s1"))


def port(name):
    return 7000 + int(name[-1])


def whole(site):
    return [f"{site}-balancer", *(f"{site}-g{it}" for it in GATEWAYS), *instances(site)]


# Level, fault, how it is made.
FAULTS = [
    ("1 instance", "killed", lambda rig: rig.killed(busiest(rig))),
    ("1 instance", "black-hole", lambda rig: rig.without("s1", port(busiest(rig)))),
    ("1 instance", "frozen", lambda rig: rig.frozen(busiest(rig))),
    ("1 instance", "all of the site killed", lambda rig: rig.killed(*instances("s1"))),
    ("2 gateway", "stopped", lambda rig: rig.stopped("s1-g1")),
    ("2 gateway", "killed", lambda rig: rig.killed("s1-g1")),
    ("2 gateway", "frozen", lambda rig: rig.frozen("s1-g1")),
    ("3 site", "killed", lambda rig: rig.killed(*whole("s1"))),
    ("3 site", "black-hole", lambda rig: rig.dropping("s1")),
]
HEAD = f"{'level':<12} {'fault':<24} {'trials':>6} {'failed requests':>18} {'for, p50':>10} {'for, max':>10}"


def missing():
    return [it for it in NEEDED if not shutil.which(it, path="/usr/sbin:/usr/bin:/bin:/sbin")]


def measure(binary, trials, write):
    report = []
    write(HEAD)
    with Tiers(binary, quick=True) as rig:
        for level, fault, make in FAULTS:
            sent = failed = 0
            took = []
            for _ in range(trials):
                rig.settle()
                start = time.monotonic()
                with rig.client.counted() as counts, make(rig):
                    time.sleep(WATCHED)
                sent, failed = sent + counts["sent"], failed + counts["failed"]
                took.append(rig.client.failing_until(start, start + WATCHED) - start)
            row = {"level": level, "fault": fault, "trials": trials, "sent": sent, "failed": failed,
                   "p50": statistics.median(took), "max": max(took), "seconds": [round(it, 3) for it in took]}
            report.append(row)
            write(f"{level:<12} {fault:<24} {trials:>6} {f'{failed} of {sent}':>18} {row['p50'] * 1000:>7.0f} ms {row['max'] * 1000:>7.0f} ms")
    return report
