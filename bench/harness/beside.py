"""What compares two gateways needs: an origin that answers on cue and keeps what it was asked, and a client that shows what came back."""

import json
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from . import tools

LOCAL = "127.0.0.1"
# What each host says of itself, and how it frames a body.
OWN_FIELDS = {"date", "server", "connection", "content-length", "transfer-encoding", "x-envoy-upstream-service-time", "retry-after"}
OWN_FIELDS |= {"x-request-id", "x-forwarded-proto", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "x-tidegate-reason"}
OWN_FIELDS |= {"x-envoy-expected-rq-timeout-ms", "x-envoy-internal", "te"}


def free_port():
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return probe.getsockname()[1]


def read_head(stream):
    """The first line, and the fields in lower case."""
    if not (first := stream.readline()):
        raise ConnectionError("closed")
    fields = []
    while line := stream.readline().rstrip(b"\r\n"):
        name, _, value = line.decode("latin1").partition(":")
        fields.append((name.lower(), value.strip()))
    return first.decode("latin1").strip(), fields


def read_body(stream, fields, until_closed):
    told = dict(fields)
    if told.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while size := int(stream.readline().split(b";")[0], 16):
            body += stream.read(size)
            stream.readline()
        stream.readline()
        return body
    if "content-length" in told:
        length = int(told["content-length"])
        body = stream.read(length)
        return body if len(body) == length else body + b"<cut off>"
    return stream.read() if until_closed else b""


def message(first, fields, body, chunks):
    """A request or an answer, in the parts in which it is sent."""
    framing = []
    if chunks:
        framing = ["transfer-encoding: chunked"]
    elif body is not None:
        framing = [f"content-length: {len(body)}"]
    lines = [first, *(f"{name}: {value}" for name, value in fields), *framing]
    yield ("\r\n".join(lines) + "\r\n\r\n").encode("latin1") + (b"" if chunks else body or b"")
    for chunk in chunks or []:
        time.sleep(0.03)
        yield b"%x\r\n%s\r\n" % (len(chunk), chunk.encode())
    if chunks:
        yield b"0\r\n\r\n"


class Origin:
    """Answers as the case says, and keeps what it was asked."""

    def __init__(self):
        self.seen, self.answer = [], {}
        self.listener = socket.create_server((LOCAL, 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        stream = connection.makefile("rb")
        try:
            while True:
                first, fields = read_head(stream)
                body = read_body(stream, fields, until_closed=False)
                self.seen.append((first, own_left_out(fields), body))
                answer = self.answer
                body = answer.get("body", "from the origin").encode()
                if first.startswith("HEAD "):
                    body = b""
                for part in message(
                    f"HTTP/1.1 {answer.get('status', 200)} X", answer.get("fields", []), body, answer.get("chunks")
                ):
                    connection.sendall(part)
        except (OSError, ValueError):
            connection.close()


def own_left_out(fields):
    return sorted(field for field in fields if field[0] not in OWN_FIELDS)


class Gateway:
    """One of both, with the configuration that `configure` makes for its port."""

    def __init__(self, name, binary, configure, options=()):
        self.name, self.port = name, free_port()
        folder = Path(tempfile.mkdtemp(prefix=f"beside-{name}-", dir=tools.WORK))
        config = folder / "config.json"
        config.write_text(json.dumps(configure(self.port)))
        argv = [binary, "-c", config, "--disable-hot-restart", *options] if name == "envoy" else [binary, "run", "-c", config]
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)

    def wait_until_it_accepts(self):
        """False where it does not start."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection((LOCAL, self.port), 1).close()
                return True
            except OSError:
                time.sleep(0.02)
        return False

    def ask(self, asked):
        """`method`, `path`, `host`, `fields`, `body` and `chunks` of a request; all have a default."""
        fields = [("host", asked.get("host", "example.com")), *asked.get("fields", []), ("connection", "close")]
        body = asked["body"].encode() if "body" in asked else None
        first = f"{asked.get('method', 'GET')} {asked.get('path', '/')} HTTP/1.1"
        try:
            with socket.create_connection((LOCAL, self.port), 30) as connection:
                for part in message(first, fields, body, asked.get("chunks")):
                    connection.sendall(part)
                stream = connection.makefile("rb")
                first, fields = read_head(stream)
                body = b"" if asked.get("method") == "HEAD" else read_body(stream, fields, until_closed=True)
                return int(first.split()[1]), own_left_out(fields), body
        except OSError as error:
            return f"{type(error).__name__}", [], b""

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def address(port):
    """As Envoy writes it."""
    return {"socket_address": {"address": LOCAL, "port_value": port}}


def cluster(name, port, **more):
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}]
    return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": endpoints}, **more}


def http_listener(port, filters, **route):
    """Of Envoy, which sends everything to the cluster `origin`, with these filters before the router."""
    extensions = "type.googleapis.com/envoy.extensions.filters"
    router = {"name": "r", "typed_config": {"@type": f"{extensions}.http.router.v3.Router"}}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "origin"}, **route}
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        **{"stat_prefix": "x", "normalize_path": True, "merge_slashes": True, "http_filters": [*filters, router]},
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    return {"address": address(port), "filter_chains": [{"filters": [{"name": "h", "typed_config": manager}]}]}
