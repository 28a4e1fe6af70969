"""One function per profile: measure in interleaved rounds, return the table and what it says about itself."""

import time
from contextlib import ExitStack
from functools import partial
from statistics import median

from . import bodies, calls, carried, guarded, handshakes, load, machine, plugins, proxies, report, tokens, traced
from . import unused, watched, websockets
from .machine import Fatal
from .measure import (
    at_a_rate,
    compared,
    cpu_ratios,
    notes,
    per_request,
    rounds,
    spread,
    started,
    verdict,
    with_h2load,
    with_wrk,
)
from .proxies import label

START_RUNS = 20
# What is promised, as ratios: CPU for each request, the 99th percentile, and requests sent to the upstream.
MOST_FOR_POLICIES, MOST_OF_P99, MOST_FOR_HEDGES = 1.15, 0.20, 1.10
MOST_FOR_JWT = 1.15
# 0.85 times the handshakes a second.
MOST_FOR_HANDSHAKE = 1 / 0.85
MUTUAL_HANDSHAKES, MOST_MUTUAL_MS = 1_000, 5
# To what others spend on the same work: name -> (as it is called, at most).
MOST_IN_PRODUCTION = {"haproxy": ("HAProxy", 0.9), "envoy": ("Envoy", 0.5)}
# Of TCP: to what HAProxy spends on a byte, microseconds, connections and bytes.
MOST_FOR_BYTES, MOST_ADDED_US, TCP_RATE = 1 / 0.9, 200, 4_000
IDLE_TCP, MOST_IDLE_TCP = 10_000, 200e6
# Of WebSocket: microseconds, messages a second, sockets that are held, and seconds.
MOST_ADDED_TO_ECHO_US, ECHO_RATE, HELD, GRACE = 500, 4_000, 5_000, 10


# nginx as it comes, which has all of a request before it asks the origin, and as it streams.
BODY_YARDSTICKS = {
    "bare": "x bare Pingora",
    "nginx": "x nginx",
    "nginx+unbuffered": "x nginx unbuffered",
    "envoy": "x Envoy",
}
GRPC_YARDSTICKS = {"nginx+grpc": "x nginx", "envoy+grpc": "x Envoy"}
# Of a body that is passed on, in bytes: buffers, and what the allocator keeps.
MOST_HELD = 8e6


def plain(bench):
    """HTTP/1.1 over keep-alive."""
    with started(bench, bench.names) as (_, running):
        samples = with_wrk(bench, running)
        return per_request(bench, running, samples), notes(samples)


def h2c(bench):
    """HTTP/2 in plaintext to the proxy, HTTP/1.1 to the origin."""
    with started(bench, bench.names) as (_, running):
        for proxy in running:
            proxy.check_h2c()
        samples = with_h2load(bench, running)
        return per_request(bench, running, samples), notes(samples)


def grpc(bench):
    """Unary calls, HTTP/2 in plaintext to the proxy and to the origin."""
    names = [f"{name}+grpc" for name in bench.names]
    with started(bench, names, backend=True) as (_, running):
        for proxy in running:
            calls.check(proxy)
        samples = with_h2load(bench, running, **calls.request())
        table = per_request(bench, running, samples, GRPC_YARDSTICKS, "call")
    return table, [*compared("CPU", samples, GRPC_YARDSTICKS), *notes(samples)]


def accept(bench):
    """A connection for each request, beside keep-alive: the difference is the price of a connection."""

    def generate(close):
        return lambda p: load.wrk(bench.load_core, p.port, bench.seconds, bench.connections, close=close)

    with started(bench, bench.names) as (_, running):
        for proxy in running:
            load.wrk(bench.load_core, proxy.port, 1, bench.connections)
        kept = rounds(bench, running, generate(False))
        fresh = rounds(bench, running, generate(True))
    kept_us = {name: [s.cpu_us for s in of] for name, of in kept.items()}
    fresh_us = {name: [s.cpu_us for s in of] for name, of in fresh.items()}
    kept_ratios, fresh_ratios = report.ratios(kept_us), report.ratios(fresh_us)
    rows = [
        [
            label(name),
            f"{median(kept_us[name]):.1f}",
            *(f"{of[name]:.2f}" for of in kept_ratios.values()),
            f"{median(fresh_us[name]):.1f}",
            *(f"{of[name]:.2f}" for of in fresh_ratios.values()),
            f"{median(fresh_us[name]) - median(kept_us[name]):.1f}",
        ]
        for name in kept_us
    ]
    header = [
        "proxy",
        "keep-alive us/request",
        *kept_ratios,
        "new connection us/request",
        *fresh_ratios,
        "difference us",
    ]
    return report.table(header, rows), notes(kept) + notes(fresh)


