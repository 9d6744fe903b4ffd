"""Others on the same ground, set as fast as their documentation allows. They monitor from the DNS node itself: there is
no quorum of vantages, and a single failure counts, because that is their fastest setting."""

import shutil

from .lab import DNS, NAME, SITES, ZONE, Lab

SOA = f"@ 60 SOA ns1.{ZONE}. hostmaster.{ZONE}. 1 7200 1800 259200 60\n@ 60 NS ns1.{ZONE}.\nns1 60 A {DNS['d1']}\n"
NAME_IN_ZONE = NAME.removesuffix(f".{ZONE}")


class Peer(Lab):
    # Their monitors repeat at most every 2 s.
    PHASE = 2.0

    def __init__(self, binary):
        super().__init__()
        self.binary = binary

    def write(self, path, text):
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def start_dns(self):
        for name, address in DNS.items():
            self.start(name, name, self.binary, *self.configured(name, address))


class Gdnsd(Peer):
    """gdnsd.config(5): an interval of 2 s is the shortest that allows a timeout, which is at least 1 s and must be
    shorter; thresholds are at least 1."""

    program = "gdnsd"
    settings = "http_status, interval 2, timeout 1, up_thresh 1, ok_thresh 1, down_thresh 1; metafo"

    def configured(self, name, address):
        for folder in ("run", "state"):
            (self.folder / name / folder).mkdir(parents=True)
        sites = ", ".join(f"{site} => {at}" for site, at in SITES.items())
        self.write(f"{name}/config", f"""
options => {{ listen => {address}, run_dir => {self.path(name)}/run, state_dir => {self.path(name)}/state }}
service_types => {{ web => {{
  plugin => http_status, port => 80, url_path => /readyz,
  interval => 2, timeout => 1, up_thresh => 1, ok_thresh => 1, down_thresh => 1,
}} }}
plugins => {{ metafo => {{ resources => {{ gw => {{
  service_types => web, datacenters => [ {", ".join(SITES)} ], dcmap => {{ {sites} }}
}} }} }} }}
""")
        self.write(f"{name}/zones/{ZONE}", f"{SOA}{NAME_IN_ZONE} 60 DYNA metafo!gw\n")
        return ["-c", self.path(name), "start"]


class Pdns(Peer):
    """Lua records: the interval of health checks is whole seconds, so is the timeout; nothing is cached. Of those that
    are up, which keep their order, the first is answered."""

    program = "pdns_server"
    settings = "ifportup, lua-health-checks-interval 1, timeout 1, no caches"

    def configured(self, name, address):
        sites = ", ".join(f"'{at}'" for at in SITES.values())
        rule = f";local up = ifportup(80, {{{sites}}}, {{selector='all', timeout=1}}) return up[1]"
        self.write(f"{name}/zone", f'$ORIGIN {ZONE}.\n{SOA}{NAME_IN_ZONE} 60 IN LUA A "{rule}"\n')
        self.write(f"{name}/named.conf", f'zone "{ZONE}" {{ type master; file "{self.path(name)}/zone"; }};\n')
        self.write(f"{name}/pdns.conf", f"""
launch=bind
bind-config={self.path(name)}/named.conf
local-address={address}
socket-dir={self.path(name)}
enable-lua-records=yes
lua-health-checks-interval=1
cache-ttl=0
query-cache-ttl=0
negquery-cache-ttl=0
zone-cache-refresh-interval=0
write-pid=no
""")
        return [f"--config-dir={self.path(name)}", "--daemon=no", "--guardian=no"]


ALL = {"gdnsd": Gdnsd, "pdns": Pdns}


def find(peer):
    """Its rig, not yet built; None where it is not installed."""
    kind = ALL[peer]
    binary = shutil.which(kind.program) or shutil.which(kind.program, path="/usr/sbin")
    return kind(binary) if binary else None
