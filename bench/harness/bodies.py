"""Requests that bring a body: which ones are measured, and bodies that are too large to be held."""

import http.client
from dataclasses import dataclass

from . import proxies
from .machine import Fatal

LARGE, PIECE = 1_000_000_000, 4_000_000


@dataclass
class Kind:
    """A POST of so many bytes to the backend, which has all of it before it answers, but for an echo."""

    title: str
    size: int
    path: str = proxies.BACKEND_ANSWER["path"]

    def check(self, proxy):
        sent = "b" * self.size
        right = sent if self.path == "/echo" else proxies.BACKEND_ANSWER["body"]
        try:
            answer = proxies.fetch(proxy.port, self.path, method="POST", body=sent)
        except (OSError, http.client.HTTPException) as error:
            raise Fatal(f"{proxy.name} did not answer a {self.title}: {error}") from None
        if (answer.status, answer.body) != (200, right):
            raise Fatal(f"{proxy.name} answered a {self.title} with {answer.status} and {len(answer.body)} bytes")


KINDS = (
    Kind("POST of 1 KiB", 1 << 10),
    Kind("POST of 64 KiB", 1 << 16),
    Kind("echo of 64 KiB", 1 << 16, "/echo"),
)


def up(proxy, look):
    """A large body to the backend; `look` is called, and nothing sent, after each piece of it."""

    def pieces():
        piece = bytes(PIECE)
        for _ in range(LARGE // PIECE):
            yield piece
            look()

    _carry(proxy, "POST", proxies.BACKEND_ANSWER["path"], pieces(), len(proxies.BACKEND_ANSWER["body"]), look)


def down(proxy, look):
    """A large body from the backend; `look` is called, and nothing read, after each piece of it."""
    _carry(proxy, "GET", f"/bytes/{LARGE}", None, LARGE, look)


def _carry(proxy, method, path, sent, expected, look):
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
    try:
        connection.request(method, path, sent, {"Content-Length": str(LARGE)} if sent else {})
        response = connection.getresponse()
        received = 0
        while data := response.read(PIECE):
            received += len(data)
            look()
    except (OSError, http.client.HTTPException) as error:
        raise Fatal(f"{proxy.name} did not carry a large body: {error}") from None
    finally:
        connection.close()
    if (response.status, received) != (200, expected):
        raise Fatal(f"{proxy.name} answered a large {method} with {response.status} and {received} bytes")
