"""A server that does so many things at once and queues the rest without end: `python3 workers.py PORT COUNT WORK SEED`. Each takes `WORK`:
`even` 80 ms, `exponential` 80 ms on average, `mixed` 20 ms and one in five 320. It does not see that a client has left, as servers with
threads do not. Each number from standard input is how many workers there are from then on, and is answered with a line."""

import asyncio
import collections
import random
import sys

MEAN = 0.08
BODY = b"x" * 512
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY
WORK = {
    "even": lambda chance: MEAN,
    "exponential": lambda chance: chance.expovariate(1 / MEAN),
    "mixed": lambda chance: 4 * MEAN if chance.random() < 0.2 else MEAN / 4,
}


class Workers:
    """A worker is a timer: nothing else of it takes time."""

    def __init__(self, count, work, seed):
        self.count, self.busy, self.queue = count, 0, collections.deque()
        self.work, self.chance = WORK[work], random.Random(seed)
        self.loop = asyncio.get_running_loop()

    def ask(self, connection):
        self.queue.append(connection)
        self.begin()

    def begin(self):
        while self.queue and self.busy < self.count:
            self.busy += 1
            self.work_until(self.loop.time() + self.work(self.chance), self.queue.popleft())

    def work_until(self, at, connection):
        self.loop.call_at(at, self.done, at, connection)

    def done(self, at, connection):
        if not connection.transport.is_closing():
            connection.transport.write(ANSWER)
        if self.queue and self.busy <= self.count:
            # On from when it should have ended: a timer that comes late costs no capacity.
            self.work_until(at + self.work(self.chance), self.queue.popleft())
        else:
            self.busy -= 1
            self.begin()


class Connection(asyncio.Protocol):
    def __init__(self, workers):
        self.workers, self.transport, self.heard = workers, None, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        *heads, self.heard = (self.heard + data).split(b"\r\n\r\n")
        for _ in heads:
            self.workers.ask(self)


async def main():
    port, count, work, seed = sys.argv[1:]
    loop = asyncio.get_running_loop()
    workers = Workers(int(count), work, int(seed))
    await loop.create_server(lambda: Connection(workers), "127.0.0.1", int(port), backlog=4096)
    print("ready", flush=True)
    while word := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        workers.count = int(word)
        print(word, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
