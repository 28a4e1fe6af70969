"""Register a service at a Tidegate control plane, keep it registered, and find the services of others.

    import tidegate

    plane = tidegate.Client("http://127.0.0.1:9902")
    users = plane.discover("users")
    with plane.register("orders", "127.0.0.1:3001", tags=["v2"]):
        serve()                       # users.pick().address is where to call
    # left: deregistered, and nothing new has come for the last five seconds

Heartbeats and the watch run on threads of their own. While the control plane is away, a registration goes on trying and a
discovery keeps its last answer. An empty answer empties nothing: only `deregistered` does. Threads do not survive a fork: make
the client in the process that serves. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import atexit
import http.client
import json
import logging
import random
import re
import signal
import socket
import ssl
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple, TypeVar, Union

__all__ = ["Client", "Discovery", "Instance", "Refused", "Registration", "SetupError", "TidegateError", "Unreachable"]
__version__ = "0.1.0"

log = logging.getLogger("tidegate")
_RANDOM = random.Random()
_T = TypeVar("_T")

USUAL_HEARTBEAT = 10.0
"""Where the control plane does not say."""
LONGEST_BACKOFF = 30.0
LAST_WORD = 2.0
"""For the control plane to hear that an instance leaves."""
SILENCE = 45.0
"""The control plane says something every 15 s,"""
FIRST_WORD = 10.0
"""and the first thing at once."""
GOOD_STREAM = 60.0
"""A stream that has lived for so long was a good one."""
LARGEST_ANSWER = 1024 * 1024
LARGEST_EVENT = 32 * 1024 * 1024
"""A page of 1,000 of the largest instances fits in."""
TOGETHER = 60.0
"""Those that expired within this are shown together, should nobody be left."""


class TidegateError(Exception):
    """What can go wrong. It never holds a token or a key."""

    is_permanent = False
    """Asking again changes nothing: whoever asks has to."""
    retry_after = 0.0
    """When it is worth asking again, where the control plane says so."""


class SetupError(TidegateError):
    """The client cannot be made like this."""

    is_permanent = True


class Unreachable(TidegateError):
    """No server of the control plane has answered, or not in a way that makes sense."""


class Refused(TidegateError):
    """The control plane says no. `reason` is one word of a closed list, empty where something else has answered."""

    def __init__(self, status: int, reason: str, detail: str, retry_after: float = 0.0) -> None:
        super().__init__(f"refused: {detail} ({reason})" if reason else f"refused with {status}: {detail}")
        self.status = status
        self.reason = reason
        self.detail = detail
        self.retry_after = retry_after
        self.is_permanent = reason in ("bad_request", "unauthenticated", "not_yours", "conflict", "too_large")


@dataclass(frozen=True)
class Instance:
    """A registered instance of a service."""

    id: str
    name: str
    address: str
    """`host:port`, with brackets around an IPv6 address."""
    host: str
    port: int
    state: str
    """As the control plane sees it: `healthy`, `critical`, `draining` or `held`."""
    tags: Tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    weight: int = 1
    """Its share of the requests. 0 gets none."""
    protocol: Optional[str] = None
    health: str = "healthy"
    """As it says itself: `healthy` or `critical`."""
    ttl: str = ""

    @property
    def takes_requests(self) -> bool:
        """Whether it is to get new requests. One that is held stays as it was."""
        is_well = self.state == "healthy" or (self.state == "held" and self.health == "healthy")
        return is_well and self.weight > 0


class Client:
    """A control plane, by one server or several. Connects nowhere yet.

    `servers` are `http://host:port` or `https://host:port`. `token` is sent as `Authorization: Bearer`, in plain text to loopback
    only. `timeout` is for one server, in seconds. `ca` is a file of certificates in PEM that are trusted in place of the system's,
    `identity` the files of a certificate and its key, and `server_id` the SPIFFE ID that the control plane proves in place
    of its host name. `most_instances` of one service are kept.
    """

    def __init__(
        self,
        servers: Union[str, Iterable[str]],
        *,
        token: Optional[str] = None,
        timeout: float = 5.0,
        ca: Optional[str] = None,
        identity: Optional[Tuple[str, str]] = None,
        server_id: Optional[str] = None,
        most_instances: int = 10_000,
    ) -> None:
        names = [servers] if isinstance(servers, str) else list(servers)
        if not names:
            raise SetupError("name at least one server (such as http://127.0.0.1:9902)")
        if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
            raise SetupError("the token holds what no header may (is there a line end in it?)")
        parsed = [_read_server(name, token is not None) for name in names]
        tls = _tls(ca, identity, server_id is not None) if any(server.is_secure for server in parsed) else None
        self._way = _Way(parsed, token, timeout, tls, server_id)
        self._most_instances = most_instances

    def register(
        self,
        name: str,
        address: str,
        *,
        id: Optional[str] = None,
        tags: Iterable[str] = (),
        metadata: Optional[Mapping[str, str]] = None,
        ttl: Optional[float] = None,
        weight: Optional[int] = None,
        protocol: Optional[str] = None,
        health: str = "healthy",
        drain: float = 5.0,
    ) -> Registration:
        """Registers an instance of `name` at `address` (`host:port` as others reach it), and keeps it registered.

        If no server answers, it goes on trying in the background. `ttl` and `drain` are seconds: without a heartbeat for `ttl` the
        instance expires, and for `drain` it goes on serving after it was deregistered. `id` is `name-host-port` by default, so
        that a restart is no second instance. Raises `Refused` where the control plane refuses it for good.
        """
        body: Dict[str, Any] = {"name": name, "address": address, "health": health}
        given = {"id": id, "weight": weight, "protocol": protocol}
        body.update((key, value) for key, value in given.items() if value is not None)
        if tags:
            body["tags"] = list(tags)
        if metadata:
            body["metadata"] = dict(metadata)
        if ttl is not None:
            body["ttl"] = _milliseconds(ttl)
        return Registration(self._way, body, drain)

    def discover(
        self, service: str, on_change: Optional[Callable[[List[Instance]], None]] = None
    ) -> Discovery:
        """Follows a service until the `Discovery` is closed.

        If no server answers, it knows nobody yet and goes on trying. `on_change` is called with all instances, on a thread of the
        SDK's. Raises `Refused` where the control plane refuses it for good.
        """
        return Discovery(self._way, service, on_change, self._most_instances)


class Registration:
    """Keeps an instance registered until it is closed, or left as a context. At the end of the interpreter it is deregistered as
    well, which SIGTERM does not bring about by itself: see `close_on_signal`."""

    def __init__(self, way: _Way, body: Dict[str, Any], drain: float) -> None:
        self._caller = _Caller(way)
        self._body = body
        self._drain = drain
        self._wishes: Dict[str, Any] = {}
        self._changed = threading.Condition()
        self._is_leaving = False
        self._wishes_changed = False
        self._answered = threading.Event()
        self._told = threading.Event()
        self._id: Optional[str] = None
        self._error: Optional[TidegateError] = None
        self._every = USUAL_HEARTBEAT
        self._backoff = _Backoff()
        self._thread = threading.Thread(target=self._run, name=f"tidegate-{body['name']}", daemon=True)
        self._thread.start()
        self._answered.wait()
        error = self._error
        if error is not None and error.is_permanent:
            self._leave()
            raise error
        atexit.register(self._at_exit)

    @property
    def id(self) -> Optional[str]:
        """As the control plane calls it; None while it does not know it."""
        return self._id

    @property
    def error(self) -> Optional[TidegateError]:
        """Why the last heartbeat was not heard. Another one is on its way."""
        return self._error

    def set_health(self, health: str) -> None:
        """`healthy` or `critical`. Tells the control plane at once, and again should it forget."""
        self._want("health", health)

    def set_weight(self, weight: int) -> None:
        """Tells the control plane at once, and again should it forget. 0 gets no requests."""
        self._want("weight", weight)

    def close(self) -> None:
        """Deregisters, and returns when the drain is over: stop serving then. Raises where the control plane could not be told, so
        that the instance expires after its ttl."""
        atexit.unregister(self._at_exit)
        self._leave()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def close_on_signal(self) -> None:
        """Waits until the process is told to end (SIGTERM or SIGINT), and closes. For the main thread only. A second signal
        does what it did before."""
        told = threading.Event()
        before: Dict[signal.Signals, Any] = {}

        def hear(_number: int, _frame: Any) -> None:
            for number, handler in before.items():
                signal.signal(number, handler)
            told.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, hear)
        # In pieces: where a wait without end cannot be interrupted, the handler would never run.
        while not told.wait(3600):
            pass
        self.close()

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, *_exception: object) -> None:
        try:
            self.close()
        except TidegateError:
            # It is in the log, and must not hide what the application has raised.
            pass

    def _want(self, key: str, value: Any) -> None:
        with self._changed:
            if self._wishes.get(key) != value:
                self._wishes[key] = value
                self._wishes_changed = True
                self._changed.notify_all()

    def _leave(self) -> None:
        with self._changed:
            self._is_leaving = True
            self._changed.notify_all()

    def _at_exit(self) -> None:
        self._leave()
        self._told.wait(LAST_WORD)

    def _run(self) -> None:
        while not self._is_leaving:
            with self._changed:
                wishes = dict(self._wishes)
                self._wishes_changed = False
            try:
                wait = self._renewed(self._renew(wishes))
            except TidegateError as error:
                wait = self._failed(error)
            except Exception as error:  # A heartbeat must not end in silence, whatever goes wrong.
                log.exception("a heartbeat of %s failed", self._body["name"])
                wait = self._failed(Unreachable(str(error)))
            self._answered.set()
            self._pause(wait)
        self._say_goodbye()

    def _renew(self, wishes: Dict[str, Any]) -> Any:
        if self._id is not None:
            path = f"/v1/services/{_encode(self._id)}/heartbeat"
            try:
                return self._caller.send("PUT", path, wishes)
            except Refused as refused:
                if refused.reason != "not_registered":
                    raise
            log.info("the control plane does not know %s any more: registering it again", self._id)
            self._id = None
        self._body.update(wishes)
        return self._caller.send("POST", "/v1/services", self._body)

    def _renewed(self, answer: Any) -> float:
        if not isinstance(answer, dict) or not isinstance(answer.get("id"), str):
            raise Unreachable("the answer is not a control plane's: there is no id in it")
        if self._id is None or self._error is not None:
            log.info("%s is registered as %s", self._body["name"], answer["id"])
        every = _seconds(answer.get("heartbeat_every"))
        self._every = max(every if every is not None else USUAL_HEARTBEAT, 0.1)
        self._backoff.reset()
        self._id, self._error = answer["id"], None
        return about(self._every, _RANDOM)

    def _failed(self, error: TidegateError) -> float:
        # Once, however often it is tried.
        if self._error is None:
            log.warning("%s cannot be registered or renewed, and is tried again: %s", self._body["name"], error)
        self._error = error
        # Never longer than a heartbeat takes: a control plane that is back must hear it in time.
        return max(self._backoff.next(self._every, _RANDOM), error.retry_after)

    def _pause(self, seconds: float) -> None:
        """What the application wants cuts it short; while nobody answers, only its farewell does."""
        is_well = self._error is None
        with self._changed:
            self._changed.wait_for(lambda: self._is_leaving or (is_well and self._wishes_changed), seconds)

    def _say_goodbye(self) -> None:
        error = self._deregister()
        self._error = error
        self._told.set()
        self._caller.close()
        if error is not None:
            log.warning("%s cannot be deregistered, and expires after its ttl: %s", self._body["name"], error)
        elif self._id is not None:
            time.sleep(self._drain)
        self._id = None

    def _deregister(self) -> Optional[TidegateError]:
        # What was never registered from here is not ours to remove, whatever its id.
        if self._id is None:
            return None
        path = f"/v1/services/{_encode(self._id)}?drain={_milliseconds(self._drain)}"
        end = time.monotonic() + LAST_WORD
        while True:
            try:
                self._caller.send("DELETE", path, None, LAST_WORD)
                return None
            except TidegateError as error:
                wait = self._backoff.next(LAST_WORD, _RANDOM)
                if error.is_permanent or time.monotonic() + wait >= end:
                    return error
                time.sleep(wait)


class Discovery:
    """The instances of a service as they are known, kept up to date in the background. Only `changes` waits."""

    def __init__(
        self, way: _Way, service: str, on_change: Optional[Callable[[List[Instance]], None]], most: int
    ) -> None:
        self._caller = _Caller(way)
        self._service = service
        self._on_change = on_change
        self._cache = Cache(most)
        self._last: Optional[str] = None
        self._shown: List[Instance] = []
        self._version = 0
        self._changed = threading.Condition()
        self._answered = threading.Event()
        self._closing = threading.Event()
        self._error: Optional[TidegateError] = None
        self._has_warned = False
        self._thread = threading.Thread(target=self._run, name=f"tidegate-{service}", daemon=True)
        self._thread.start()
        self._answered.wait()
        error = self._error
        if error is not None and error.is_permanent:
            self.close()
            raise error

    def instances(self) -> List[Instance]:
        """All that are known, by id; also those that are to get no requests: see `Instance.takes_requests`."""
        with self._changed:
            return list(self._shown)

    def pick(self) -> Optional[Instance]:
        """One of those that take requests, at random and by weight. None where there is none."""
        with self._changed:
            shown = self._shown
        return pick(shown, _RANDOM)

    def changes(self) -> Iterator[List[Instance]]:
        """What is known now, and again after each change, until it is closed. Whoever is slow sees the newest only."""
        seen = -1
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._version != seen or self._closing.is_set())
                if self._version == seen:
                    return
                seen, shown = self._version, list(self._shown)
            yield shown

    @property
    def error(self) -> Optional[TidegateError]:
        """Why the control plane cannot be heard. What is known is what it said last."""
        return self._error

    def close(self) -> None:
        """Follows it no longer. What is known stays."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        self._caller.hang_up()

    def __enter__(self) -> Discovery:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _run(self) -> None:
        backoff = _Backoff()
        while not self._closing.is_set():
            began = time.monotonic()
            error = self._follow()
            if time.monotonic() - began > GOOD_STREAM:
                backoff.reset()
            if self._closing.is_set():
                break
            self._show()
            if error is not None:
                self._failed(error)
            self._caller.turn_away()
            after = 0.0 if error is None else error.retry_after
            self._closing.wait(max(backoff.next(LONGEST_BACKOFF, _RANDOM), after))
        self._caller.close()

    def _follow(self) -> Optional[TidegateError]:
        """Until it ends, which a good one does after some minutes."""
        try:
            events = Events()
            with self._caller.open(f"/v1/watch?name={_encode(self._service)}", self._last) as stream:
                self._cache.connected(time.monotonic())
                if self._last is not None:
                    # There may be nothing new to hear.
                    self._well()
                while not self._closing.is_set():
                    piece = stream.read(SILENCE if self._last is not None else FIRST_WORD)
                    if not piece:
                        return None
                    self._take(events.read(piece))
        except TidegateError as error:
            return error
        except Exception as error:  # It must not end in silence, whatever goes wrong.
            log.exception("following %s failed", self._service)
            return Unreachable(str(error))
        return None

    def _take(self, events: List[Event]) -> None:
        now, is_whole = time.monotonic(), False
        for event in events:
            is_whole = self._cache.take(event, now)
            # Only what was taken in moves it.
            self._last = self._last if event.id is None else event.id
        # At least every 15 s, since the control plane says something so often.
        self._cache.tidy(now)
        if self._cache.is_full and not self._has_warned:
            self._has_warned = True
            log.warning("%s has more instances than are kept (raise `most_instances`)", self._service)
        if is_whole or not events:
            self._show()
        if is_whole:
            self._well()

    def _show(self) -> None:
        visible = self._cache.visible()
        with self._changed:
            if visible == self._shown:
                return
            self._shown = visible
            self._version += 1
            self._changed.notify_all()
        if self._on_change is not None:
            try:
                self._on_change(list(visible))
            except Exception:  # The application's, and no reason to follow the service no longer.
                log.exception("on_change of %s failed", self._service)

    def _well(self) -> None:
        if self._error is not None or not self._answered.is_set():
            log.info("following %s", self._service)
        self._error = None
        self._answered.set()

    def _failed(self, error: TidegateError) -> None:
        if isinstance(error, Refused) and error.status == 400:
            # If it is what we go on from that it cannot read, begin anew.
            self._last = None
        # Once, however often it is tried.
        if self._error is None:
            log.warning("%s cannot be followed, and is tried again; what is known stays: %s", self._service, error)
        self._error = error
        self._answered.set()


