"""Each proxy under test, and the origin, as a process: its configuration filled in, started, asked once,
stopped. All forward one port of 127.0.0.1 to the origin, with one worker and keep-alive on both sides."""

import http.client
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass

from . import machine, tools
from .machine import Fatal

# 105 bytes.
BODY = (
    "The quick brown fox jumped over the lazy dog, "
    "and the lazy dog lets it: nothing here is worth getting up."
)
CONF = tools.ROOT / "bench" / "conf"
LABELS = {
    "bare": "bare Pingora",
    "tidegate": "Tidegate",
    "nginx": "nginx",
    "haproxy": "HAProxy",
    "envoy": "Envoy",
}
WITH_LOG = ("tidegate", "nginx", "haproxy", "envoy")
# What follows the + of a name, and what it adds to the label.
VARIANTS = {
    "": "",
    "log": " + access log",
    "policies": " + policies",
    "jwt": " + jwt",
    "handshake": "",
    # Nothing: in their table all are alike.
    "production": "",
    "unhedged": " without hedge",
    "hedged": " with hedge",
    # Of the settings that only other routes use.
    "without": " without them",
    "unused": " + unused settings",
    "tcp": "",
    "tcp-copy": " without splicing",
    "websocket": "",
    "unbuffered": " unbuffered",
    "grpc": "",
    "threads": ", two threads",
    "unsampled": " + tracing, nothing sampled",
    "some": " + tracing, 1 % sampled",
    "all": " + tracing, all sampled",
    "ids": " + request ids",
    # Of the collector that takes their spans, or does not.
    "away": ", collector away",
    "stalled": ", collector stalls",
    "refusing": ", collector refuses",
    "limited": ", collector is limited",
    "partial": ", collector rejects some",
    "killed": ", collector breaks off",
    "cores": ", two threads on two cores",
    # What a plugin does, see plugins.py.
    "pass": " + plugin, pass-through",
    "fields": " + plugin, fields",
    "body": " + plugin, body",
    "call": " + plugin, call",
    "mute": " without console",
    "watched": ", watched by five and a tail",
}
WORKS = ("pass", "fields", "body", "call")
# These have a configuration of their own: conf/tidegate-policies.yaml.
WITH_TEMPLATE = ("policies", "jwt", "handshake", "production", "tcp", "tcp-copy", "websocket", "without", "unused")
NAMES = (*LABELS, *(f"{name}+log" for name in WITH_LOG), "tidegate+policies", "nginx+unbuffered")
START_SECONDS = 15
# The share of requests that are traced.
SAMPLED = {
    **{"unsampled": "0%", "some": "1%", "all": "100%"},
    **dict.fromkeys(("away", "stalled", "refusing", "limited", "partial", "killed"), "100%"),
}


def label(name):
    base, _, variant = name.partition("+")
    return LABELS[base] + VARIANTS[variant]


def kind(name):
    return name.partition("+")[0]


@dataclass
class Binaries:
    tidegate: object
    bare: object
    envoy: object = None


