"""The load generators and what they report. A failed request makes the whole run worthless, so it ends it."""

import re
import select
import socket
import subprocess
from dataclasses import dataclass

from . import machine, tools
from .machine import Fatal

MICROSECONDS = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000}


@dataclass
class Load:
    """Requests completed in a run, and their latency in microseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float


def wrk(core, port, seconds, connections, *, path="/", close=False, headers=None, script=None, tls=False):
    """`script` is the name of one in conf, with its arguments."""
    argv = [tools.find("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    if close:
        argv += ["-H", "Connection: close"]
    for name, value in (headers or {}).items():
        argv += ["-H", f"{name}: {value}"]
    if script:
        argv += ["-s", tools.ROOT / "bench" / "conf" / script[0]]
    argv.append(f"{'https' if tls else 'http'}://127.0.0.1:{port}{path}")
    if script:
        argv += ["--", *script[1:]]
    text = _run(machine.pinned(core, argv), seconds)
    for trouble in re.findall(r"^\s*(?:Non-2xx or 3xx responses|Socket errors): .*$", text, re.M):
        raise Fatal(f"wrk against port {port}: {trouble.strip()}")
    requests, took = re.search(r"(\d+) requests in ([\d.]+\w+),", text).groups()
    if int(requests) == 0:
        raise Fatal(f"wrk against port {port}: not one request was answered")
    percentile = {p: _microseconds(v) for p, v in re.findall(r"^\s*(\d+)%\s+([\d.]+\w+)$", text, re.M)}
    return Load(int(requests), _microseconds(took) / 1e6, percentile["50"], percentile["99"])


def h2load(
    core, port, seconds, connections, streams, *, h1=False, path="/", post=None, headers=None, least_bytes=0
):
    """Over HTTP/2 in plaintext, or over HTTP/1.1. Its log has each request's own time, where wrk adds what it thinks
    that others would have waited behind a slow one. `post` is a file, and `least_bytes` what each answer has."""
    log = tools.WORK / "h2load.log"
    log.unlink(missing_ok=True)
    argv = [
        tools.find("h2load"),
        "-t1",
        f"-c{connections}",
        f"-m{streams}",
        f"-D{seconds}",
        f"--log-file={log}",
        *["--h1"] * h1,
        *(["-d", post] if post else []),
        *(word for name, value in (headers or {}).items() for word in ("-H", f"{name}: {value}")),
        f"http://127.0.0.1:{port}{path}",
    ]
    text = _run(machine.pinned(core, argv), seconds)
    counts = {
        word: int(n) for n, word in re.findall(r"(\d+) (done|succeeded|failed|errored|timeout)\b", text)
    }
    if not counts.get("succeeded") or any(counts.get(word) for word in ("failed", "errored", "timeout")):
        raise Fatal(f"h2load against port {port}: {counts}")
    (data,) = map(int, re.findall(r"\((\d+)\) data$", text, re.M))
    if data < least_bytes * counts["succeeded"]:
        raise Fatal(f"h2load against port {port}: {counts['succeeded']} answers of {data} bytes in all")
    # Columns: start, status, microseconds until the end of the response.
    times = []
    with open(log) as lines:
        for line in lines:
            _, status, took = line.split()
            if status != "200":
                raise Fatal(f"h2load against port {port}: an answer of {status}")
            times.append(int(took))
    log.unlink()
    times.sort()
    return Load(len(times), float(seconds), times[len(times) // 2], times[len(times) * 99 // 100])


class IdleConnections:
    """Keep-alive connections that have each made one request and then stay silent."""

    PER_ADDRESS = 5_000

    def __init__(self, port):
        self.port, self.sockets = port, []

    def open(self, count):
        request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode()
        for n in range(count):
            s = socket.socket()
            s.settimeout(10)
            self.sockets.append(s)
            s.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
            s.bind((f"127.0.0.{2 + n // self.PER_ADDRESS}", 0))
            s.connect(("127.0.0.1", self.port))
            s.sendall(request)
            if not _whole_response(s).startswith(b"HTTP/1.1 200"):
                raise Fatal(f"idle connection {n} to port {self.port} was not answered with 200")

    def closed_by_peer(self):
        """How many the proxy has ended: nothing else can make an idle connection readable."""
        poll = select.poll()
        for s in self.sockets:
            poll.register(s, select.POLLIN)
        return len(poll.poll(0))

    def close(self):
        for s in self.sockets:
            s.close()


def _whole_response(s):
    """Head and body, whether its length is given or it is chunked."""
    data = b""
    while True:
        head, found, body = data.partition(b"\r\n\r\n")
        if found:
            if length := re.search(rb"\r\ncontent-length: *(\d+)", head, re.I):
                if len(body) >= int(length[1]):
                    return data
            elif body.endswith(b"0\r\n\r\n"):
                return data
        more = s.recv(4096)
        if not more:
            return b""
        data += more


def _microseconds(text):
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(value) * MICROSECONDS[unit]


def _run(argv, seconds):
    # Tokens are nobody's business, and long.
    command = re.sub(r"(Authorization: )\S+ \S+", r"\1...", " ".join(argv))
    # A proxy that answers nothing more must not keep the run from ending.
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60)
    except subprocess.TimeoutExpired:
        raise Fatal(f"`{command}` did not end within {seconds + 60} s") from None
    if done.returncode != 0:
        raise Fatal(f"`{command}` failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout
