"""Well-behaved clients of every protocol that count what fails them. Each holds a connection and does one thing after the
other on it. What any client has to bear is no failure: a kept connection that closes before it has answered, and a server that
says that it goes away. Then the same is asked once more on a new connection, where nothing is forgiven."""

import asyncio
import struct

from . import calls, websockets

PATIENCE = 20


class Gone(Exception):
    """The server has said, or shown, that it did not take what was asked last."""


class Client:
    """`failures` are the first of them, in words."""

    def __init__(self, protocol, port, pause):
        self.protocol, self.port, self.pause = protocol, port, pause
        self.done, self.failed, self.renewed, self.failures = 0, 0, 0, []
        self.connection = None

    async def run(self, stopping):
        while not stopping.is_set():
            try:
                await asyncio.wait_for(self.once(), PATIENCE)
                self.done += 1
            except (OSError, EOFError, Gone, TimeoutError, ValueError) as e:
                self.drop()
                self.failed += 1
                if len(self.failures) < 3:
                    self.failures.append(f"{type(e).__name__}: {e}")
            await asyncio.sleep(self.pause)
        self.drop()

    async def once(self):
        if self.connection and self.connection.is_spent:
            self.drop()
        if self.connection:
            try:
                return await self.connection.ask()
            except Gone:
                self.drop()
                self.renewed += 1
        self.connection = await self.protocol.open(self.port)
        await self.connection.ask()

    def drop(self):
        if self.connection:
            self.connection.writer.close()
        self.connection = None


class Connection:
    is_spent = False

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.asked = 0

    @classmethod
    async def open(cls, port):
        connection = cls(*await asyncio.open_connection("127.0.0.1", port))
        await connection.begin()
        return connection

    async def begin(self):
        pass

    async def first(self, read):
        """The first of an answer. On a connection that was used before, its end or a reset in place of that is no failure."""
        self.asked += 1
        try:
            return await read
        except asyncio.IncompleteReadError as e:
            if self.asked > 1 and not e.partial:
                raise Gone("closed before it answered") from e
            raise
        except ConnectionError as e:
            if self.asked > 1:
                raise Gone("reset before it answered") from e
            raise


class Http1(Connection):
    NAME = "HTTP/1.1"

    async def ask(self):
        self.writer.write(b"GET / HTTP/1.1\r\nhost: life\r\n\r\n")
        head = (await self.first(self.reader.readuntil(b"\r\n\r\n"))).lower()
        if not head.startswith(b"http/1.1 200 "):
            raise ValueError(head.decode(errors="replace"))
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        await self.reader.readexactly(length)
        self.is_spent = b"connection: close" in head


class Http2(Connection):
    NAME = "HTTP/2"
    DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
    ACK, END_STREAM, END_HEADERS = 1, 1, 4
    REFUSED = 7
    FIELDS = ((":method", "GET"), (":scheme", "http"), (":authority", "life"), (":path", "/"))
    BODY = b""
    # With a table of no size what is sent does not depend on what was sent before; a window that one connection does not use up.
    HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    WINDOW = 0x7FFF0000

    async def begin(self):
        self.stream = -1
        self.writer.write(self.HELLO)
        self.frame(self.SETTINGS, 0, 0, struct.pack(">HIHI", 1, 0, 4, self.WINDOW))
        self.frame(8, 0, 0, struct.pack(">I", self.WINDOW))

    def frame(self, kind, flags, stream, payload):
        self.writer.write(struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload)

    async def read_frame(self):
        head = await self.reader.readexactly(9)
        payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
        return head[3], head[4], int.from_bytes(head[5:], "big"), payload

    async def ask(self):
        self.stream += 2
        self.is_spent = self.stream > 100_000
        fields = (b"\0" + bytes([len(n)]) + n.encode() + bytes([len(v)]) + v.encode() for n, v in self.FIELDS)
        ends = 0 if self.BODY else self.END_STREAM
        self.frame(self.HEADERS, self.END_HEADERS | ends, self.stream, b"".join(fields))
        if self.BODY:
            self.frame(self.DATA, self.END_STREAM, self.stream, self.BODY)
        heads, body = [], b""
        self.asked += 1
        while True:
            try:
                kind, flags, stream, payload = await self.read_frame()
            except (EOFError, ConnectionError) as e:
                if not heads and (self.is_spent or self.asked > 1):
                    raise Gone("closed before it answered") from e
                raise
            if kind == self.SETTINGS and not flags & self.ACK:
                self.frame(self.SETTINGS, self.ACK, 0, b"")
            elif kind == self.PING and not flags & self.ACK:
                self.frame(self.PING, self.ACK, 0, payload)
            elif kind == self.GOAWAY:
                last, code = struct.unpack(">II", payload[:8])
                self.is_spent = True
                if self.stream > last and not code:
                    raise Gone("went away before it looked at it")
            elif stream == self.stream and kind == self.RESET:
                if payload == struct.pack(">I", self.REFUSED):
                    raise Gone("refused the stream")
                raise ValueError(f"reset with {payload.hex()}")
            elif stream == self.stream and kind == self.HEADERS:
                heads.append(payload)
            elif stream == self.stream and kind == self.DATA:
                body += payload
            if stream == self.stream and kind in (self.HEADERS, self.DATA) and flags & self.END_STREAM:
                return self.check(heads, body)

    def check(self, heads, body):
        # 200 is a number of the static table (RFC 7541, appendix A), behind changes of the size of the other.
        if not heads[0].lstrip(b"\x20").startswith(b"\x88") or not body:
            raise ValueError(f"an answer without a body, or not 200: {heads[0][:40].hex()}")