@dataclass
class Event:
    """A server-sent event."""

    kind: str = ""
    id: Optional[str] = None
    data: str = ""


class Events:
    """Server-sent events, as they come in pieces. Lines end with LF or CRLF, as the control plane's do."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._event = Event()
        self._data: List[str] = []
        self._size = 0

    def read(self, piece: bytes) -> List[Event]:
        """What has become whole with these bytes. Raises where it is no stream of events."""
        whole: List[Event] = []
        *lines, rest = piece.split(b"\n")
        for line in lines:
            self._line += line
            self._check()
            event = self._take(bytes(self._line))
            self._line.clear()
            if event is not None:
                whole.append(event)
        self._line += rest
        self._check()
        return whole

    def _check(self) -> None:
        if len(self._line) + self._size > LARGEST_EVENT:
            raise Unreachable("the answer is not a control plane's: an event that is too large")

    def _take(self, line: bytes) -> Optional[Event]:
        try:
            text = (line[:-1] if line.endswith(b"\r") else line).decode()
        except UnicodeDecodeError:
            raise Unreachable("the answer is not a control plane's: an event that is no text") from None
        if not text:
            event, self._event = self._event, Event()
            event.data = "\n".join(self._data)
            self._data, self._size = [], 0
            return event if event.data else None
        name, _, value = text.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if name == "event":
            self._event.kind = value
        elif name == "id":
            self._event.id = value
        elif name == "data":
            self._data.append(value)
            self._size += len(line)
        return None


@dataclass
class _Absent:
    """One that the control plane no longer has. It is shown beside the others up to `until`."""

    instance: Instance
    until: Optional[float]
    since: float


class Cache:
    """What is known of a service, and what silence may take from it: nothing that is the last.

    - `deregistered` removes at once. It was said, and is no silence.
    - `expired` removes as long as others are there. If none is, those that expired in the last minute are shown again.
    - A whole answer replaces what was known. Where it is empty, what was known stays.
    - A control plane that begins anew (another epoch) may not have heard of everybody yet: who is missing stays for its ttl,
      within which it has registered again if it lives.

    It holds no clock: callers pass `now`, and call `tidy` only while they hear the control plane.
    """

    def __init__(self, most: int) -> None:
        self._epoch: Optional[int] = None
        self._live: Dict[str, Instance] = {}
        self._absent: Dict[str, _Absent] = {}
        self._coming: Dict[str, Instance] = {}
        self._most = most
        self.is_full = False
        """Instances were passed over."""

    def visible(self) -> List[Instance]:
        """What whoever asks is to see, by id."""
        visible = {key: absent.instance for key, absent in self._absent.items() if absent.until is not None}
        visible.update(self._live)
        if not visible:
            visible = {key: absent.instance for key, absent in self._absent.items()}
        return [visible[key] for key in sorted(visible)]

    def connected(self, now: float) -> None:
        """The control plane is heard again. While it was away nobody could come back, so no time has passed."""
        self._coming = {}
        for absent in self._absent.values():
            if absent.until is not None:
                absent.until = now + _ttl(absent.instance)

    def take(self, event: Event, now: float) -> bool:
        """False in the middle of a whole answer. A kind that is not known changes nothing."""
        try:
            if event.kind == "sync":
                page = json.loads(event.data)
                return self.page([_instance(record) for record in page["instances"]], page["end"], page["epoch"], now)
            if event.kind in ("registered", "updated", "held", "deregistered", "expired"):
                self.event(event.kind, _instance(json.loads(event.data)), now)
        except (KeyError, TypeError, ValueError) as error:
            raise Unreachable(f"the answer is not a control plane's: {error!r}") from None
        return True

    def page(self, instances: List[Instance], end: bool, epoch: int, now: float) -> bool:
        """A part of all there are. True with the last one."""
        for instance in instances:
            self._insert(self._coming, instance)
        if not end:
            return False
        is_anew = self._epoch is not None and self._epoch != epoch
        self._epoch = epoch
        before, self._live, self._coming = self._live, self._coming, {}
        for key, instance in before.items():
            until = now + _ttl(instance) if is_anew else None
            self._absent[key] = _Absent(instance, until, now)
        for key in self._live:
            self._absent.pop(key, None)
        return True

    def event(self, kind: str, instance: Instance, now: float) -> None:
        if kind == "deregistered":
            self._live.pop(instance.id, None)
            self._absent.pop(instance.id, None)
            # The last one has said goodbye: who expired before it is not to come back for that.
            if not self._live:
                self._absent = {key: absent for key, absent in self._absent.items() if absent.until is not None}
        elif kind == "expired":
            known = self._live.pop(instance.id, None)
            if known is not None:
                self._absent[known.id] = _Absent(known, None, now)
        else:
            self._absent.pop(instance.id, None)
            self._insert(self._live, instance)

    def tidy(self, now: float) -> None:
        """Forgets those whose time is over."""
        for absent in self._absent.values():
            if absent.until is not None and absent.until <= now:
                absent.until, absent.since = None, now
        if self._live:
            kept = self._absent.items()
            self._absent = {key: it for key, it in kept if it.until is not None or it.since + TOGETHER > now}

    def _insert(self, known: Dict[str, Instance], instance: Instance) -> None:
        if len(known) < self._most or instance.id in known:
            known[instance.id] = instance
        else:
            self.is_full = True


class _Backoff:
    """Full jitter, so that those who lost the control plane at the same moment do not come back at the same moment."""

    def __init__(self) -> None:
        self._failures = 0

    def next(self, most: float, rng: random.Random) -> float:
        bound = min(0.25 * (1 << min(self._failures, 16)), LONGEST_BACKOFF, most)
        self._failures += 1
        return bound * rng.random()

    def reset(self) -> None:
        self._failures = 0


def about(every: float, rng: random.Random) -> float:
    """10 % sooner or later, so that heartbeats spread."""
    return every * (0.9 + 0.2 * rng.random())


def pick(instances: List[Instance], rng: random.Random) -> Optional[Instance]:
    """At random, each as often as its weight says. None where nobody takes requests."""
    taking = [instance for instance in instances if instance.takes_requests]
    left = rng.random() * sum(instance.weight for instance in taking)
    for instance in taking:
        left -= instance.weight
        if left < 0:
            return instance
    return None


@dataclass(frozen=True)
class _Server:
    host: str
    port: int
    is_secure: bool


@dataclass(frozen=True)
class _Way:
    """How to reach the control plane."""

    servers: List[_Server]
    token: Optional[str] = field(repr=False)
    timeout: float
    tls: Optional[ssl.SSLContext]
    server_id: Optional[str]


class _Caller:
    """Requests of one thread: the server that answered last first and the others in random order, with a deadline for each.
    Redirects are not followed: whoever asks one server must not be led to another."""

    def __init__(self, way: _Way) -> None:
        self._way = way
        self._first = random.choice(way.servers)
        # Kept from one request to the next.
        self._kept: Optional[Tuple[_Server, http.client.HTTPConnection]] = None
        self._stream: Optional[_Stream] = None
        self._is_hung_up = False

    def send(self, method: str, path: str, body: Optional[Dict[str, Any]], limit: Optional[float] = None) -> Any:
        """One server after the other, until one answers with something else than that it cannot."""
        payload = json.dumps(body).encode() if body else None
        longest = self._way.timeout if limit is None else min(limit, self._way.timeout)

        def ask(server: _Server) -> Any:
            end = time.monotonic() + longest
            connection = self._connection(server, longest)
            headers = {"content-type": "application/json"} if payload else {}
            answer = self._ask(connection, method, path, payload, headers)
            content = _whole(answer, connection.sock, end)
            if answer.will_close:
                self.close()
            if not 200 <= answer.status < 300:
                raise _refused(answer, content)
            # 204 has nothing to say.
            return json.loads(content) if content else None

        return self._of_any(ask)

    def open(self, path: str, last: Optional[str]) -> _Stream:
        """A stream of events."""
        headers = {"accept": "text/event-stream"}
        if last is not None:
            headers["last-event-id"] = last

        def ask(server: _Server) -> _Stream:
            connection = self._connection(server, self._way.timeout)
            transport = connection.sock
            answer = self._ask(connection, "GET", path, None, headers)
            if answer.status != 200:
                content = _whole(answer, transport, time.monotonic() + self._way.timeout)
                self.close()
                raise _refused(answer, content)
            self._kept = None
            self._stream = _Stream(connection, transport, answer)
            if self._is_hung_up:
                self._stream.hang_up()
            return self._stream

        return self._of_any(ask)

    def turn_away(self) -> None:
        """Begin with any server the next time."""
        self._first = random.choice(self._way.servers)

    def hang_up(self) -> None:
        """From another thread: the stream ends."""
        self._is_hung_up = True
        if self._stream is not None:
            self._stream.hang_up()

    def close(self) -> None:
        if self._kept is not None:
            self._kept[1].close()
            self._kept = None

    def _of_any(self, ask: Callable[[_Server], _T]) -> _T:
        others = [server for server in self._way.servers if server != self._first]
        failed: TidegateError = Unreachable("no control plane answers")
        for server in [self._first, *random.sample(others, len(others))]:
            try:
                answer = ask(server)
            except Refused as refused:
                if 400 <= refused.status < 500:
                    # Another server would say the same.
                    self._first = server
                    raise
                failed = refused
            except Unreachable as error:
                self.close()
                failed = error
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.close()
                failed = Unreachable(f"no control plane answers: {error or type(error).__name__}")
            else:
                self._first = server
                return answer
        raise failed

    def _connection(self, server: _Server, limit: float) -> http.client.HTTPConnection:
        if self._kept is not None:
            kept, connection = self._kept
            if kept == server and not _is_over(connection.sock):
                connection.sock.settimeout(limit)
                return connection
            self.close()
        if server.is_secure:
            connection = http.client.HTTPSConnection(
                server.host, server.port, timeout=limit, context=self._way.tls
            )
        else:
            connection = http.client.HTTPConnection(server.host, server.port, timeout=limit)
        self._kept = (server, connection)
        connection.connect()
        if server.is_secure and self._way.server_id is not None:
            _check_id(connection.sock, self._way.server_id)
        return connection

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Optional[bytes],
        headers: Dict[str, str],
    ) -> http.client.HTTPResponse:
        if self._way.token is not None:
            headers["authorization"] = f"Bearer {self._way.token}"
        connection.request(method, path, body, headers)
        return connection.getresponse()


class _Stream:
    def __init__(
        self, connection: http.client.HTTPConnection, transport: socket.socket, answer: http.client.HTTPResponse
    ) -> None:
        self._connection, self._transport, self._answer = connection, transport, answer

    def read(self, silence: float) -> bytes:
        """What has come; nothing at the end. Raises when nothing comes for so long."""
        try:
            self._transport.settimeout(silence)
            return self._answer.read1(65536)
        except socket.timeout:
            raise Unreachable(f"nothing was heard for {silence:.0f} s") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(f"the stream broke off: {error or type(error).__name__}") from None

    def hang_up(self) -> None:
        try:
            # Below TLS, which another thread is reading from.
            socket.socket.shutdown(self._transport, socket.SHUT_RDWR)
        except OSError:
            # It has ended.
            pass

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._answer.close()
        self._connection.close()


def _whole(answer: http.client.HTTPResponse, transport: Optional[socket.socket], end: float) -> bytes:
    """The whole body, in time and within bounds."""
    content = bytearray()
    while True:
        left = end - time.monotonic()
        if left <= 0:
            raise Unreachable("the answer took too long")
        if transport is not None:
            transport.settimeout(left)
        piece = answer.read(min(65536, LARGEST_ANSWER - len(content) + 1))
        if not piece:
            return bytes(content)
        content += piece
        if len(content) > LARGEST_ANSWER:
            raise Unreachable("the answer is not a control plane's: it is too large")


def _refused(answer: http.client.HTTPResponse, content: bytes) -> Refused:
    problem: Any = None
    try:
        problem = json.loads(content)
    except ValueError:
        pass
    if not isinstance(problem, dict):
        problem = {}
    detail = problem.get("detail") or http.client.responses.get(answer.status, "no reason given")
    after = answer.getheader("retry-after") or ""
    # A server that asks for more is not asked for longer.
    seconds = min(float(after), 300.0) if re.fullmatch(r"[0-9]{1,9}", after) else 0.0
    return Refused(answer.status, str(problem.get("reason") or ""), str(detail), seconds)


def _is_over(transport: Any) -> bool:
    """A connection that was kept, and that the server has closed since, can be read from."""
    if transport is None:
        return True
    try:
        transport.settimeout(0)
        # Of TLS, what is below: closing it is all a server has to say there.
        return len(socket.socket.recv(transport, 1, socket.MSG_PEEK)) >= 0
    except (BlockingIOError, InterruptedError):
        return False
    except OSError:
        return True


def _check_id(transport: Any, wanted: str) -> None:
    """X509-SVID: exactly one URI. That the chain is good has been found out before."""
    names = (transport.getpeercert() or {}).get("subjectAltName", ())
    if [value for kind, value in names if kind == "URI"] != [wanted]:
        raise OSError(f"the server is not {wanted}")


def _tls(
    ca: Optional[str], identity: Optional[Tuple[str, str]], by_id: bool
) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
        if identity is not None:
            context.load_cert_chain(*identity)
    except (OSError, ValueError) as error:
        raise SetupError(f"the certificates cannot be used: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ssl.HAS_NEVER_CHECK_COMMON_NAME:
        context.hostname_checks_common_name = False
    # An SVID names no host; its ID is looked at instead.
    context.check_hostname = not by_id
    return context


def _read_server(text: str, has_token: bool) -> _Server:
    hint = "(try http://127.0.0.1:9902)"
    if "@" in text:
        # A password may stand before it.
        raise SetupError("a server has no user (the token has a place of its own)")
    try:
        parts = urllib.parse.urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise SetupError(f"{text!r} is not a server: {error} {hint}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise SetupError(f"{text!r} is not a server: it begins with neither http:// nor https:// {hint}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise SetupError(f"{text!r} is not a server: leave the path out {hint}")
    is_secure = parts.scheme == "https"
    if has_token and not is_secure and not _is_loopback(host):
        raise SetupError(f"a token does not go to {text!r} in plain text (write https)")
    return _Server(host, port or (443 if is_secure else 80), is_secure)


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.[0-9]{1,3}){3}", host) is not None


def _instance(record: Any) -> Instance:
    """What a newer control plane says beside this is passed over."""
    return Instance(
        id=str(record["id"]),
        name=str(record["name"]),
        address=str(record["address"]),
        host=str(record["host"]),
        port=int(record["port"]),
        state=str(record["state"]),
        tags=tuple(str(tag) for tag in record.get("tags", ())),
        metadata={str(key): str(value) for key, value in record.get("metadata", {}).items()},
        weight=int(record.get("weight", 1)),
        protocol=record.get("protocol"),
        health=str(record.get("health", "healthy")),
        ttl=str(record.get("ttl", "")),
    )


_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "day": 86400.0, "days": 86400.0}
_DURATION = re.compile(r"([0-9]{1,12})([a-z]+) ?")


def _seconds(text: object) -> Optional[float]:
    """Durations as the control plane writes them: `10s`, `3s333ms`, `1day2h`. None where it is not one."""
    if not isinstance(text, str) or not re.fullmatch(f"(?:{_DURATION.pattern})+", text):
        return None
    parts = _DURATION.findall(text)
    if any(unit not in _UNITS for _, unit in parts):
        return None
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def _milliseconds(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _ttl(instance: Instance) -> float:
    ttl = _seconds(instance.ttl)
    return 30.0 if ttl is None else min(ttl, 86400.0)


def _encode(text: str) -> str:
    """What may stand in one segment of a path, and in a query."""
    return urllib.parse.quote(text, safe=":")

