"""What needs no control plane: python3 -m unittest, in this directory. What does is in tests/sdk of the repository."""

import random
import unittest
from typing import List, Optional

import tidegate
from tidegate import Cache, Client, Events, Instance, Refused, SetupError, Unreachable, about, pick


def instance(port: int, weight: int = 1, state: str = "healthy", health: str = "healthy") -> Instance:
    address = f"127.0.0.1:{port}"
    return Instance(
        id=f"i{port}", name="users", address=address, host="127.0.0.1", port=port, state=state, weight=weight,
        health=health, ttl="30s",
    )


class Told:
    """A cache with a clock that is told."""

    def __init__(self, most: int = 100) -> None:
        self.cache = Cache(most)
        self.now = 1000.0

    def sync(self, epoch: int, ports: List[int], end: bool = True) -> "Told":
        self.cache.page([instance(port) for port in ports], end, epoch, self.now)
        return self

    def event(self, kind: str, port: int) -> "Told":
        self.cache.event(kind, instance(port), self.now)
        return self

    def after(self, seconds: float) -> "Told":
        self.now += seconds
        self.cache.tidy(self.now)
        return self

    @property
    def ports(self) -> List[int]:
        return [known.port for known in self.cache.visible()]


class CacheTest(unittest.TestCase):
    def test_follows_what_the_control_plane_says(self) -> None:
        told = Told()
        self.assertEqual(told.sync(1, [1, 2]).event("registered", 3).ports, [1, 2, 3])
        self.assertEqual(told.event("deregistered", 1).event("expired", 2).ports, [3])
        self.assertEqual(told.event("held", 3).event("updated", 4).ports, [3, 4])
        self.assertEqual(told.sync(1, [7]).ports, [7])

    def test_silence_never_takes_the_last_ones(self) -> None:
        told = Told()
        told.sync(1, [1, 2, 3, 4]).event("expired", 1).after(61)
        told.event("expired", 2).after(20).event("expired", 3).after(20)
        self.assertEqual(told.ports, [4])
        self.assertEqual(told.event("expired", 4).after(100_000).ports, [2, 3, 4])
        self.assertEqual(told.sync(1, []).ports, [2, 3, 4])
        self.assertEqual(told.event("registered", 3).ports, [3])

    def test_whoever_says_goodbye_is_gone_also_as_the_last(self) -> None:
        told = Told()
        self.assertEqual(told.sync(1, [1, 2]).event("expired", 1).event("deregistered", 2).ports, [])
        self.assertEqual(told.sync(1, [3]).event("expired", 3).event("deregistered", 3).ports, [])

    def test_an_empty_answer_empties_nothing(self) -> None:
        told = Told()
        self.assertEqual(told.sync(1, [1, 2]).sync(1, []).ports, [1, 2])
        self.assertEqual(told.sync(2, []).after(1000).ports, [1, 2])

    def test_a_control_plane_that_begins_anew_takes_nobody_who_is_yet_to_register_again(self) -> None:
        told = Told()
        self.assertEqual(told.sync(1, [1, 2, 3]).sync(2, [2]).ports, [1, 2, 3])
        self.assertEqual(told.event("registered", 1).after(29).ports, [1, 2, 3])
        self.assertEqual(told.after(1).ports, [1, 2])

    def test_while_it_is_away_nobodys_time_runs_out(self) -> None:
        told = Told()
        told.sync(1, [1, 2]).sync(2, [2])
        told.now += 1000
        told.cache.connected(told.now)
        self.assertEqual(told.after(29).ports, [1, 2])

    def test_half_an_answer_changes_nothing(self) -> None:
        told = Told()
        self.assertEqual(told.sync(1, [1, 2]).sync(2, [3], end=False).ports, [1, 2])
        told.cache.connected(told.now)
        self.assertEqual(told.sync(1, [4], end=False).sync(1, [5]).ports, [4, 5])

    def test_holds_no_more_than_it_may(self) -> None:
        told = Told(most=2)
        self.assertFalse(told.sync(1, [1, 2]).cache.is_full)
        self.assertEqual(told.sync(1, [1, 2, 3]).event("registered", 4).event("updated", 2).ports, [1, 2])
        self.assertTrue(told.cache.is_full)

    def test_is_empty_only_when_the_last_one_said_goodbye(self) -> None:
        for seed in range(200):
            rng, told = random.Random(seed), Told()
            told.sync(1, [1, 2, 3])
            for step in range(200):
                before, port, deed = told.ports, rng.randrange(1, 6), rng.randrange(8)
                if deed == 0:
                    told.sync(rng.randrange(1, 3), [port for port in range(1, 6) if rng.random() < 0.5])
                elif deed == 1:
                    told.after(rng.randrange(100))
                else:
                    kinds = ["deregistered", "registered", "registered", "expired", "expired", "expired"]
                    told.event(kinds[deed - 2], port)
                if before and not told.ports:
                    self.assertEqual(deed, 2, f"seed {seed}, step {step}")


