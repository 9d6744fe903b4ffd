"""prometheus-blackbox-exporter doing the same checks: it probes once per request."""

import http.client
import threading
import time
import urllib.parse

from .node import address, cpu_seconds, eventually, free_port, megabytes

PROGRAM = "prometheus-blackbox-exporter"
WORKERS = 8
MODULES = """modules:
  tcp: { prober: tcp, timeout: 800ms, tcp: { preferred_ip_protocol: ip4 } }
  http: { prober: http, timeout: 800ms, http: { preferred_ip_protocol: ip4, valid_status_codes: [200] } }
"""


class Exporter:
    def __init__(self, bench):
        config = bench.folder / "blackbox.yml"
        config.write_text(MODULES)
        self.port = free_port()
        self.log = open(bench.folder / "exporter.log", "ab")
        self.process = bench.spawn([PROGRAM, f"--config.file={config}", f"--web.listen-address=127.0.0.1:{self.port}"],
                                   stdout=self.log, stderr=self.log)
        eventually("the exporter", self.answers, 10)

    def answers(self):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
            connection.request("GET", "/-/healthy")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def measure(self, kind, port, targets, rate, seconds):
        """Requests `rate` probes a second over a few connections that are kept."""
        self.run(kind, port, targets, rate, 2)
        cpu, start = cpu_seconds(self.process.pid), time.monotonic()
        done, failed = self.run(kind, port, targets, rate, seconds)
        took = time.monotonic() - start
        return {"kind": kind, "rate": done / took, "probes": done, "failed": failed,
                "cpu_us": (cpu_seconds(self.process.pid) - cpu) / max(done, 1) * 1e6,
                "most_mb": megabytes(self.process.pid, "VmHWM")}

    def run(self, kind, port, targets, rate, seconds):
        counts = [[0, 0] for _ in range(WORKERS)]
        end = time.monotonic() + seconds
        work = [threading.Thread(target=self.ask, args=(kind, port, targets, rate / WORKERS, end, n, counts[n]))
                for n in range(WORKERS)]
        for it in work:
            it.start()
        for it in work:
            it.join()
        return sum(done for done, _ in counts), sum(failed for _, failed in counts)

    def ask(self, kind, port, targets, rate, end, worker, count):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        due, number = time.monotonic(), worker
        while due < end:
            target = f"{address(number % targets)}:{port}" + ("/readyz" if kind == "http" else "")
            number += WORKERS
            connection.request("GET", f"/probe?module={kind}&target={urllib.parse.quote(target, safe='')}")
            text = connection.getresponse().read()
            count[0] += 1
            count[1] += b"\nprobe_success 1" not in text
            due += 1 / rate
            time.sleep(max(0, due - time.monotonic()))
