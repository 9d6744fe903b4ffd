"""nginx and HAProxy in front of the same instances, as their manuals would have a user set them up: near instances first, the far
ones as backup."""

import os
import shutil
import subprocess

from .node import HOST, eventually, free_port, gateway
from .wire import exchange, get


class Certificate:
    """A certificate for the host, of its own: the paths of chain, key, and both in one file."""

    def __init__(self, folder):
        self.chain, self.key, self.both = (str(folder.path / it) for it in ("chain.pem", "key.pem", "both.pem"))
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-keyout", self.key,
                   "-out", self.chain, "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
        subprocess.run(command, check=True, capture_output=True)
        with open(self.chain) as chain, open(self.key) as key, open(self.both, "w") as both:
            both.write(chain.read() + key.read())


class Waypost:
    """With a certificate there is a TLS listener, too, at `tls`."""

    name = "waypost"

    def __init__(self, folder, instances, limits=None, settings=None, certificate=None, **options):
        self.tls = "127.0.0.1", free_port()
        if certificate:
            certificates = [{"certificate": certificate.chain, "key": certificate.key}]
            settings = {**(settings or {}), "tls_listen": [f"127.0.0.1:{self.tls[1]}"], "certificates": certificates}
        self.node = gateway(folder, instances, limits=limits, settings=settings, **options)
        self.address, self.process = self.node.address, self.node.process

    def ejections(self):
        return int(self.node.metric("waypost_proxy_ejections_total"))


class Peer:
    def __init__(self, folder, instances, seconds=30, workers=2, log=False, certificate=None):
        self.port, self.certificate = free_port(), certificate
        self.address, self.tls = ("127.0.0.1", self.port), ("127.0.0.1", free_port())
        path = folder.path / f"{self.name}.conf"
        path.write_text(self.text(folder, instances, seconds, workers, log))
        self.process = folder.start(self.name, [self.program, *self.arguments, path])
        eventually(f"{self.name} answers", lambda: exchange(self.address, get("/who", HOST)), 10)

    def ejections(self):
        return "-"

    @classmethod
    def installed(cls):
        return shutil.which(cls.program, path=os.environ.get("PATH", "") + ":/usr/sbin")


def is_far(it):
    return len(it) > 2 and it[2] == "far"


class Nginx(Peer):
    name, program, arguments = "nginx", "nginx", ["-c"]

    def text(self, folder, instances, seconds, workers, log):
        servers = "".join(f"server 127.0.0.1:{it[1]}{' backup' if is_far(it) else ''}; " for it in instances)
        temps = " ".join(f"{kind}_temp_path {folder.path}/nginx-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        user = "user root; " if os.getuid() == 0 else ""
        access = f"access_log {folder.path}/nginx-access.log" if log else "access_log off"
        # Newer versions speak TLS 1.3 without being told to.
        tls = "" if not self.certificate else (f"listen 127.0.0.1:{self.tls[1]} ssl backlog=4096; ssl_protocols TLSv1.2 TLSv1.3; "
                                               f"ssl_certificate {self.certificate.chain}; ssl_certificate_key {self.certificate.key};")
        return f"""{user}worker_processes {workers}; daemon off; error_log {folder.path}/nginx-error.log; pid {folder.path}/nginx.pid;
events {{ worker_connections 15000; }}
http {{ {access}; tcp_nodelay on; {temps} client_max_body_size 0; keepalive_timeout 600s; keepalive_requests 1000000;
 client_header_timeout {seconds}s; client_body_timeout {seconds}s; send_timeout {seconds}s; proxy_read_timeout {seconds}s;
 upstream web {{ {servers}keepalive 64; }}
 server {{ listen 127.0.0.1:{self.port} backlog=4096; {tls} location / {{ proxy_http_version 1.1; proxy_set_header Connection "";
  proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_pass http://web; }} }} }}
"""


class Haproxy(Peer):
    name, program, arguments = "haproxy", "haproxy", ["-db", "-f"]

    def text(self, folder, instances, seconds, workers, log):
        servers = "".join(f"  server {it[0]} 127.0.0.1:{it[1]} check inter 1s{' backup' if is_far(it) else ''}\n" for it in instances)
        tls = f"  bind 127.0.0.1:{self.tls[1]} backlog 4096 ssl crt {self.certificate.both} alpn http/1.1\n" if self.certificate else ""
        return f"""global
  nbthread {workers}
  maxconn 15000
  no strict-limits
defaults
  mode http
  option forwardfor
  http-reuse always
  retries 3
  option redispatch
  timeout http-request {seconds}s
  timeout http-keep-alive 600s
  timeout connect 1s
  timeout client {seconds}s
  timeout server {seconds}s
frontend front
  bind 127.0.0.1:{self.port} backlog 4096
{tls}  default_backend back
backend back
{servers}"""


ALL = {it.name: it for it in (Waypost, Nginx, Haproxy)}
