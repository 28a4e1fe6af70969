"""TLS handshakes: certificates made for the run, proxies that show them, and a client that shows its own.

As a program it is that client: it shakes hands again and again, and prints how long each took in microseconds."""

import json
import socket
import ssl
import subprocess
import sys
import time

if __name__ != "__main__":
    from . import machine, proxies, tools
    from .machine import Fatal

NAME = "bench.example"


class Certificates:
    """An authority, and what it has issued for the proxies and for the client: ECDSA on P-256, all of it."""

    def __init__(self):
        self.directory = tools.WORK / "handshake"
        self.directory.mkdir(exist_ok=True)
        self._key("ca")
        self._openssl("req", "-x509", "-new", "-key", "ca.key", "-subj", "/CN=bench CA", "-days", "2", "-out", "ca.crt")
        for owner, usage in (("server", "serverAuth"), ("client", "clientAuth")):
            self._key(owner)
            self._openssl("req", "-new", "-key", f"{owner}.key", "-subj", f"/CN={owner}", "-out", f"{owner}.csr")
            extensions = f"subjectAltName=DNS:{NAME}\nkeyUsage=critical,digitalSignature\nextendedKeyUsage={usage}\n"
            (self.directory / f"{owner}.ext").write_text(extensions)
            self._openssl(
                *("x509", "-req", "-in", f"{owner}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"),
                *("-extfile", f"{owner}.ext", "-days", "2", "-out", f"{owner}.crt"),
            )

    def path(self, name):
        return self.directory / name

    def _key(self, owner):
        options = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        self._openssl("genpkey", *options, "-out", f"{owner}.key")

    def _openssl(self, *argv):
        argv = [tools.find("openssl"), *argv]
        done = subprocess.run(argv, cwd=self.directory, capture_output=True, text=True)
        if done.returncode != 0:
            raise Fatal(f"`openssl {argv[1]}` failed: {done.stderr.strip()}")


def start(name, core, origin_port, binaries, *, certificates):
    values = {
        "tls_port": machine.free_port(),
        "mtls_port": machine.free_port(),
        "cert": certificates.path("server.crt"),
        "key": certificates.path("server.key"),
        "ca": certificates.path("ca.crt"),
    }
    running = proxies.start(name, core, origin_port, binaries, values=values)
    running.tls_port, running.mtls_port = values["tls_port"], values["mtls_port"]
    return running


def mutual(core, port, certificates, count):
    """Microseconds of `count` handshakes in which both sides verify, one after the other, sorted."""
    files = [certificates.path(name) for name in ("ca.crt", "client.crt", "client.key")]
    argv = machine.pinned(core, [sys.executable, __file__, port, count, *files])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise Fatal(f"a handshake with port {port} failed: {done.stderr.strip().splitlines()[-1:]}")
    return sorted(json.loads(done.stdout))


def check_refusal(port, certificates):
    """A client without a certificate must not be served."""
    try:
        shake(port, context(certificates.path("ca.crt")))
    except (OSError, EOFError):
        return
    raise Fatal(f"port {port} serves a client that has shown no certificate")


def context(ca, own=None):
    made = ssl.create_default_context(cafile=str(ca))
    if own:
        made.load_cert_chain(*own)
    return made


def shake(port, with_context):
    """From the first byte to the first of an answer: with TLS 1.3 a client is done before the server has verified it."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        with with_context.wrap_socket(plain, server_hostname=NAME) as secret:
            secret.sendall(f"GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
            answer = secret.recv(65536)
            took = time.perf_counter() - began
            while secret.recv(65536):
                pass
    if not answer.startswith(b"HTTP/1.1 200"):
        raise EOFError(f"the answer was {answer[:40]!r}")
    return took * 1e6


if __name__ == "__main__":
    port, count, ca, cert, key = sys.argv[1:]
    client = context(ca, (cert, key))
    for _ in range(20):
        shake(int(port), client)
    print(json.dumps([shake(int(port), client) for _ in range(int(count))]))
