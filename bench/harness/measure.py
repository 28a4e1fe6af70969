"""How a profile measures: interleaved rounds, processor time charged to requests, ratios within a round, and what is said of them."""

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from statistics import median

from . import load, machine, proxies, report
from .proxies import label

H2_CONNECTIONS, H2_STREAMS = 8, 8
RATE = 10_000


@dataclass
class Bench:
    """What a profile needs to know: where to run what, and for how long."""

    names: list
    binaries: object
    core: int
    load_core: int
    rounds: int
    seconds: int
    connections: int
    # Promises that were not kept, of a profile that ends the run with 1 then.
    missed: list = field(default_factory=list)


@dataclass
class Sample:
    """One proxy in one round."""

    load: load.Load
    cpu: float
    foreign: float

    @property
    def cpu_us(self):
        return self.cpu / self.load.requests * 1e6


@contextmanager
def started(bench, names, launch=proxies.start, backend=False):
    """The origin, which is `tidegate backend` where it must be, and the proxies, stopped whatever happens."""
    with ExitStack() as stack:
        if backend:
            origin = proxies.start_backend(bench.load_core, bench.binaries)
            launch = partial(launch, answer=proxies.BACKEND_ANSWER)
        else:
            origin = proxies.start_origin(bench.load_core)
        stack.callback(origin.stop)
        running = []
        for name in names:
            running.append(launch(name, bench.core, origin.port, bench.binaries))
            stack.callback(running[-1].stop)
        yield origin, running


def measured(bench, proxy, generate):
    """Runs a load and charges the proxy's processor time to its requests."""
    cpu, busy, began = machine.cpu_seconds(proxy.pid), machine.busy_seconds(bench.core), time.monotonic()
    done = generate(proxy)
    cpu = machine.cpu_seconds(proxy.pid) - cpu
    foreign = machine.busy_seconds(bench.core) - busy - cpu
    return Sample(done, cpu, max(0.0, foreign) / (time.monotonic() - began))


def rounds(bench, running, generate):
    """name -> one sample per round. Each round visits every proxy, and starts with another one each time,
    so that whatever the machine does meanwhile hits all alike."""
    samples = {proxy.name: [] for proxy in running}
    for n in range(bench.rounds):
        for proxy in running[n % len(running) :] + running[: n % len(running)]:
            samples[proxy.name].append(measured(bench, proxy, generate))
            proxy.empty_logs()
        print(
            f"round {n + 1} of {bench.rounds}: "
            + ", ".join(f"{proxy.name} {samples[proxy.name][-1].cpu_us:.1f} us" for proxy in running),
            flush=True,
        )
    return samples


def with_wrk(bench, running, warmed=None, **request):
    """Rounds at full speed over keep-alive, with the headers that each proxy was asked with at its start. `warmed` is
    told of each after its first second, and what it answered in it."""

    def generate(proxy, seconds=bench.seconds):
        connections, headers = bench.connections, proxy.headers
        return load.wrk(bench.load_core, proxy.port, seconds, connections, headers=headers, **request)

    for proxy in running:
        first = generate(proxy, seconds=1)
        if warmed:
            warmed(proxy, first.requests)
    return rounds(bench, running, generate)


def at_a_rate(bench):
    """A load of 10,000 requests a second, that comes as clients do who know nothing of each other."""
    # Its own latency and the timer's granularity of a millisecond come on top of each pause.
    pause_ms = round(bench.connections * 1000 / RATE - 0.8, 1)
    seeds = count(1)

    def generate(proxy):
        script = ("steady.lua", pause_ms, next(seeds))
        return load.wrk(bench.load_core, proxy.port, bench.seconds, bench.connections, script=script)

    return generate


def with_h2load(bench, running, **request):
    """As `with_wrk`, over HTTP/2."""

    def generate(proxy, seconds=bench.seconds):
        return load.h2load(bench.load_core, proxy.h2c_port, seconds, H2_CONNECTIONS, H2_STREAMS, **request)

    for proxy in running:
        generate(proxy, seconds=1)
    return rounds(bench, running, generate)


def per_request(bench, running, samples, yardsticks=report.YARDSTICKS, request="request"):
    cpu = {name: [s.cpu_us for s in of] for name, of in samples.items()}
    ratios = report.ratios(cpu, yardsticks)
    rows = [
        [
            label(proxy.name),
            f"{median(cpu[proxy.name]):.1f}",
            *(f"{of[proxy.name]:.2f}" for of in ratios.values()),
            f"{median(s.load.requests / s.load.seconds for s in samples[proxy.name]):,.0f}",
            report.times(median(s.load.p50 for s in samples[proxy.name])),
            report.times(median(s.load.p99 for s in samples[proxy.name])),
            report.megabytes(machine.memory_bytes(proxy.pid)),
        ]
        for proxy in running
    ]
    return report.table(
        ["proxy", f"CPU us/{request}", *ratios, f"{request}s/s", "p50 ms", "p99 ms", "memory MB"], rows
    )


def compared(what, samples, yardsticks):
    """Tidegate's processor time beside that of each yardstick that was measured."""
    return [
        spread(what, cpu_ratios(samples, name, base), label(base)) + "."
        for name in samples
        for base in yardsticks
        if proxies.kind(name) == "tidegate" and base in samples
    ]


def cpu_ratios(samples, name, base):
    """In each round."""
    return [a.cpu_us / b.cpu_us for a, b in zip(samples[name], samples[base])]


def verdict(what, ratios, most, base="without"):
    said = "as it must be" if median(ratios) <= most else "TOO MUCH"
    return f"{spread(what, ratios, base)}, at most {most:.2f}: {said}."


def spread(what, ratios, base):
    return f"{what}: {median(ratios):.2f} x {base} ({min(ratios):.2f} to {max(ratios):.2f} in single rounds)"


def notes(samples):
    """Says so when the core under test was not the proxy's alone."""
    shared = [
        f"{name} {median(s.foreign for s in of):.0%}"
        for name, of in samples.items()
        if median(s.foreign for s in of) > 0.05
    ]
    if not shared:
        return []
    return [
        f"The core under test was shared with other processes or machines: {', '.join(shared)} of the time. "
        "Repeat on a quiet machine."
    ]
