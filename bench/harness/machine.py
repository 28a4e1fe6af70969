"""What the kernel knows: cores, free ports, and what a process and its children have used so far."""

import os
import platform
import random
import resource
import socket
from contextlib import contextmanager
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Fatal(Exception):
    """Ends the run with one line and exit status 1."""


def cores():
    """The core under test, and the one for the load generator and the origin."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise Fatal("two cores are needed: one for the proxy, one for the load generator and the origin")
    return allowed[0], allowed[1]


def pinned(core, argv):
    return ["taskset", "-c", str(core), *map(str, argv)]


HALT_POLL = Path("/sys/module/haltpoll/parameters")


@contextmanager
def halt_polling():
    """Has virtual cores wait for 2 ms before they give themselves back to their host, which takes longer to wake them than a proxy
    takes for a message. The kernel's settings are put back at the end."""
    wanted = {
        "guest_halt_poll_allow_shrink": "N",
        "guest_halt_poll_grow_start": "2000000",
        "guest_halt_poll_ns": "2000000",
    }
    try:
        before = {name: (HALT_POLL / name).read_text() for name in wanted}
    except OSError as e:
        raise Fatal(f"--halt-poll needs a kernel whose idle governor is haltpoll: {e}") from e
    if not os.access(HALT_POLL / "guest_halt_poll_ns", os.W_OK):
        raise Fatal("--halt-poll needs root")
    try:
        for name, value in wanted.items():
            (HALT_POLL / name).write_text(value)
        yield
    finally:
        for name, value in before.items():
            (HALT_POLL / name).write_text(value)


def raise_file_limit(wanted):
    """Also for the children: proxies hold one descriptor per connection. Returns what was reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    else:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except (ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def free_port():
    """Below the ephemeral range, so that no client connection takes it before the proxy does."""
    for _ in range(1000):
        port = random.randrange(15000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise Fatal("no free port between 15000 and 32000 on 127.0.0.1")


def tree(pid):
    """The process and all its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(entry.name)
            if fields:
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        todo += parents.get(one, [])
    return found


def cpu_seconds(pid):
    """User and system time of all threads, children included."""
    ticks = 0
    for one in tree(pid):
        fields = _stat(one)
        if fields:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_SECOND


def busy_seconds(core):
    """What all processes together used of a core, and what the hypervisor took away."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *values = line.split()
        if name == f"cpu{core}":
            user, nice, system, steal = (int(values[i]) for i in (0, 1, 2, 7))
            return (user + nice + system + steal) / TICKS_PER_SECOND
    raise Fatal(f"/proc/stat has no line for core {core}")


def memory_bytes(pid):
    """Proportional set size: pages shared between processes are counted once in all."""
    total = 0
    for one in tree(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def describe():
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    load = os.getloadavg()[0]
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, load {load:.1f} at the start"


def _stat(pid):
    """The fields of /proc/PID/stat after the command's name, which may itself hold spaces and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
