"""What it costs to tell: spans of requests, whatever becomes of their collector, and lines of the access log."""

from functools import partial
from statistics import median

from . import collectors, proxies
from .machine import Fatal
from .measure import at_a_rate, cpu_ratios, notes, per_request, rounds, spread, started, verdict, with_wrk
from .proxies import label

# What is promised, as ratios of CPU for each request.
MOST_FOR_TRACES = {"unsampled": 1.01, "some": 1.02, "all": 1.12}
# Of what the same costs Envoy; and the 99th percentile beside that with a collector that works.
MOST_OF_ENVOYS_TRACES, MOST_WITHOUT_COLLECTOR, SPAN_QUEUE = 0.5, 1.02, 8 * 1024 * 1024


def tracing(bench):
    """The price of tracing: the same route without it, and with nothing, 1 % and all of the requests sampled; and Envoy's."""
    with started(bench, bench.names) as (_, running):
        samples = with_wrk(bench, running)
        table = per_request(bench, running, samples, {"tidegate": "x without", "envoy+ids": "x Envoy"})
        shares = [exported_share(proxy, samples) for proxy in running if proxy.name.endswith("+all")]
    said = [
        verdict(f"CPU of {label(name)}", cpu_ratios(samples, name, "tidegate"), most)
        for name in bench.names[1:]
        for variant, most in MOST_FOR_TRACES.items()
        if name == f"tidegate+{variant}"
    ]
    ours, theirs = (added_cpu(samples, *of) for of in (("tidegate+all", "tidegate"), ("envoy+all", "envoy+ids")))
    # Each is a small difference of large numbers, so that single rounds say little.
    if median(theirs) <= 0:
        raise Fatal("Envoy is no slower where it traces: the machine is too busy to compare")
    beside = median(ours) / median(theirs)
    said.append(
        f"All sampled, a request takes {median(ours):.1f} us more, and with Envoy {median(theirs):.1f} us: "
        + verdict("added CPU", [beside], MOST_OF_ENVOYS_TRACES, "Envoy's")
    )
    return table, [*said, *shares, *notes(samples)]


def added_cpu(samples, name, base):
    """In each round, for a request."""
    return [a.cpu_us - b.cpu_us for a, b in zip(samples[name], samples[base])]


def exported_share(proxy, samples):
    """Of the spans of its requests, two each: who exports little has little to do. Those of the last seconds still wait."""
    spans = 2 * sum(sample.load.requests for sample in samples[proxy.name])
    return f"{label(proxy.name)}: {min(1, collectors.exported(proxy) / spans):.1%} of its spans were exported."


def collector(bench):
    """At a fixed rate, all requests traced: whether any is slower where the collector is away or breaks."""
    with collectors.started(bench.load_core) as ports:
        with started(bench, bench.names, partial(proxies.start, collectors=ports)) as (_, running):
            samples = rounds(bench, running, at_a_rate(bench))
            table = per_request(bench, running, samples, {"tidegate+all": "x collector there"})
            accounts = [span_account(proxy) for proxy in running]
    healthy = [s.load.p99 for s in samples["tidegate+all"]]
    said = [
        verdict(
            f"p99 of {label(name)}",
            [s.load.p99 / base for s, base in zip(samples[name], healthy)],
            MOST_WITHOUT_COLLECTOR,
            "with a collector",
        )
        for name in bench.names[1:]
    ]
    return table, [*said, *accounts, *notes(samples)]


def span_account(proxy):
    for _ in range(5):
        recorded, ends, waiting, bytes_waiting = collectors.account(proxy)
        # A batch may end while it is looked at.
        if recorded == sum(ends.values()) + waiting:
            break
    if recorded != sum(ends.values()) + waiting:
        raise Fatal(f"{proxy.name}: {recorded} spans were recorded, and {ends} and {waiting} are not as many")
    if bytes_waiting > SPAN_QUEUE:
        raise Fatal(f"{proxy.name}: {bytes_waiting} bytes of spans wait")
    of = ", ".join(f"{count:,} {end.replace('_', ' at the ')}" for end, count in ends.items() if count)
    return f"{label(proxy.name)}: {recorded:,} spans were recorded: {of or 'none ended'}, {waiting:,} wait."


def telling(bench):
    """The price of the default line of the access log: the same route without it and with it."""
    with started(bench, bench.names) as (_, running):
        samples = with_wrk(bench, running)
        table = per_request(bench, running, samples, {"tidegate": "x without"})
    ratios = cpu_ratios(samples, *reversed(bench.names))
    return table, [spread("CPU with the access log", ratios, "without") + ".", *notes(samples)]