def latency(bench):
    """At a fixed rate: what the proxy adds to the origin's own latency."""
    with started(bench, bench.names) as (origin, running):
        samples = rounds(bench, [origin, *running], at_a_rate(bench))
    rows = []
    for name, of in samples.items():
        pairs = list(zip(of, samples["origin"]))
        added = [a.load.p50 - b.load.p50 for a, b in pairs], [a.load.p99 - b.load.p99 for a, b in pairs]
        rows.append(
            [
                "origin, directly" if name == "origin" else label(name),
                f"{median(s.load.requests / s.load.seconds for s in of):,.0f}",
                report.times(median(s.load.p50 for s in of)),
                report.times(median(s.load.p99 for s in of)),
                *(("-", "-") if name == "origin" else (report.times(median(values)) for values in added)),
            ]
        )
    header = ["proxy", "requests/s", "p50 ms", "p99 ms", "added p50 ms", "added p99 ms"]
    return report.table(header, rows), notes({n: s for n, s in samples.items() if n != "origin"})


def idle(bench):
    """How much an idle keep-alive connection weighs, in a process that has served nothing else."""
    limit = machine.raise_file_limit(3 * bench.connections + 4096)
    if limit < bench.connections + 1024:
        raise Fatal(
            f"{bench.connections} connections need more than the {limit} open files allowed here: raise "
            "`ulimit -Hn`, or lower --connections"
        )
    rows = []
    for name in bench.names:
        with started(bench, [name]) as (_, (proxy,)):
            for _ in range(100):
                proxies.ask(proxy.port)
            before = machine.memory_bytes(proxy.pid)
            connections = load.IdleConnections(proxy.port)
            try:
                connections.open(bench.connections)
                time.sleep(1)
                after = machine.memory_bytes(proxy.pid)
                if closed := connections.closed_by_peer():
                    raise Fatal(f"{name} closed {closed} of {bench.connections} idle connections")
            finally:
                connections.close()
        rows.append(
            [
                label(name),
                report.megabytes(before),
                report.megabytes(after),
                f"{(after - before) / bench.connections / 1000:.1f}",
            ]
        )
        print(f"{name}: {rows[-1][-1]} KB per connection", flush=True)
    return report.table(
        ["proxy", "memory before MB", f"with {bench.connections:,} idle MB", "KB/connection"], rows
    ), []


def start(bench):
    """From the start of the process to the first 200 through it, the files already in the page cache."""
    rows = []
    with started(bench, []) as (origin, _):
        for name in bench.names:
            took = [started_in(bench, name, origin.port) for _ in range(START_RUNS + 1)][1:]
            rows.append([label(name), *(f"{f(took) * 1000:.0f}" for f in (median, min, max))])
            print(f"{name}: {rows[-1][1]} ms", flush=True)
    return report.table(["proxy", f"ready after ms (median of {START_RUNS})", "fastest", "slowest"], rows), []


def started_in(bench, name, origin_port):
    proxy = proxies.start(name, bench.core, origin_port, bench.binaries, wait=False)
    try:
        began = proxy.began
        proxy.wait_until_it_answers(pause=0.001)
        return time.monotonic() - began
    finally:
        proxy.stop()


def policies(bench):
    """The price of traffic policies while nothing fails: the same process and route, with them and without."""
    with started(bench, bench.names) as (_, running):
        samples = with_wrk(bench, running)
        table = per_request(bench, running, samples, {"tidegate": "x without"})
    ratios = cpu_ratios(samples, *reversed(bench.names))
    return table, [verdict("CPU with policies", ratios, MOST_FOR_POLICIES), *notes(samples)]


def jwt(bench):
    """The price of a token that has been seen before: the same requests to a route with verification and without."""
    key = tokens.Rs256()
    launch = partial(guarded.start, key=key, headers=guarded.headers(key))
    with started(bench, bench.names, launch) as (_, running):
        guarded.check_refusals(running[1], key)
        samples = with_wrk(bench, running)
        table = per_request(bench, running, samples, {"tidegate": "x without"})
    ratios = cpu_ratios(samples, *reversed(bench.names))
    return table, [verdict("CPU with a hot RS256 token", ratios, MOST_FOR_JWT), *notes(samples)]


