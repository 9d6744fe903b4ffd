"""The client: queries each DNS node every 10 ms, sends requests to the first node's answer, prints what changes.

Its arguments are the name to query, the host of the requests, the seconds from one to the next, and NODE=ADDRESS for each node.

Lines of JSON: {"at", "node", "answer"} when a node's answer changes, {"at", "sent", "failed", "by"} for every request, where
"by" is the body of its response, which names who answered.
Times are of the monotonic clock, which all processes of a machine share; that of an answer is when it arrived.
"""

import json
import random
import socket
import struct
import sys
import threading
import time

NAME, HOST, REQUEST_EVERY, NODES = sys.argv[1], sys.argv[2], float(sys.argv[3]), dict(it.split("=") for it in sys.argv[4:])
EVERY, PATIENCE = 0.01, 0.2
REQUEST_PATIENCE = 1.0
LOCK = threading.Lock()
NEWEST = {}


def write(**line):
    with LOCK:
        print(json.dumps(line), flush=True)


def query(number):
    labels = b"".join(bytes([len(it)]) + it.encode() for it in NAME.split("."))
    return struct.pack(">6H", number, 0, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)


def address(packet):
    """The first A record's address."""
    if struct.unpack(">H", packet[6:8])[0] == 0:
        return f"rcode {packet[3] & 15}"
    at = packet.index(b"\0", 12) + 5
    while at < len(packet):
        kind, _, _, length = struct.unpack(">HHIH", packet[at + 2:at + 12])
        if kind == 1:
            return socket.inet_ntoa(packet[at + 12:at + 16])
        at += 12 + length
    return "no address"


def answer_to(sock):
    """What one query was answered; late answers to earlier ones are passed over."""
    number = random.randrange(65536)
    try:
        sock.send(query(number))
        while True:
            packet = sock.recv(1500)
            if packet[:2] == struct.pack(">H", number):
                return address(packet)
    except TimeoutError:
        return "none"
    except OSError as error:
        return f"none ({error.strerror})"


def ask(node, server):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((server, 53))
    sock.settimeout(PATIENCE)
    while True:
        started = time.monotonic()
        answer = answer_to(sock)
        if NEWEST.get(node) != answer:
            NEWEST[node] = answer
            write(at=time.monotonic(), node=node, answer=answer)
        time.sleep(max(0, EVERY - (time.monotonic() - started)))


def request():
    target, at = NEWEST.get(next(iter(NODES))), time.monotonic()
    by = None
    try:
        with socket.create_connection((target, 80), REQUEST_PATIENCE) as sock:
            sock.settimeout(max(0.001, at + REQUEST_PATIENCE - time.monotonic()))
            sock.sendall(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            said = sock.recv(4096)
            good = said.startswith(b"HTTP/1.1 200")
            by = said.partition(b"\r\n\r\n")[2].decode(errors="replace")
    except (OSError, TypeError):
        good = False
    write(at=at, sent=1, failed=0 if good else 1, by=by)


for name, server in NODES.items():
    threading.Thread(target=ask, args=(name, server), daemon=True).start()
while True:
    threading.Thread(target=request, daemon=True).start()
    time.sleep(REQUEST_EVERY)