class Running:
    """A started process group. `stop` is safe to call twice. It is ready when `path`, asked for with `headers`, is
    answered with `body`."""

    def __init__(
        self, name, core, argv, port, h2c_port=None, *, path="/", body=BODY, headers=None, admin_port=None
    ):
        self.name, self.port, self.h2c_port, self.admin_port = name, port, h2c_port or port, admin_port
        self.path, self.body, self.headers = path, body, headers or {}
        self.output = tools.WORK / f"{name}.out"
        env = {k: v for k, v in os.environ.items() if k != "RUST_LOG"}
        with open(self.output, "wb") as out:
            self.began = time.monotonic()
            self.process = subprocess.Popen(
                machine.pinned(core, argv),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=tools.WORK,
                env=env,
                start_new_session=True,
            )

    @property
    def pid(self):
        return self.process.pid

    def wait_until_it_answers(self, pause=0.005, seconds=START_SECONDS):
        """Until a request to it returns 200 and the right body."""
        deadline = time.monotonic() + seconds
        answer = "nothing"
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Fatal(f"{self.name} exited with {self.process.returncode}: {self._last_words()}")
            answer = ask(self.port, self.path, self.headers)
            if answer == (200, self.body):
                self.answered = time.monotonic()
                return
            time.sleep(pause)
        raise Fatal(
            f"{self.name} did not answer 200 and the right body within {seconds} s, but {answer}: "
            f"{self._last_words()}"
        )

    def check_h2c(self):
        argv = [tools.find("nghttp"), f"http://127.0.0.1:{self.h2c_port}/"]
        body = subprocess.run(argv, capture_output=True, text=True, timeout=10).stdout
        if body != BODY:
            raise Fatal(f"{self.name} did not answer over h2c with the right body, but {body[:100]!r}")

    def access_log(self):
        """HAProxy cannot write to a file; what it says at its start stands before its lines."""
        return self.output if kind(self.name) == "haproxy" else access_log_path(self.name)

    def empty_logs(self):
        """Between rounds: at 30,000 lines a second the disk would fill."""
        for path in (self.output, access_log_path(self.name)):
            if path.exists():
                os.truncate(path, 0)

    def stop(self):
        # Asked first, so that a master reaps its workers; the group is killed for whoever drains too long.
        self.process.terminate()
        try:
            self.process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def _last_words(self):
        lines = self.output.read_text(errors="replace").strip().splitlines()
        return (lines[-1] if lines else "it said nothing") + f" (see {self.output})"


@dataclass
class Answer:
    """`headers[name]` is None when there is none of that name."""

    status: int
    headers: object
    body: str


