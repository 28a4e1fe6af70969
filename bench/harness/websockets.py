"""WebSocket: the clients of the two parts of the profile.

As a program it is the first of them, pinned to the load's core: `messages PORT SECONDS CONNECTIONS RATE`."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time

if __name__ == "__main__":
    import echoes
else:
    from . import machine, proxies
    from .machine import Fatal

PER_ADDRESS = 5_000
MESSAGE = 64
ASK = (
    b"GET /ws HTTP/1.1\r\nhost: bench\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
# A server that goes away, and the client's answer (RFC 6455, section 7.4.1).
AWAY = b"\x88\x02\x03\xe9"
ANSWER = b"\x88\x82\0\0\0\0\x03\xe9"
# The mask of a client is all zeros: what comes back differs in its head alone.
SAID = bytes([0x82, 0x80 | MESSAGE, 0, 0, 0, 0]) + b"m" * MESSAGE
HEARD = bytes([0x82, MESSAGE]) + b"m" * MESSAGE


def start(name, core, origin_port, binaries, grace):
    values = {"grace": f"{grace}s", "silence": "1h"}
    running = proxies.start(name, core, origin_port, binaries, wait=False, values=values)
    return proxies.once_it_echoes(running, name, _echoes)


def messages(core, port, seconds, connections, rate):
    argv = machine.pinned(core, [sys.executable, __file__, "messages", port, seconds, connections, rate])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=180)
    if done.returncode != 0:
        raise Fatal(f"`messages` failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


class Held:
    """WebSockets that stay open over what happens to the proxy."""

    def __init__(self, proxy, count):
        self.proxy, self.sockets = proxy, []
        for n in range(count):
            self.sockets.append(open_socket(proxy.port, n))

    def close(self):
        for s in self.sockets:
            s.close()

    def echoed(self):
        """How many still say the same again."""
        for s in self.sockets:
            s.sendall(SAID)
        heard = 0
        for s in self.sockets:
            try:
                heard += s.recv(len(HEARD), socket.MSG_WAITALL) == HEARD
            except OSError:
                pass
        return heard

    def reload(self, conf):
        """With a listener that differs."""
        conf.write_text(conf.read_text().replace("1h", "2h"))
        os.kill(self.proxy.pid, signal.SIGHUP)
        deadline = time.monotonic() + 15
        while b'"configuration reloaded"' not in self.proxy.output.read_bytes():
            if time.monotonic() > deadline:
                raise Fatal("the configuration was not reloaded within 15 s")
            time.sleep(0.01)

    def drain(self):
        """How many were told goodbye, and the seconds from SIGTERM to the end of the process."""
        began = time.monotonic()
        self.proxy.process.terminate()
        told, poll, by_fd = 0, select.epoll(), {s.fileno(): s for s in self.sockets}
        for fd in by_fd:
            poll.register(fd, select.EPOLLIN)
        while by_fd and time.monotonic() < began + 60:
            for fd, _ in poll.poll(1):
                s = by_fd.pop(fd)
                poll.unregister(fd)
                try:
                    if s.recv(len(AWAY), socket.MSG_WAITALL) == AWAY:
                        told += 1
                        s.sendall(ANSWER)
                except OSError:
                    pass
        self.proxy.process.wait(timeout=60)
        return told, time.monotonic() - began


def open_socket(port, n=0):
    s = socket.socket()
    s.settimeout(15)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
    s.bind((f"127.0.0.{2 + n // PER_ADDRESS}", 0))
    s.connect(("127.0.0.1", port))
    s.sendall(ASK)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        # Byte by byte: what follows is for others to read.
        byte = s.recv(1)
        if not byte:
            raise OSError("closed in the handshake")
        head += byte
    if not head.startswith(b"HTTP/1.1 101 "):
        raise OSError(f"the handshake was answered with {head.splitlines()[0]}")
    return s


def _echoes(port):
    with open_socket(port) as s:
        s.sendall(SAID)
        return s.recv(len(HEARD), socket.MSG_WAITALL) == HEARD


def _messages(port, seconds, connections, rate):
    return echoes.round_trips(lambda n: open_socket(port, n), connections, SAID, HEARD, seconds, rate)


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    print(json.dumps({"messages": _messages}[role](*map(int, arguments))))
