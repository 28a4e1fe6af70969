"""What it costs that somebody looks: the streams of the admin API, of which the console and `tidegate top` and `tail` are made."""

import subprocess
from contextlib import ExitStack

from . import machine, proxies, tools
from .machine import Fatal
from .measure import at_a_rate, cpu_ratios, notes, per_request, rounds, started, verdict

# What is promised, as ratios: CPU for each request, and the 99th percentile.
MOST_CPU, MOST_P99 = 1.02, 1.05
VIEWERS = 5
STREAMS = ["/v1/events"] * VIEWERS + ["/v1/access"]


def watched(bench):
    """The price of being looked at: 10,000 requests a second without the console, with it, and with five viewers and a tail."""
    with ExitStack() as stack:
        _, running = stack.enter_context(started(bench, bench.names))
        (seen,) = (proxy for proxy in running if proxy.name.endswith("+watched"))
        viewers = [_viewer(stack, bench.load_core, seen.admin_port, path) for path in STREAMS]
        samples = rounds(bench, running, at_a_rate(bench))
        if gone := [viewer.args[-1] for viewer in viewers if viewer.poll() is not None]:
            raise Fatal(f"{seen.name}: nobody looks at {', '.join(gone)} any more")
        table = per_request(bench, running, samples, {"tidegate+mute": "x without console", "tidegate": "x unwatched"})
    p99 = [s.load.p99 / base.load.p99 for s, base in zip(samples["tidegate+watched"], samples["tidegate"])]
    said = [
        verdict("CPU with nobody looking", cpu_ratios(samples, "tidegate", "tidegate+mute"), 1.01),
        verdict("CPU while watched", cpu_ratios(samples, "tidegate+watched", "tidegate"), MOST_CPU),
        verdict("p99 while watched", p99, MOST_P99),
    ]
    return table, [*said, *notes(samples)]


def _viewer(stack, core, port, path):
    url = f"http://127.0.0.1:{port}{path}"
    if proxies.fetch(port, "/v1/overview").status != 200:
        raise Fatal(f"{url}: there is no admin API")
    argv = machine.pinned(core, [tools.find("curl"), "-sN", "-o", "/dev/null", url])
    viewer = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    stack.callback(viewer.wait)
    stack.callback(viewer.kill)
    return viewer