def fetch(port, path="/", *, method="GET", headers=None, body=None):
    """The answer to one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read().decode(errors="replace"))
    finally:
        connection.close()


def ask(port, path="/", headers=None):
    """The answer to one GET: (status, body), or the error."""
    try:
        answer = fetch(port, path, headers=headers)
        return answer.status, answer.body
    except (OSError, http.client.HTTPException) as error:
        return error


def start_origin(core):
    port = machine.free_port()
    conf = fill("origin.conf", "origin", dir=tools.WORK, port=port, body=BODY)
    return _started(Running("origin", core, _nginx(conf), port))


# Of `tidegate backend`: what it says to `/` has its address in it.
BACKEND_ANSWER = {"path": f"/bytes/{len(BODY)}", "body": "\0" * len(BODY)}


def start_backend(core, binaries):
    """`tidegate backend` as the origin: it reads all of a body before it answers, or says the same again."""
    return _backend(core, binaries, [machine.free_port()], BACKEND_ANSWER)


def _backend(core, binaries, ports, answer):
    listen = [word for port in ports for word in ("--listen", f":{port}")]
    return _started(Running("origin", core, [binaries.tidegate, "backend", *listen], ports[0], **answer))


class Stalling:
    """`tidegate backend` as endpoints that answer after `USUAL`, and each `EVERY`th request after `STALL`."""

    ENDPOINTS, USUAL, STALL, EVERY = 3, "5ms", "400ms", 50
    PATH = f"/delay/{USUAL}/{STALL}/{EVERY}"

    def __init__(self, core, binaries):
        self.ports = [machine.free_port() for _ in range(self.ENDPOINTS)]
        self.process = _backend(core, binaries, self.ports, USUAL_ANSWER)

    def served(self):
        """Requests that have arrived at all endpoints; asking is not counted."""
        return sum(int(ask(port, "/count")[1]) for port in self.ports)

    def stop(self):
        self.process.stop()


# Of the process as a whole: what it says to `/` has its address in it.
USUAL_ANSWER = {"path": f"/delay/{Stalling.USUAL}", "body": f"waited {Stalling.USUAL}"}


def start_hedging(name, core, origin, binaries):
    port, admin_port = machine.free_port(), machine.free_port()
    values = {
        "name": name,
        "dir": tools.WORK,
        "port": port,
        "admin_port": admin_port,
        "endpoints": ", ".join(f'"127.0.0.1:{port}"' for port in origin.ports),
        "hedge": "{after: p95}" if name.endswith("+hedged") else "null",
    }
    argv = [binaries.tidegate, "run", "-c", fill("tidegate-hedge.yaml", name, **values)]
    return _started(Running(name, core, argv, port, **USUAL_ANSWER))


def start(
    name,
    core,
    origin_port,
    binaries,
    *,
    wait=True,
    headers=None,
    values=None,
    answer=None,
    collectors=None,
    plugin=None,
    plugins=1,
    under=(),
):
    """With `values` for its configuration, beside those that all have; ready when it answers a request with `headers`,
    with the origin's body or with `answer`. `collectors` has ports of those that are not the origin, by variant; `plugin`
    is the module of those variants that have one, so many times. `under` is a command that runs it."""
    port, h2c_port, admin_port = machine.free_port(), machine.free_port(), machine.free_port()
    values = {
        **(values or {}),
        "name": name,
        "dir": tools.WORK,
        "port": port,
        "h2c_port": h2c_port,
        "admin_port": admin_port,
        "console": str(not name.endswith("+mute")).lower(),
        "origin_port": origin_port,
        "access_log": _access_log(name),
        "tracing": _tracing(name, (collectors or {}).get(name.partition("+")[2], origin_port)),
        "envoy_tracing": _envoy_tracing(name, origin_port),
        "request_ids": str(name in ("envoy+ids", "envoy+all")).lower(),
        "threads": 2 if name.endswith(("+threads", "+cores")) else 1,
        "request_buffering": "off" if name.endswith("+unbuffered") else "on",
        **_to_origin(name.endswith("+grpc")),
        **_plugins(name.partition("+")[2], plugin, plugins),
    }
    match kind(name):
        case "bare":
            argv = [binaries.bare, f"127.0.0.1:{port}", f"127.0.0.1:{origin_port}"]
        case "tidegate":
            argv = [binaries.tidegate, "run", "-c", fill(_template(name, "yaml"), name, **values)]
        case "nginx":
            argv = _nginx(fill(_template(name, "conf"), name, **values))
        case "haproxy":
            argv = [tools.find("haproxy"), "-db", "-f", fill(_template(name, "cfg"), name, **values)]
        case "envoy":
            conf = fill(_template(name, "yaml"), name, **values)
            argv = [binaries.envoy, "-c", conf, "--concurrency", "1", "--disable-hot-restart", "-l", "warn"]
        case _:
            raise Fatal(f"no proxy is called {name} (known: {', '.join(NAMES)})")
    own_h2c_port = h2c_port if kind(name) == "nginx" else None
    admin = {"admin_port": admin_port} if kind(name) in ("tidegate", "envoy") else {}
    running = Running(name, core, [*under, *argv], port, own_h2c_port, headers=headers, **admin, **(answer or {}))
    return _started(running) if wait else running


def _tracing(name, collector_port):
    """The origin takes whatever it is sent, so it is the collector as well: what that costs is not the proxy's."""
    share = SAMPLED.get(name.partition("+")[2])
    if share is None:
        return "null"
    return f'{{sample: {{new: {share}, at_most: "off"}}, otlp: {{endpoint: "http://127.0.0.1:{collector_port}"}}}}'


def _envoy_tracing(name, origin_port):
    """Of all requests, to the same collector, with the same two spans: of the request, and towards the origin."""
    if name != "envoy+all":
        return "null"
    uri = f'{{uri: "http://127.0.0.1:{origin_port}/v1/traces", cluster: origin, timeout: 10s}}'
    config = (
        '{"@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, '
        f"service_name: edge, http_service: {{http_uri: {uri}}}}}"
    )
    provider = f"{{name: envoy.tracers.opentelemetry, typed_config: {config}}}"
    return f"{{spawn_upstream_span: true, random_sampling: {{value: 100}}, provider: {provider}}}"


def _to_origin(grpc):
    """HTTP/2 by prior knowledge towards the origin, or HTTP/1.1."""
    of = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = f'{{"@type": type.googleapis.com/{of}, explicit_http_config: {{http2_protocol_options: {{}}}}}}'
    return {
        "protocol": "grpc" if grpc else "http1",
        "protocol_options": f"{{{of}: {options}}}" if grpc else "{}",
        "pass": "grpc_pass grpc://origin" if grpc else "proxy_pass http://origin",
    }


