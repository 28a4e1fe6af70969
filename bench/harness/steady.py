"""A steady load of GETs over kept connections, which begin on time whatever became of those before:
`python3 steady.py PORT RATE SECONDS PATIENCE`. Prints each request's milliseconds, and `-` for one that failed."""

import asyncio
import sys
import time

REQUEST = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n"
LENGTH = 512


class Client:
    def __init__(self, port, patience):
        self.port, self.patience, self.idle = port, patience, []

    async def ask(self):
        """Milliseconds; `None` where it was not served."""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self.patience):
                connection = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
                served = await self.exchange(*connection)
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return None
        return (time.perf_counter() - began) * 1000 if served else None

    async def exchange(self, reader, writer):
        writer.write(REQUEST)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].partition("\r\n")[0] or 0)
        await reader.readexactly(length)
        if "connection: close" in head or not length:
            writer.close()
        else:
            self.idle.append((reader, writer))
        return " 200 " in head.partition("\r\n")[0] and length == LENGTH


async def main():
    port, rate, seconds, patience = map(float, sys.argv[1:])
    client = Client(int(port), patience)
    began, asked = time.perf_counter(), []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0, began + number / rate - time.perf_counter()))
        asked.append(asyncio.create_task(client.ask()))
    for took in await asyncio.gather(*asked):
        print("-" if took is None else f"{took:.3f}")


if __name__ == "__main__":
    asyncio.run(main())
