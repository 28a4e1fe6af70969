"""What a plugin in WebAssembly costs a request: the same module in Tidegate and in Envoy, and the same route without it."""

import http.client
from dataclasses import dataclass
from functools import partial
from statistics import median

from . import machine, proxies, report, tools
from .machine import Fatal
from .measure import notes, started, with_wrk
from .proxies import label

# What is promised: of the CPU that a plugin adds to a request in Envoy, and microseconds.
MOST_OF_ENVOY, MOST_FOR_PASS_US = 0.5, 3
# Plugins whose memory is looked at.
MANY = 10


@dataclass
class Kind:
    """What the plugin does with each request. One that reads says how many bytes it has read."""

    work: str
    title: str
    size: int = 0
    read: int | None = None

    @property
    def script(self):
        return ("post.lua", self.size) if self.size else None

    def check(self, proxy):
        """The plugin must have done it, and the request must have passed all the same."""
        body = "b" * self.size
        try:
            answer = proxies.fetch(proxy.port, proxy.path, method="POST" if body else "GET", body=body or None)
        except (OSError, http.client.HTTPException) as error:
            raise Fatal(f"{label(proxy.name)} did not answer: {error}") from None
        if (answer.status, answer.body) != (200, proxy.body):
            raise Fatal(f"{label(proxy.name)} answered {answer.status} and {len(answer.body)} bytes")
        read = answer.headers["x-measured-read"]
        if (read is not None) != (self.work != "pass") or self.read not in (None, int(read or 0)):
            raise Fatal(f"{label(proxy.name)}: the plugin says that it has read {read}")


KINDS = (
    Kind("pass", "pass-through"),
    Kind("fields", "6 fields read, 2 set, both ways"),
    Kind("body", "a body of 16 KiB read", 1 << 14, 1 << 14),
    Kind("call", "one call out", 0, len(proxies.BACKEND_ANSWER["body"])),
)


def wasm(bench):
    """The price of a plugin in WebAssembly, beside that of the same module in Envoy."""
    module = tools.plugin("measured")
    rows, said, loaded = [], [], []
    for kind in KINDS:
        names = [name for base in bench.names for name in (base, f"{base}+{kind.work}")]
        launch = partial(proxies.start, plugin=module)
        with started(bench, names, launch, backend=True) as (_, running):
            for proxy in running:
                if proxy.name.endswith(f"+{kind.work}"):
                    kind.check(proxy)
            print(f"{kind.title}:", flush=True)
            samples = with_wrk(bench, running, path=proxies.BACKEND_ANSWER["path"], script=kind.script)
        added = {base: added_cpu(samples, f"{base}+{kind.work}", base) for base in bench.names}
        rows += [
            [
                kind.title,
                label(base),
                f"{median(s.cpu_us for s in samples[base]):.1f}",
                f"{median(s.cpu_us for s in samples[f'{base}+{kind.work}']):.1f}",
                f"{median(added[base]):.1f}",
            ]
            for base in bench.names
        ]
        said += judged(kind, added)
        loaded += notes(samples)
    header = ["the plugin does", "proxy", "without us/request", "with us/request", "added us/request"]
    return report.table(header, rows), [*said, *memory(bench, module), *loaded]


def added_cpu(samples, name, base):
    """In each round, for a request."""
    return [a.cpu_us - b.cpu_us for a, b in zip(samples[name], samples[base])]


def judged(kind, added):
    """Each is a small difference of large numbers, so that the ratio is that of the medians."""
    said = []
    if kind.work == "pass" and "tidegate" in added:
        ours = median(added["tidegate"])
        verdict = "as it must be" if ours <= MOST_FOR_PASS_US else "TOO MUCH"
        said.append(f"{kind.title}: {ours:.1f} us are added, at most {MOST_FOR_PASS_US} us: {verdict}.")
    if {"tidegate", "envoy"} <= set(added):
        ours, theirs = median(added["tidegate"]), median(added["envoy"])
        if theirs <= 0:
            raise Fatal("Envoy is no slower with a plugin: the machine is too busy to compare")
        verdict = "as it must be" if ours / theirs <= MOST_OF_ENVOY else "TOO MUCH"
        said.append(
            f"{kind.title}: added CPU {ours:.1f} us, {ours / theirs:.2f} x Envoy's {theirs:.1f} us, at most "
            f"{MOST_OF_ENVOY:.2f}: {verdict}."
        )
    return said


def memory(bench, module):
    """Of a process that has answered some requests, with many plugins and with none; and when it answers first."""
    said = []
    for base in bench.names:
        held, ready = {}, {}
        for count in (0, MANY):
            launch = partial(proxies.start, plugin=module, plugins=count, wait=False)
            with started(bench, [f"{base}+pass"], launch, backend=True) as (_, (proxy,)):
                proxy.wait_until_it_answers(pause=0.001)
                ready[count] = proxy.answered - proxy.began
                for _ in range(100):
                    proxies.ask(proxy.port, proxy.path)
                held[count] = machine.memory_bytes(proxy.pid)
        said.append(
            f"{proxies.LABELS[base]} with {MANY} plugins: {report.megabytes(held[MANY])} MB "
            f"({report.megabytes((held[MANY] - held[0]) / MANY)} MB each), the first answer after "
            f"{ready[MANY] * 1000:.0f} ms; without: {report.megabytes(held[0])} MB, {ready[0] * 1000:.0f} ms."
        )
    return said
