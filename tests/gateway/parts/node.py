"""A gateway under test: one process with the embedded engine, control and the proxy role, as a small user has it.

Documents and instances go in as a user puts them in: `waypost apply`, and the Consul face. Settings that a binary does not
know are left out with a word on stderr, so that the same script runs on an older one and shows what that does.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

HOST = "web.example.com"
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
WORKSPACE = pathlib.Path(__file__).resolve().parents[3]
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def binary():
    """The program: WAYPOST_BINARY, else the release build, else the debug build."""
    named = os.environ.get("WAYPOST_BINARY")
    candidates = [named] if named else [WORKSPACE / "target/release/waypost", WORKSPACE / "target/debug/waypost"]
    for path in candidates:
        if os.access(path, os.X_OK):
            return str(path)
    raise SystemExit(f"no {candidates[-1]}; build it first, or name one with WAYPOST_BINARY")


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def spawn(command, **options):
    """A child that ends with this process, and that Ctrl-C does not reach before it is ended in order."""
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen(command, preexec_fn=die_with_parent, start_new_session=True, **options)


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def eventually(what, holds, patience=20.0, every=0.05):
    """Polls until it holds; returns what it gave."""
    deadline = time.monotonic() + patience
    while True:
        found = holds()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience:g} s: {what}")
        time.sleep(every)


def fetch(url, method="GET", body=None):
    """Status and text of an answer; None when there is none."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with OPENER.open(urllib.request.Request(url, data=data, method=method), timeout=5) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except OSError:
        return None


def toml(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(it)}" for key, it in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else str(value)


class Folder:
    """A temporary folder whose processes end before it goes."""

    def __enter__(self):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="waypost-gateway-"))
        self.processes = []
        return self

    def start(self, name, command, **options):
        with open(self.path / f"{name}.log", "ab") as log:
            options.setdefault("stdout", log)
            options.setdefault("stderr", log)
            process = spawn([str(it) for it in command], **options)
        self.processes.append(process)
        return process

    def log(self, name):
        return (self.path / f"{name}.log").read_text(errors="replace")

    def __exit__(self, *_):
        for process in self.processes:
            # With its children, such as nginx's workers: each is the first of a session of its own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()
        if os.environ.get("WAYPOST_KEEP"):
            print(f"kept: {self.path}", file=sys.stderr)
        else:
            shutil.rmtree(self.path, ignore_errors=True)