class EventsTest(unittest.TestCase):
    STREAM = (
        b': 9:1\n\nevent: sync\nid: 9:4\ndata: {"a":\ndata: 1}\n\nretry: 5\r\nevent:updated\r\n'
        b"data:\xc3\xbc\r\n\r\nid: 9:5\n\n"
    )

    def test_it_makes_no_difference_in_which_pieces_they_come(self) -> None:
        for size in range(1, len(self.STREAM)):
            events = Events()
            pieces = [self.STREAM[at : at + size] for at in range(0, len(self.STREAM), size)]
            found = [(event.kind, event.id, event.data) for piece in pieces for event in events.read(piece)]
            self.assertEqual(found, [("sync", "9:4", '{"a":\n1}'), ("updated", None, "ü")], f"in pieces of {size}")

    def test_what_has_no_end_is_given_up(self) -> None:
        events = Events()
        piece = b"x" * 1024 * 1024
        with self.assertRaises(Unreachable):
            for _ in range(100):
                events.read(piece)
        with self.assertRaises(Unreachable):
            Events().read(b"data: \xff\n")

    def test_an_answer_that_makes_no_sense_is_no_answer(self) -> None:
        cache = Cache(10)
        for kind, data in [("sync", "{}"), ("sync", "[]"), ("sync", "{"), ("updated", "3"), ("expired", "{}")]:
            with self.assertRaises(Unreachable):
                cache.take(tidegate.Event(kind, None, data), 0.0)
        self.assertTrue(cache.take(tidegate.Event("sneezed", None, "?"), 0.0))


class PickTest(unittest.TestCase):
    class Numbers(random.Random):
        """Answers what it is told."""

        number = 0.0

        def random(self) -> float:
            return self.number

    def picked(self, instances: List[Instance], number: float) -> Optional[Instance]:
        rng = self.Numbers()
        rng.number = number
        return pick(instances, rng)

    def test_each_gets_its_weight_and_who_is_not_well_gets_nothing(self) -> None:
        instances = [
            instance(1, 1),
            instance(2, 3),
            instance(3, 9, "critical"),
            instance(4, 9, "draining"),
            instance(5, 0),
            instance(6, 2, "held"),
            instance(7, 9, "held", "critical"),
            instance(8, 9, "resting"),
        ]
        ports = [one.port for one in (self.picked(instances, number / 6) for number in range(6)) if one]
        self.assertEqual(ports, [1, 2, 2, 2, 6, 6])
        self.assertIsNone(self.picked(instances[2:5], 0.5))
        self.assertIsNone(self.picked([], 0.5))


class WaitTest(unittest.TestCase):
    def test_doubles_up_to_the_bound_and_begins_anew(self) -> None:
        rng = PickTest.Numbers()
        rng.number = 1.0
        backoff = tidegate._Backoff()
        self.assertEqual([backoff.next(10.0, rng) for _ in range(8)], [0.25, 0.5, 1, 2, 4, 8, 10, 10])
        backoff.reset()
        self.assertEqual(backoff.next(10.0, rng), 0.25)
        rng.number = 0.0
        self.assertEqual(about(10.0, rng), 9.0)

    def test_reads_durations_as_the_control_plane_writes_them(self) -> None:
        good = [("10s", 10), ("333ms", 0.333), ("1m40s", 100), ("1h 30m", 5400), ("1day2h", 93600), ("0s", 0)]
        for text, seconds in good:
            read = tidegate._seconds(text)
            assert read is not None, text
            self.assertAlmostEqual(read, seconds)
        for bad in ["", "10", "s", "10 s", "-1s", "1.5s", "10s,", "10parsecs", None, 10]:
            self.assertIsNone(tidegate._seconds(bad), bad)


class ClientTest(unittest.TestCase):
    def test_a_server_is_a_scheme_a_host_and_a_port(self) -> None:
        for good in ["http://127.0.0.1:9902", "http://control/", "http://[::1]:9902", "https://control"]:
            Client(good)
        for bad, says in [
            ("127.0.0.1:9902", "neither"),
            ("control", "neither"),
            ("", "neither"),
            ("ftp://control", "neither"),
            ("http://control:port", "is not a server"),
            ("http://control/v1", "leave the path out"),
            ("http://me:secret@control", "has no user"),
        ]:
            with self.assertRaises(SetupError) as caught:
                Client(bad)
            self.assertIn(says, str(caught.exception), bad)
            self.assertNotIn("secret", str(caught.exception))
        with self.assertRaises(SetupError):
            Client([])

    def test_a_token_is_not_sent_in_plain_text_nor_shown(self) -> None:
        for good in ["http://127.0.0.1:9902", "http://localhost:9902", "http://[::1]:9902", "https://control"]:
            client = Client(good, token="horse-battery")
            self.assertNotIn("battery", repr(vars(client)))
        for bad in ["http://10.0.0.1:9902", "http://control:9902", "http://127.0.0.1.example"]:
            with self.assertRaises(SetupError):
                Client(bad, token="horse-battery")
        with self.assertRaises(SetupError) as caught:
            Client("http://localhost", token="horse\nbattery")
        self.assertNotIn("horse", str(caught.exception))

    def test_a_certificate_that_cannot_be_read_is_told(self) -> None:
        with self.assertRaises(SetupError):
            Client("https://control", ca="/nowhere.pem")

    def test_a_refusal_says_whether_it_is_for_good(self) -> None:
        self.assertTrue(Refused(403, "not_yours", "another's").is_permanent)
        self.assertFalse(Refused(429, "limit", "too many", 10.0).is_permanent)
        self.assertEqual(str(Refused(502, "", "Bad Gateway")), "refused with 502: Bad Gateway")


if __name__ == "__main__":
    unittest.main()