def _plugins(work, module, count):
    """Each does the same once more. Tidegate is told which callbacks are wanted; Envoy has no such setting."""
    names = [f"measured-{n}" for n in range(count)] if work in WORKS else []
    phases = ", phases: [request_headers]" if work == "pass" else ""
    ours = [
        f'{n}: {{file: "{module}", config: {work}, upstreams: [origin], limits: {{calls: 1024}}{phases}}}'
        for n in names
    ]
    text = "type.googleapis.com/google.protobuf.StringValue"
    theirs = [
        "- {name: envoy.filters.http.wasm, typed_config: "
        '{"@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm, config: '
        f'{{name: {n}, configuration: {{"@type": {text}, value: {work}}}, '
        f"vm_config: {{vm_id: {n}, runtime: envoy.wasm.runtime.v8, "
        f'code: {{local: {{filename: "{module}"}}}}}}}}}}}}'
        for n in names
    ]
    return {
        "plugins": f"{{{', '.join(ours)}}}",
        "filters": f"[{', '.join(f'wasm: {n}' for n in names)}]",
        "envoy_plugins": ("\n" + " " * 18).join(theirs),
    }


def _template(name, suffix):
    base, _, variant = name.partition("+")
    return f"{base}-{variant}.{suffix}" if variant in WITH_TEMPLATE else f"{base}.{suffix}"


def fill(template, owner, **values):
    text = (CONF / template).read_text()
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    if left := re.search(r"@[a-z_0-9]+@", text):
        raise Fatal(f"conf/{template}: nothing is known for {left[0]}")
    path = tools.WORK / f"{owner}-{template}"
    path.write_text(text)
    return path


def filled(name):
    """The configuration that was made from a template of its own."""
    return tools.WORK / f"{name}-{_template(name, 'yaml')}"


def access_log_path(name):
    return tools.WORK / f"{name}.access.log"


def _access_log(name):
    path = access_log_path(name)
    path.unlink(missing_ok=True)
    file_logger = (
        '[{name: envoy.access_loggers.file, typed_config: {"@type": '
        "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, "
        f'path: "{path}"'
        ', log_format: {json_format: {ts: "%START_TIME%", method: "%REQ(:METHOD)%", '
        'host: "%REQ(:AUTHORITY)%", '
        'path: "%REQ(:PATH)%", status: "%RESPONSE_CODE%", bytes_out: "%BYTES_SENT%", '
        'duration_ms: "%DURATION%", '
        'upstream: "%UPSTREAM_HOST%", client: "%DOWNSTREAM_REMOTE_ADDRESS%", protocol: "%PROTOCOL%", '
        'request_id: "%REQ(X-REQUEST-ID)%", user_agent: "%REQ(USER-AGENT)%"}}}}]'
    )
    off_on = {
        "bare": ("", ""),
        "tidegate": ("off", path),
        "nginx": ("off", f"{path} json buffer=64k flush=1s"),
        "haproxy": ("no log", "log stdout format raw local0 info\n    option httplog"),
        "envoy": ("[]", file_logger),
    }
    return off_on[kind(name)][name.endswith("+log")]


def _nginx(conf):
    (tools.WORK / "logs").mkdir(exist_ok=True)
    return [tools.find("nginx"), "-p", tools.WORK, "-e", "stderr", "-c", conf]


def _started(running):
    try:
        running.wait_until_it_answers()
    except BaseException:
        running.stop()
        raise
    return running


def once_it_echoes(running, name, echoes):
    """`running`, which is stopped where it never does."""
    try:
        wait_until_it_echoes(name, running.process, lambda: echoes(running.port))
    except BaseException:
        running.stop()
        raise
    return running


def wait_until_it_echoes(name, process, echoes):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Fatal(f"{name} exited with {process.returncode}")
        try:
            if echoes():
                return
        except OSError:
            pass
        time.sleep(0.01)
    raise Fatal(f"{name} did not echo within {START_SECONDS} s")
