"""Four hosts behind the proxy, the last of which breaks on a word from standard input: `python3 hosts.py PORT PORT PORT PORT`.
Each word is answered with a line when it holds."""

import asyncio
import contextlib
import socket
import struct
import sys

BODY = b"x" * 512
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(BODY)
NEVER = 3600


class Host:
    """One that serves as long as its fault is `none`."""

    def __init__(self, port):
        self.port, self.fault = port, "none"
        self.server, self.backlog, self.writers = None, [], set()

    async def listen(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port, backlog=1024)

    async def turn(self, fault):
        """Connections that are open stay, but for those of a host that refuses."""
        for one in self.backlog:
            one.close()
        self.backlog = []
        self.fault = fault
        if fault in ("refuse", "silent"):
            if self.server:
                self.server.close()
                self.server = None
        elif not self.server:
            await self.listen()
        if fault == "refuse":
            for writer in list(self.writers):
                reset(writer)
        if fault == "silent":
            self.fill()

    def fill(self):
        """Nobody accepts, and the queue is full: the kernel drops what asks to be let in."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(0)
        self.backlog.append(listener)
        for _ in range(4):
            waiting = socket.socket()
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(("127.0.0.1", self.port))
            self.backlog.append(waiting)

    async def serve(self, reader, writer):
        self.writers.add(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                if not await self.answer(writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def answer(self, writer):
        """Whether the connection goes on."""
        match self.fault:
            case "hang" | "silent":
                await asyncio.sleep(NEVER)
            case "reset":
                reset(writer)
            case "body":
                writer.write(ANSWER + BODY[:100])
                await writer.drain()
                reset(writer)
            case "stall":
                writer.write(ANSWER + BODY[:100])
                await asyncio.sleep(NEVER)
            case "garbage":
                writer.write(b"\x15\x03\x03 this is no HTTP\r\n\r\n")
                await writer.drain()
            case _:
                writer.write(ANSWER + BODY)
                return True
        return False


def reset(writer):
    linger = struct.pack("ii", 1, 0)
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def main():
    hosts = [Host(int(port)) for port in sys.argv[1:]]
    for host in hosts:
        await host.listen()
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    while word := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        await hosts[-1].turn(word)
        print(word, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
