"""TCP: an origin that echoes or discards, and the clients of the three parts of the profile.

As a program it is one of these, pinned to the load's core: `origin PORT`, `bulk PORT SECONDS`,
`messages PORT SECONDS CONNECTIONS RATE`."""

import json
import os
import select
import socket
import subprocess
import sys
import time

if __name__ == "__main__":
    import echoes
else:
    from . import machine, proxies
    from .machine import Fatal

# The first byte of a connection says what the origin does with it.
ECHO, DISCARD = b"E", b"D"
CHUNK = 1 << 20
MESSAGE = 64
PER_ADDRESS = 5_000


class Origin:
    def __init__(self, core):
        self.port = machine.free_port()
        argv = machine.pinned(core, [sys.executable, __file__, "origin", self.port])
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        self.pid = self.process.pid
        proxies.wait_until_it_echoes("the origin", self.process, lambda: _echoes(self.port))

    def stop(self):
        self.process.kill()
        self.process.wait()


def start(name, core, origin_port, binaries):
    running = proxies.start(name, core, origin_port, binaries, wait=False)
    return proxies.once_it_echoes(running, name, _echoes)


def _echoes(port):
    with socket.create_connection(("127.0.0.1", port), timeout=2) as s:
        s.sendall(ECHO + b"hello")
        return s.recv(5, socket.MSG_WAITALL) == b"hello"


def run(core, role, *arguments):
    """What a client has to say, as it says it."""
    argv = machine.pinned(core, [sys.executable, __file__, role, *arguments])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=180)
    if done.returncode != 0:
        raise Fatal(f"`{role}` failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


class Idle:
    """Connections that have been echoed one message and stay silent."""

    def __init__(self, port):
        self.port, self.sockets = port, []

    def open(self, count):
        for n in range(count):
            s = _connect(self.port, n)
            self.sockets.append(s)
            s.settimeout(10)
            s.sendall(ECHO + b"hello")
            if s.recv(5, socket.MSG_WAITALL) != b"hello":
                raise Fatal(f"idle connection {n} to port {self.port} was not echoed")

    def closed_by_peer(self):
        poll = select.poll()
        for s in self.sockets:
            poll.register(s, select.POLLIN)
        return len(poll.poll(0))

    def close(self):
        for s in self.sockets:
            s.close()


def _connect(port, n=0):
    s = socket.socket()
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
    s.bind((f"127.0.0.{2 + n // PER_ADDRESS}", 0))
    s.connect(("127.0.0.1", port))
    return s


def _origin(port):
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    sockets, discards, buffer = {}, set(), bytearray(CHUNK)
    while True:
        for fd, _ in epoll.poll():
            if fd == listener.fileno():
                s, _ = listener.accept()
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sockets[s.fileno()] = s
                epoll.register(s, select.EPOLLIN)
                continue
            s = sockets[fd]
            try:
                if fd in discards:
                    # Not even copied: the proxy is measured, and not who hears it.
                    read = s.recv_into(buffer, CHUNK, socket.MSG_TRUNC)
                else:
                    data = s.recv(65536)
                    read = len(data)
                    # Blocking, as nothing here sends more than an empty buffer takes.
                    if data[:1] == DISCARD:
                        discards.add(fd)
                    elif data:
                        s.sendall(data.removeprefix(ECHO))
            except OSError:
                read = 0
            if not read:
                epoll.unregister(fd)
                discards.discard(fd)
                sockets.pop(fd).close()


def _bulk(port, seconds):
    """Bytes a second through one connection, up to the last one having been heard."""
    page = os.memfd_create("bulk")
    os.ftruncate(page, 4 * CHUNK)
    os.pwrite(page, os.urandom(4 * CHUNK), 0)
    with _connect(port) as s:
        s.sendall(DISCARD)
        time.sleep(0.1)
        began, sent = time.monotonic(), 0
        while time.monotonic() < began + seconds:
            sent += os.sendfile(s.fileno(), page, sent % (4 * CHUNK), CHUNK)
        s.shutdown(socket.SHUT_WR)
        while s.recv(4096):
            pass
        return {"bytes": sent, "seconds": time.monotonic() - began}


def _messages(port, seconds, connections, rate):
    message = b"m" * MESSAGE
    return echoes.round_trips(lambda n: _echoing(port, n), connections, message, message, seconds, rate)


def _echoing(port, n):
    s = _connect(port, n)
    s.sendall(ECHO + b"x")
    s.recv(1)
    return s


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    numbers = [int(argument) for argument in arguments]
    if role == "origin":
        _origin(*numbers)
    print(json.dumps({"bulk": _bulk, "messages": _messages}[role](*numbers)))
