"""Three members of etcd that are one store, and what can happen to them."""

import os
import shutil
import subprocess

from . import machine

MEMBERS = range(3)


class Cluster:
    """`programs` is the folder of `etcd` and `etcdctl`."""

    def __init__(self, programs, directory):
        self.programs, self.dir = programs, directory
        self.clients = [machine.free_port() for _ in MEMBERS]
        self.peers = [machine.free_port() for _ in MEMBERS]
        self.members = {}
        self.initial = ",".join(f"m{n}={url(port)}" for n, port in enumerate(self.peers))

    def urls(self):
        return [url(port) for port in self.clients]

    def start(self, numbers=MEMBERS):
        for n in numbers:
            argv = [self.programs / "etcd", "--name", f"m{n}", "--data-dir", self.data(n), "--log-level", "error"]
            argv += ["--listen-client-urls", url(self.clients[n]), "--advertise-client-urls", url(self.clients[n])]
            argv += ["--listen-peer-urls", url(self.peers[n]), "--initial-advertise-peer-urls", url(self.peers[n])]
            argv += ["--initial-cluster", self.initial, "--initial-cluster-token", "fleet"]
            with open(self.dir / f"etcd-{n}.out", "ab") as out:
                self.members[n] = subprocess.Popen(argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL)

    def kill(self, numbers=MEMBERS):
        for n in numbers:
            if member := self.members.pop(n, None):
                member.kill()
                member.wait()

    def save(self):
        """As of now, from the first member."""
        self.ctl("--endpoints", url(self.clients[0]), "snapshot", "save", self.dir / "backup")

    def restore(self):
        """What was saved, in place of all there is."""
        self.kill()
        for n in MEMBERS:
            shutil.rmtree(self.data(n))
            argv = ["snapshot", "restore", self.dir / "backup", "--name", f"m{n}", "--data-dir", self.data(n)]
            argv += ["--initial-cluster", self.initial, "--initial-cluster-token", "fleet"]
            self.ctl(*argv, "--initial-advertise-peer-urls", url(self.peers[n]))
        self.start()

    def ctl(self, *argv):
        done = subprocess.run(
            [self.programs / "etcdctl", *argv], env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise machine.Fatal(f"etcdctl {argv}: {done.stdout}{done.stderr}")

    def data(self, n):
        return self.dir / f"etcd-{n}"


def url(port):
    return f"http://127.0.0.1:{port}"