def production(bench):
    """What a public API asks of its gateway, all at once. Each proxy shows first that it does it."""
    key = tokens.Hs256()
    launch = partial(guarded.start, key=key, headers=guarded.headers(key))
    names = [f"{name}+production" for name in bench.names]
    with started(bench, names, launch) as (_, running):
        for proxy in running:
            guarded.check_refusals(proxy, key)
            guarded.check_answer(proxy)
            guarded.check_preflight(proxy)
        samples = with_wrk(bench, running, warmed=guarded.check_log)
        yardsticks = {f"{name}+production": f"x {of}" for name, (of, _) in MOST_IN_PRODUCTION.items()}
        table = per_request(bench, running, samples, yardsticks)
    verdicts = [
        verdict(
            "CPU in production",
            cpu_ratios(samples, "tidegate+production", f"{name}+production"),
            most,
            of,
        )
        for name, (of, most) in MOST_IN_PRODUCTION.items()
        if {"tidegate", name} <= set(bench.names)
    ]
    return table, [*verdicts, *notes(samples)]


def handshake(bench):
    """A full TLS handshake for each request, and how long one takes in which both sides verify."""
    certificates = handshakes.Certificates()
    launch = partial(handshakes.start, certificates=certificates)
    names = [f"{name}+handshake" for name in bench.names]

    def generate(proxy):
        return load.wrk(bench.load_core, proxy.tls_port, bench.seconds, bench.connections, close=True, tls=True)

    with started(bench, names, launch) as (_, running):
        mutual = {}
        for proxy in running:
            handshakes.check_refusal(proxy.mtls_port, certificates)
            load.wrk(bench.load_core, proxy.tls_port, 1, bench.connections, close=True, tls=True)
            mutual[proxy.name] = handshakes.mutual(bench.load_core, proxy.mtls_port, certificates, MUTUAL_HANDSHAKES)
        samples = rounds(bench, running, generate)
    cpu = {name: [s.cpu_us for s in of] for name, of in samples.items()}
    rows = [
        [
            label(name),
            f"{median(of):.0f}",
            f"{1e6 / median(of):,.0f}",
            *(report.times(mutual[name][len(mutual[name]) * p // 100]) for p in (50, 99)),
        ]
        for name, of in cpu.items()
    ]
    header = ["proxy", "CPU us/handshake", "handshakes/s on a core", "mTLS p50 ms", "mTLS p99 ms"]
    p99 = mutual[names[0]][MUTUAL_HANDSHAKES * 99 // 100] / 1000
    said = "as it must be" if p99 < MOST_MUTUAL_MS else "TOO MUCH"
    verdicts = [f"mTLS handshake, p99 of {MUTUAL_HANDSHAKES:,}: {p99:.2f} ms, less than {MOST_MUTUAL_MS} ms: {said}."]
    if len(names) > 1:
        ratios = cpu_ratios(samples, *names[:2])
        verdicts.append(verdict("CPU for a full handshake", ratios, MOST_FOR_HANDSHAKE, "nginx"))
    return report.table(header, rows), [*verdicts, *notes(samples)]


def tcp(bench):
    """One connection at full speed, messages on many, and many that are silent."""
    rows = {name: [label(name)] for name in bench.names}
    said = []
    # Two descriptors each in the proxy, and some for itself.
    limit = machine.raise_file_limit(3 * IDLE_TCP + 4096)
    silent = min(IDLE_TCP, limit // 2 - 512)
    with ExitStack() as stack:
        origin = carried.Origin(bench.load_core)
        stack.callback(origin.stop)
        running = []
        for name in bench.names:
            running.append(carried.start(name, bench.core, origin.port, bench.binaries))
            stack.callback(running[-1].stop)
        bulk = {proxy.name: [] for proxy in running}
        for n in range(bench.rounds):
            for proxy in running[n % len(running) :] + running[: n % len(running)]:
                cpu = machine.cpu_seconds(proxy.pid)
                done = carried.run(bench.load_core, "bulk", proxy.port, bench.seconds)
                cpu = machine.cpu_seconds(proxy.pid) - cpu
                bulk[proxy.name].append((done["bytes"] / done["seconds"] / 1e9, cpu / done["bytes"] * 1e9))
            print(f"round {n + 1} of {bench.rounds}: bulk", flush=True)
        echoes = {name: [] for name in ["origin", *bench.names]}
        for n in range(bench.rounds):
            for name, port in [("origin", origin.port), *((proxy.name, proxy.port) for proxy in running)]:
                arguments = (port, bench.seconds, bench.connections, TCP_RATE)
                echoes[name].append(carried.run(bench.load_core, "messages", *arguments))
            print(f"round {n + 1} of {bench.rounds}: messages", flush=True)
    added = {
        name: {p: median(a[p] - b[p] for a, b in zip(of, echoes["origin"])) for p in ("p50", "p99")}
        for name, of in echoes.items()
    }
    held = {name: idle_tcp(bench, name, silent) * IDLE_TCP / silent for name in bench.names}
    for name in bench.names:
        rows[name] += [
            f"{median(rate for rate, _ in bulk[name]):.2f}",
            f"{median(cpu for _, cpu in bulk[name]):.2f}",
            f"{added[name]['p50']:.0f}",
            f"{added[name]['p99']:.0f}",
            report.megabytes(held[name]),
        ]
    if silent < IDLE_TCP:
        said.append(f"Only {silent:,} were open, for want of descriptors: the memory is that, for {IDLE_TCP:,}.")
    ours = bench.names[0]
    for base in bench.names[1:]:
        for what, at in (("Time for a byte", 0), ("CPU for a byte", 1)):
            pairs = zip(bulk[ours], bulk[base])
            ratios = [b[at] / a[at] if at == 0 else a[at] / b[at] for a, b in pairs]
            said.append(verdict(what, ratios, MOST_FOR_BYTES, label(base)))
    for what, value, most, unit in (
        (f"Added latency at {bench.connections:,} connections, p99", added[ours]["p99"], MOST_ADDED_US, "us"),
        (f"Memory with {IDLE_TCP:,} idle connections", held[ours] / 1e6, MOST_IDLE_TCP / 1e6, "MB"),
    ):
        judged = "as it must be" if value <= most else "TOO MUCH"
        said.append(f"{what}: {value:.0f} {unit}, at most {most:.0f}: {judged}.")
    header = [
        "proxy",
        "one connection GB/s",
        "CPU s/GB",
        "added p50 us",
        "added p99 us",
        f"memory with {IDLE_TCP:,} idle MB",
    ]
    return report.table(header, rows.values()), said


def idle_tcp(bench, name, count):
    """Of a process that has done nothing else."""
    with ExitStack() as stack:
        origin = carried.Origin(bench.load_core)
        stack.callback(origin.stop)
        proxy = carried.start(name, bench.core, origin.port, bench.binaries)
        stack.callback(proxy.stop)
        connections = carried.Idle(proxy.port)
        stack.callback(connections.close)
        connections.open(count)
        time.sleep(1)
        if closed := connections.closed_by_peer():
            raise Fatal(f"{name} closed {closed} of {count} idle connections")
        return machine.memory_bytes(proxy.pid)


def websocket(bench):
    """What is added to an echo, and sockets that are held open over a reload, and to the end of a drain."""
    (name,) = bench.names
    # Two descriptors each in the proxy, and some for itself.
    held = min(HELD, machine.raise_file_limit(3 * HELD + 4096) // 2 - 512)
    with ExitStack() as stack:
        origin = proxies.start_backend(bench.load_core, bench.binaries)
        stack.callback(origin.stop)
        proxy = websockets.start(name, bench.core, origin.port, bench.binaries, GRACE)
        stack.callback(proxy.stop)
        direct, through = [], []
        for n in range(bench.rounds):
            for port, times in ((origin.port, direct), (proxy.port, through)):
                arguments = (bench.seconds, bench.connections, ECHO_RATE)
                times.append(websockets.messages(bench.load_core, port, *arguments))
            print(f"round {n + 1} of {bench.rounds}", flush=True)
        sockets = websockets.Held(proxy, held)
        stack.callback(sockets.close)
        memory = machine.memory_bytes(proxy.pid)
        before = sockets.echoed()
        sockets.reload(proxies.filled(name))
        after = sockets.echoed()
        told, seconds = sockets.drain()
    added = {p: median(a[p] - b[p] for a, b in zip(through, direct)) for p in ("p50", "p99")}
    header = ["proxy", "added p50 us", "added p99 us", f"memory with {held:,} open MB", "drained after s"]
    in_us = [f"{added[p]:.0f}" for p in ("p50", "p99")]
    rows = [[label(name), *in_us, report.megabytes(memory), f"{seconds:.1f}"]]
    return report.table(header, rows), [
        f"{what}: {'as it must be' if good else 'NOT AS IT MUST BE'}."
        for what, good in (
            (
                f"Added to an echo at {bench.connections:,} sockets, p99: {added['p99']:.0f} us, less than "
                f"{MOST_ADDED_TO_ECHO_US}",
                added["p99"] < MOST_ADDED_TO_ECHO_US,
            ),
            (f"Of {held:,} open sockets {before:,} echo, and {after:,} after a reload", before == after == held),
            (
                f"On SIGTERM {told:,} are told goodbye, and the process ends within {GRACE} s",
                told == held and seconds < GRACE,
            ),
        )
    ]


def body(bench):
    """Requests that bring a body, small and large, and one that comes back; then a body too large to be held."""
    said, tables = [], []
    with started(bench, bench.names, backend=True) as (_, running):
        for kind in bodies.KINDS:
            for proxy in running:
                kind.check(proxy)
            print(f"{kind.title}:", flush=True)
            samples = with_wrk(bench, running, path=kind.path, script=("post.lua", kind.size))
            tables.append(f"{kind.title}\n\n{per_request(bench, running, samples, BODY_YARDSTICKS)}")
            said += compared(f"{kind.title}, CPU", samples, BODY_YARDSTICKS)
            said += notes(samples)
    if "tidegate" in bench.names:
        said += held_bodies(bench)
    return "\n\n".join(tables), said


def held_bodies(bench):
    """What a process holds of a large body that has served nothing else, up and down."""
    said = []
    for way, carry in (("up", bodies.up), ("down", bodies.down)):
        with started(bench, ["tidegate"], backend=True) as (_, (proxy,)):
            for _ in range(100):
                proxies.ask(proxy.port)
            before, seen = machine.memory_bytes(proxy.pid), []
            carry(proxy, lambda: seen.append(machine.memory_bytes(proxy.pid)))
        flat = max(seen) - before <= MOST_HELD
        said.append(
            f"Memory while {bodies.LARGE / 1e9:.0f} GB goes {way}: {report.megabytes(before)} MB before, "
            f"{report.megabytes(min(seen))} to {report.megabytes(max(seen))} MB in {len(seen)} samples: "
            f"{'flat' if flat else 'NOT FLAT'} (at most {report.megabytes(MOST_HELD)} MB more)."
        )
    return said


def threads(bench):
    """One worker thread, two on the same core, and two on both cores, of which the load has one as well."""

    def launch(name, core, *others):
        return proxies.start(name, f"{core},{bench.load_core}" if name.endswith("+cores") else core, *others)

    with started(bench, bench.names, launch) as (_, running):
        samples = with_wrk(bench, running)
        table = per_request(bench, running, samples, {"tidegate": "x one thread"})
    ratios = {name: cpu_ratios(samples, name, "tidegate") for name in bench.names[1:]}
    said = [spread(f"CPU of {label(name)}", of, "one thread") + "." for name, of in ratios.items()]
    return table, [*said, *notes(samples)]


def hedge(bench):
    """Upstreams that stall now and then: what a second try at another endpoint saves, and what it costs them."""

    def generate(proxy):
        before = origin.served()
        done = load.h2load(
            bench.load_core, proxy.port, bench.seconds, bench.connections, 1, h1=True, path=origin.PATH
        )
        sent[proxy.name].append((origin.served() - before) / done.requests)
        return done

    sent = {name: [] for name in bench.names}
    with ExitStack() as stack:
        origin = proxies.Stalling(bench.load_core, bench.binaries)
        stack.callback(origin.stop)
        running = []
        for name in bench.names:
            running.append(proxies.start_hedging(name, bench.core, origin, bench.binaries))
            stack.callback(running[-1].stop)
        for proxy in running:
            # It has to have seen response times before it knows what is slow.
            generate(proxy)
            sent[proxy.name].clear()
        samples = rounds(bench, running, generate)
    rows = [
        [
            label(name),
            f"{median(s.load.requests / s.load.seconds for s in of):,.0f}",
            report.times(median(s.load.p50 for s in of)),
            report.times(median(s.load.p99 for s in of)),
            f"{median(sent[name]):.3f}",
            f"{median(s.cpu_us for s in of):.1f}",
        ]
        for name, of in samples.items()
    ]
    header = ["proxy", "requests/s", "p50 ms", "p99 ms", "upstream requests/request", "CPU us/request"]
    unhedged, hedged = ([s.load.p99 for s in samples[name]] for name in bench.names)
    falls = [b / a for a, b in zip(unhedged, hedged)]
    more = [b / a for a, b in zip(*(sent[name] for name in bench.names))]
    return report.table(header, rows), [
        verdict("p99 with hedge", falls, MOST_OF_P99),
        verdict("upstream requests with hedge", more, MOST_FOR_HEDGES),
        *notes(samples),
    ]


PROFILES = {
    f.__name__: f
    for f in (
        *(plain, h2c, latency, idle, accept, start, policies, hedge, jwt, handshake, production, tcp, websocket),
        *(body, grpc, threads, traced.tracing, traced.collector, traced.telling, plugins.wasm, watched.watched),
        unused.unused,
    )
}
