"""One gateway after the other, each with the listeners of the one before."""

import asyncio
import json
import signal
import subprocess
import time

from . import machine, tools

PATIENCE = 30
# Longer than `shutdown.grace` in the configurations.
LAST = 10


class Gateways:
    """The gateway that serves, its configuration, and those before it."""

    def __init__(self, name, binary, values):
        """`name` is that of the configuration: conf/tidegate-NAME.yaml."""
        self.name, self.binary, self.values, self.generation = name, binary, values, 0
        self.conf, self.count, self.processes = tools.WORK / f"{name}.yaml", 0, []
        self.write()

    def write(self):
        text = (tools.ROOT / "bench" / "conf" / f"tidegate-{self.name}.yaml").read_text()
        for name, value in {**self.values, "generation": self.generation}.items():
            text = text.replace(f"@{name}@", str(value))
        written = self.conf.with_suffix(".new")
        written.write_text(text)
        written.rename(self.conf)

    async def start(self, *more, until):
        self.count += 1
        self.output = tools.WORK / f"{self.name}-{self.count}.out"
        with open(self.output, "wb") as out:
            argv = [self.binary, "run", "-c", self.conf, *more]
            process = subprocess.Popen(argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        self.processes.append(process)
        await self.said(until)
        return process

    async def said(self, message, times=1):
        """The newest one has said this so many times."""
        deadline = time.monotonic() + PATIENCE
        while self.output.read_bytes().count(f'"msg":"{message}"'.encode()) < times:
            if time.monotonic() > deadline or self.processes[-1].poll() is not None:
                said = self.output.read_text(errors="replace")[-2000:]
                raise machine.Fatal(f"{self.output.name} does not say `{message}`: {said}")
            await asyncio.sleep(0.01)

    async def reload(self):
        self.generation += 1
        self.write()
        before = self.output.read_bytes().count(b'"msg":"configuration reloaded"')
        self.processes[-1].send_signal(signal.SIGHUP)
        await self.said("configuration reloaded", before + 1)

    async def upgrade(self):
        old = self.processes[-1]
        await self.start("--upgrade", until="waiting for hand-over")
        old.send_signal(signal.SIGQUIT)
        await self.said("ready")

    async def ended(self, processes):
        for process in processes:
            deadline = time.monotonic() + LAST
            while process.poll() is None and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
            if process.poll() != 0:
                raise machine.Fatal(f"a gateway ended with {process.poll()}")

    def spans(self):
        """What all of them said of their spans when they ended, in sum."""
        total = dict.fromkeys(("recorded", "exported", "rejected", "dropped_queue", "dropped_export", "lost"), 0)
        for number in range(1, self.count + 1):
            output = tools.WORK / f"{self.name}-{number}.out"
            for line in output.read_text(errors="replace").splitlines():
                if '"spans accounted for"' in line:
                    said = json.loads(line)
                    total = {name: count + int(said[name]) for name, count in total.items()}
        return total

    def stop(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