class Grpc(Http2):
    NAME = "gRPC"
    FIELDS = (
        (":method", "POST"),
        *Http2.FIELDS[1:3],
        (":path", calls.PATH),
        *calls.HEADERS.items(),
    )
    BODY = calls.MESSAGE

    def check(self, heads, body):
        # A call that fails has no message.
        if len(heads) != 2 or len(body) != calls.ANSWER_BYTES:
            raise ValueError(f"a call ended with {len(body)} bytes and {len(heads)} heads")


class WebSocket(Connection):
    NAME = "WebSocket"

    async def begin(self):
        self.writer.write(websockets.ASK)
        head = await self.reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ValueError(head.decode(errors="replace"))

    async def ask(self):
        self.writer.write(websockets.SAID)
        heard = await self.first(self.reader.readexactly(len(websockets.AWAY)))
        if heard == websockets.AWAY:
            self.writer.write(websockets.ANSWER)
            raise Gone("said goodbye")
        heard += await self.reader.readexactly(len(websockets.HEARD) - len(heard))
        if heard != websockets.HEARD:
            raise ValueError(f"another echo: {heard[:16].hex()}")


class Tcp(Connection):
    """A new connection for every few messages: nothing tells it that its server goes away."""

    NAME = "TCP"
    MESSAGE = b"a message that comes back as it is\n"

    async def ask(self):
        self.asked += 1
        self.is_spent = self.asked == 10
        self.writer.write(self.MESSAGE)
        if await self.reader.readexactly(len(self.MESSAGE)) != self.MESSAGE:
            raise ValueError("another echo")


PROTOCOLS = (Http1, Http2, Grpc, WebSocket, Tcp)


async def echo(reader, writer):
    """The server behind TCP."""
    try:
        while said := await reader.read(4096):
            writer.write(said)
            await writer.drain()
    except (ConnectionError, asyncio.CancelledError):
        pass
    writer.close()


def of_all_protocols(port, tcp_port, each, pause):
    return [
        Client(protocol, tcp_port if protocol is Tcp else port, pause)
        for protocol in PROTOCOLS
        for _ in range(each)
    ]


def report(everyone):
    print("| protocol | requests | on a new connection, as the old one closed | failed |")
    print("|---|---|---|---|")
    for protocol in PROTOCOLS:
        of = [client for client in everyone if client.protocol is protocol]
        total = [sum(getattr(client, what) for client in of) for what in ("done", "renewed", "failed")]
        print(f"| {protocol.NAME} | {total[0]:,} | {total[1]:,} | {total[2]:,} |")
    for client in everyone:
        for failure in client.failures:
            print(f"{client.protocol.NAME}: {failure}")


def all_served(everyone):
    return all(client.done and not client.failed for client in everyone)
