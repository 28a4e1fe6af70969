"""What settings cost the routes that do not use them: two gateways that serve one route alike, of which one has these settings for others."""

import json
from statistics import median

from . import proxies
from .machine import Fatal
from .measure import cpu_ratios, notes, per_request, started, verdict, with_wrk

# What is promised is 1.00. The rest is noise: two runs of one binary differ as much.
MOST_FOR_UNUSED = 1.02
MEASURED = "measured"
# Series that exist only where upstreams have `then`, and endpoints a priority or a zone.
OF_UPSTREAMS = ("tidegate_upstream_failover_share", "tidegate_upstream_group_share")


def unused(bench):
    """The price of settings that only other routes use: error pages, affinity, failover, priorities, zones, defaults."""
    with started(bench, bench.names) as (_, running):
        check_in_force(*running)
        check_alike(*running)
        samples = with_wrk(bench, running)
        table = per_request(bench, running, samples, {"tidegate+without": "x without"})
    ratios = cpu_ratios(samples, *reversed(bench.names))
    if median(ratios) > MOST_FOR_UNUSED:
        bench.missed.append(f"unused settings cost more than {MOST_FOR_UNUSED:.2f} x without")
    return table, [verdict("CPU with unused settings", ratios, MOST_FOR_UNUSED), *notes(samples)]


def check_in_force(without, having):
    """Settings that nothing has would cost nothing: one gateway shows each of them, and the other none."""
    for proxy, expected in ((without, False), (having, True)):
        closed = proxies.fetch(proxy.port, "/closed", headers={"Accept": "text/html"})
        if closed.status != 403:
            raise Fatal(f"{proxy.name} answered {closed.status} where nobody is let in")
        shop = proxies.fetch(proxy.port, "/shop")
        if (shop.status, shop.body) != (200, proxies.BODY):
            raise Fatal(f"{proxy.name} answered {shop.status} for the shop")
        config, metrics = in_force(proxy), proxies.fetch(proxy.admin_port, "/metrics").body
        limits = named(config["listeners"], "other")["limits"]
        shown = {
            "error_pages": "Not for you" in closed.body,
            "affinity": (shop.headers["set-cookie"] or "").startswith("shop_at="),
            "zone": config["zone"] == "here",
            "defaults of routes": named(config["routes"], "shop")["timeout"] is not None,
            "defaults of upstreams": config["upstreams"]["shop"]["circuit_breaker"] is not None,
            "defaults of listeners": limits["connections_per_ip"] is not None,
            **{series: f"\n{series}{{" in metrics for series in OF_UPSTREAMS},
        }
        if wrong := [what for what, is_shown in shown.items() if is_shown != expected]:
            raise Fatal(f"{proxy.name} {'does not show' if expected else 'shows'}: {', '.join(wrong)}")


def check_alike(without, having):
    """The measured route is the same in both: its answers, and all that is in force for it."""
    ours, theirs = ({"answer": answer(proxy), **settings(proxy)} for proxy in (without, having))
    if differ := [what for what in ours if ours[what] != theirs[what]]:
        told = "; ".join(f"{what}: {ours[what]} and {theirs[what]}" for what in differ)
        raise Fatal(f"{without.name} and {having.name} do not serve {MEASURED} alike: {told}")


def answer(proxy):
    got = proxies.fetch(proxy.port)
    return got.status, got.body, sorted((name, value) for name, value in got.headers.items() if name.lower() != "date")


def settings(proxy):
    """Of the measured listener, route and upstream."""
    config = in_force(proxy)
    of = {
        "listener": named(config["listeners"], MEASURED),
        "route": named(config["routes"], MEASURED),
        "upstream": config["upstreams"]["origin"],
    }
    # One says that it takes none, where there are some to take; and each has a port of its own.
    left_out = {"defaults", "address"}
    return {what: {key: value for key, value in one.items() if key not in left_out} for what, one in of.items()}


def in_force(proxy):
    return json.loads(proxies.fetch(proxy.admin_port, "/config").body)


def named(things, name):
    (found,) = (thing for thing in things if thing["name"] == name)
    return found
