"""gRPC: a unary call to the health service of `tidegate backend`, which ends with its status in a trailer."""

import subprocess

from . import tools
from .machine import Fatal

PATH = "/grpc.health.v1.Health/Check"
HEADERS = {"content-type": "application/grpc", "te": "trailers"}
# Not compressed, of 7 bytes: field 1, the service that is asked about.
MESSAGE = b"\0\0\0\0\x07\x0a\x05bench"
# Of the answer: as much before its message, whose field 1 says that it serves.
ANSWER_BYTES = 7


def request():
    """What h2load is told. Where a call fails there is a status of 200 as well, and no message."""
    message = tools.WORK / "call"
    message.write_bytes(MESSAGE)
    return {"path": PATH, "post": message, "headers": HEADERS, "least_bytes": ANSWER_BYTES}


def check(proxy):
    """A call must come back with the message, and its status after it."""
    call = request()
    headers = [word for name, value in HEADERS.items() for word in ("-H", f"{name}: {value}")]
    argv = [tools.find("nghttp"), "-v", "-d", call["post"], *headers, f"http://127.0.0.1:{proxy.h2c_port}{PATH}"]
    said = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=10).stdout
    status, _, after = said.partition(f"DATA frame <length={ANSWER_BYTES}")
    if ") :status: 200" not in status or ") grpc-status: 0" not in after:
        answer = [line.partition(") ")[2] for line in said.splitlines() if " recv (stream_id" in line]
        raise Fatal(f"{proxy.name} did not answer a call with a message and status 0, but {answer}")
