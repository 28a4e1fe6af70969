"""Collectors of OTLP that break, each in its own way, and what the proxies' own counters say became of the spans.

Run as a script, it is one of them: it prints its port, and serves until it is killed."""

import re
import socket
import struct
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

KINDS = ("away", "stalled", "refusing", "limited", "partial", "killed")
# `partial_success { rejected_spans: 1 }`
PARTIAL = b"\x0a\x02\x08\x01"
ANSWERS = {
    "refusing": b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
    "limited": b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",
    "partial": b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: %d\r\n\r\n"
    % len(PARTIAL)
    + PARTIAL,
}
# Of a span's ends, as Tidegate's metrics call them.
ENDS = ("exported", "rejected", "dropped_queue", "dropped_export")


@contextmanager
def started(core):
    """The port of each, by its kind. Nobody listens where one is away."""
    from . import machine

    with ExitStack() as stack:
        ports = {"away": machine.free_port()}
        for kind in KINDS[1:]:
            argv = machine.pinned(core, [sys.executable, Path(__file__).resolve(), kind])
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
            stack.callback(process.wait)
            stack.callback(process.kill)
            ports[kind] = int(process.stdout.readline())
        yield ports


def account(proxy):
    """Of Tidegate: how many spans were recorded, what became of them, and the bytes that wait."""
    from . import proxies

    text = proxies.fetch(proxy.admin_port, "/metrics").body

    def value(name):
        found = re.search(rf"^{re.escape(name)} (\d+)", text, re.M)
        return int(found[1]) if found else 0

    ends = {end: value(f'tidegate_spans_total{{result="{end}"}}') for end in ENDS}
    waiting = value("tidegate_span_queue_spans")
    return value("tidegate_spans_recorded_total"), ends, waiting, value("tidegate_span_queue_bytes")


def exported(proxy):
    """Spans that its collector has taken."""
    from . import proxies

    if proxies.kind(proxy.name) == "tidegate":
        return account(proxy)[1]["exported"]
    text = proxies.fetch(proxy.admin_port, "/stats?filter=opentelemetry.spans_sent").body
    found = re.search(r"spans_sent: (\d+)", text)
    return int(found[1]) if found else 0


def serve(kind):
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=converse, args=(kind, connection), daemon=True).start()


def converse(kind, connection):
    with connection:
        try:
            while hear(kind, connection):
                if kind in ANSWERS:
                    connection.sendall(ANSWERS[kind])
        except OSError:
            pass


def hear(kind, connection):
    """All of a request, where it can be answered; whether there was one."""
    head = b""
    while b"\r\n\r\n" not in head:
        read = connection.recv(65536)
        if not read:
            return False
        head += read
        if kind == "killed":
            # Closing resets it.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
    head, _, body = head.partition(b"\r\n\r\n")
    left = int(re.search(rb"(?i)content-length: *(\d+)", head)[1]) - len(body)
    while left > 0:
        read = connection.recv(65536)
        if not read:
            return False
        left -= len(read)
    return True


if __name__ == "__main__":
    serve(sys.argv[1])
