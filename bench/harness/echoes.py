"""How long messages are under way that come back on the connection they went out on, at a rate that is held."""

import select
import socket
import time


def round_trips(open_connection, connections, said, heard, seconds, rate):
    """Microseconds from a message to its echo: `rate` messages a second, each on the next of the connections."""
    # First of all, so that its number is one that `select` takes.
    epoll = select.epoll()
    sockets = [open_connection(n) for n in range(connections)]
    by_fd = {s.fileno(): s for s in sockets}
    for fd in by_fd:
        epoll.register(fd, select.EPOLLIN)
    times, sent_at, n = [], {}, 0
    began = time.perf_counter()
    while (now := time.perf_counter()) < began + seconds:
        due = began + n / rate
        if now >= due:
            s = sockets[n % connections]
            if s.fileno() in sent_at:
                raise SystemExit(f"no echo within {connections / rate:.2f} s")
            # When it is sent: that this client is late is its own fault.
            sent_at[s.fileno()] = time.perf_counter()
            s.sendall(said)
            n += 1
            continue
        # To the microsecond, where epoll itself knows milliseconds; the origin needs this core, too.
        select.select([epoll], [], [], due - now)
        for fd, _ in epoll.poll(0):
            if by_fd[fd].recv(len(heard), socket.MSG_WAITALL) != heard:
                raise SystemExit("a connection was closed, or something else came back")
            times.append((time.perf_counter() - sent_at.pop(fd)) * 1e6)
    times.sort()
    return {"messages": len(times), "p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}