class Node:
    """A node in site `near`; `far` is the other site. `settings` go into [proxy], `limits` into [proxy.limits]."""

    def __init__(self, folder, name="gateway", listen=None, settings=None, limits=None, workers=2, engine=None, log="info"):
        self.folder, self.name, self.program = folder, name, binary()
        self.port = listen or free_port()
        self.admin, self.face, self.status = free_port(), free_port(), free_port()
        self.engine = engine
        self.process = None
        self.config = folder.path / f"{name}.toml"
        proxy = {"cluster": "main", "listen": [f"127.0.0.1:{self.port}"], "workers": workers, **(settings or {})}
        self.write(proxy, dict(limits or {}), log)

    def write(self, proxy, limits, log):
        self.config.write_text(self.text(proxy, limits, log))
        for key in self.unknown():
            print(f"this binary has no key {key} in [proxy]: left out", file=sys.stderr)
            proxy.pop(key, None)
            limits.pop(key, None)
        self.config.write_text(self.text(proxy, limits, log))

    def unknown(self):
        done = subprocess.run([self.program, "check", str(self.config)], capture_output=True, text=True)
        if done.returncode == 0:
            return []
        text = done.stdout + done.stderr
        named = re.findall(r": proxy\.(?:limits\.)?(\w+)[\w.]*: unknown key", text)
        if not named:
            raise SystemExit(f"the configuration is refused:\n{text}")
        return named

    def text(self, proxy, limits, log):
        if self.engine:
            store = f'[store]\nengine = "consul"\nurl = "http://127.0.0.1:{self.engine.face}"\n'
            control = ""
        else:
            store = f'[store]\nengine = "embedded"\nhttp = "127.0.0.1:{self.face}"\n'
            control = f'[control]\nlisten = "127.0.0.1:{self.admin}"\n'
        lines = "".join(f"{key} = {toml(value)}\n" for key, value in proxy.items())
        inner = "".join(f"{key} = {toml(value)}\n" for key, value in limits.items())
        inner = f"[proxy.limits]\n{inner}" if limits else ""
        return (f'node = "{self.name}"\nsite = "near"\ndata_dir = "{self.folder.path / self.name}"\n{store}{control}'
                f'[proxy]\n{lines}{inner}[telemetry]\nlisten = "127.0.0.1:{self.status}"\nlog = "{log}"\n')

    def start(self, **options):
        self.process = self.folder.start(self.name, [self.program, "run", "--config", self.config], **options)
        return self

    def cli(self, *arguments, patience=60):
        server = f"http://127.0.0.1:{(self.engine or self).admin}"
        return subprocess.run([self.program, *arguments, "--server", server], capture_output=True, text=True, timeout=patience)

    def apply(self, text):
        eventually("control", lambda: fetch(f"http://127.0.0.1:{(self.engine or self).admin}/livez"))
        path = self.folder.path / f"{self.name}-documents.yaml"
        path.write_text(text)
        done = self.cli("apply", "-f", str(path))
        if done.returncode:
            raise SystemExit(f"the documents were refused: {done.stdout}{done.stderr}")

    def register(self, service, identity, port, site=None, address="127.0.0.1", weight=None):
        meta = {"site": site} if site else {}
        body = {"Name": service, "ID": identity, "Address": address, "Port": port, "Meta": meta}
        if weight is not None:
            body["Weights"] = {"Passing": weight, "Warning": 1}
        url = f"http://127.0.0.1:{(self.engine or self).face}/v1/agent/service/register"
        eventually("the registry", lambda: (fetch(url, "PUT", body) or (0,))[0] == 200)

    def ready(self):
        url = f"http://127.0.0.1:{self.status}/readyz"
        eventually(f"{self.name} is ready", lambda: (fetch(url) or (0,))[0] == 200, 60)
        return self

    def is_ready(self):
        return (fetch(f"http://127.0.0.1:{self.status}/readyz") or (0,))[0] == 200

    def metrics(self):
        """Every sample by its name with labels."""
        answer = fetch(f"http://127.0.0.1:{self.status}/metrics") or (0, "")
        lines = (it.rsplit(" ", 1) for it in answer[1].splitlines() if it and not it.startswith("#"))
        return {name: float(value) for name, value in lines}

    def metric(self, part):
        """The sum of all samples whose name contains this."""
        return sum(value for name, value in self.metrics().items() if part in name)

    def signal(self, number):
        self.process.send_signal(number)

    def memory(self, field="VmRSS"):
        """In kB."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+)", text)[1])

    def log(self):
        return self.folder.log(self.name)

    @property
    def address(self):
        return "127.0.0.1", self.port


def documents(services=(("web", (HOST,)),), more=""):
    """Two sites, a zone, a cluster, and services with their hosts."""
    text = """kind: Site
name: near
location: { lat: 39.90, lon: 116.40 }
networks: [127.0.0.0/8]
---
kind: Site
name: far
location: { lat: 31.23, lon: 121.47 }
---
kind: Zone
name: gw.example.net
nameservers: [{ name: ns1, a: [127.0.0.1] }]
---
kind: Cluster
name: main
zone: gw.example.net
gateway_domain: all.gw.example.net
gateways:
  near: { a: [127.0.0.1], aaaa: [] }
  far: { a: [127.0.0.2], aaaa: [] }
"""
    for name, hosts in services:
        text += f"---\nkind: Service\nname: {name}\ncluster: main\nhosts: [{', '.join(hosts)}]\n"
    return text + more


def gateway(folder, instances, services=(("web", (HOST,)),), more="", **options):
    """A running gateway in front of `instances`: (id, port) or (id, port, site) of the first service."""
    node = Node(folder, **options).start()
    node.apply(documents(services, more))
    for it in instances:
        node.register(services[0][0], *it)
    node.ready()
    await_instances(node, instances, services[0][1][0])
    return node


def await_instances(node, instances, host=HOST):
    """Until the gateway has read all of them from the registry: each one has answered, or is in another site."""
    from .wire import exchange
    ask = lambda: exchange(node.address, f"GET /who HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")  # noqa: E731
    here = {it[0] for it in instances if len(it) < 3 or it[2] == "near"}
    seen = set()

    def all_seen():
        answer = ask()
        if answer and answer.status == 200:
            seen.add(answer.body.decode(errors="replace"))
        return here <= seen

    eventually(f"answers of {here}", all_seen, 30, 0.01)
