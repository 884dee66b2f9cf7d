"""Places at the door: counted by source, given back, shared when there are too few, never remembered."""

import asyncio
from dataclasses import dataclass, field

from fairlead.transport.admission import Admission, Place, plain_address
from tests.unit.transport.world import world


@dataclass
class Crowd:
    """Who stands at a door, and in which order they were sent away."""

    admission: Admission
    away: list[str] = field(default_factory=list)
    stays: set[str] = field(default_factory=set)

    def enter(self, source: str, name: str = "") -> Place | None:
        def yields() -> bool:
            if name not in self.stays:
                self.away.append(name or source)
            return name not in self.stays

        return self.admission.enter(source, yields)


def test_caps_in_all_and_per_source() -> None:
    crowd = Crowd(Admission(3, 2))
    first = crowd.enter("192.0.2.1")
    assert first
    assert crowd.enter("192.0.2.1")
    assert not crowd.enter("192.0.2.1")  # its share
    assert crowd.enter("192.0.2.2")
    first.leave()
    first.leave()
    assert crowd.admission.inside == 2
    assert crowd.enter("192.0.2.3")
    assert not crowd.enter("192.0.2.4")  # the house is full, of equals
    assert (crowd.admission.inside, crowd.away) == (3, [])


def test_a_full_house_is_shared() -> None:
    crowd = Crowd(Admission(20, 10), stays={"second"})
    for place in range(10):
        assert crowd.enter("192.0.2.1", ("first", "second", "third")[place] if place < 3 else "later")
        assert crowd.enter("192.0.2.2", "other")
    assert crowd.enter("192.0.2.3")
    assert crowd.enter("192.0.2.3")
    assert crowd.away == ["first", "other"]  # each time from whoever has most
    assert crowd.enter("192.0.2.3")
    assert crowd.away[2:] == ["third"]  # one that is not free to go keeps its place
    assert crowd.admission.inside == 20
    for _ in range(100):
        crowd.enter("192.0.2.3")
    assert sum(1 for _ in crowd.away) < 10  # a newcomer ends with no more than the others have left
    assert crowd.enter("192.0.2.4")
    assert crowd.admission.inside == 20


def test_among_equals_the_oldest_gives_way_when_it_has_had_its_time() -> None:
    now = 0.0
    crowd = Crowd(Admission(3, 2, patience_s=5.0, monotonic=lambda: now))
    for source in "abc":
        assert crowd.enter(source)
        now += 1
    assert not crowd.enter("d")
    now = 5.5
    assert crowd.enter("d")
    assert crowd.away == ["a"]
    assert not crowd.enter("a")
    now = 6.5
    assert not crowd.enter("d")  # as many as the others have is enough
    assert crowd.enter("e")
    assert crowd.away == ["a", "b"]


def test_in_its_own_share_the_oldest_gives_way_when_it_has_had_its_time() -> None:
    now = 0.0
    crowd = Crowd(Admission(10, 2, patience_s=5.0, monotonic=lambda: now))
    assert crowd.enter("a", "first")
    now = 4.0
    assert crowd.enter("a", "second")
    assert not crowd.enter("a")
    now = 5.5
    assert crowd.enter("a")
    assert crowd.away == ["first"]
    assert not crowd.enter("a")
    assert crowd.admission.inside == 2


def test_sources_are_subscribers_not_addresses() -> None:
    crowd = Crowd(Admission(10, 1))
    assert crowd.enter("2001:db8:0:12ff::1")
    assert not crowd.enter("2001:db8:0:1200:ffff::2")  # the same /56
    assert crowd.enter("2001:db8:0:1300::1")
    assert crowd.enter("::ffff:192.0.2.1")
    assert not crowd.enter("192.0.2.1")  # the same machine, seen by an IPv6 socket
    assert crowd.enter("fe80::1%eth0")
    assert not crowd.enter("fe80::2%eth1")


def test_what_has_left_is_forgotten() -> None:
    crowd = Crowd(Admission(2, 1))
    for number in range(1000):
        place = crowd.enter(f"10.0.{number // 256}.{number % 256}")
        assert place
        place.leave()
    assert not crowd.admission._per_source
    assert crowd.admission.inside == 0


def test_plain_addresses() -> None:
    assert plain_address("::ffff:127.0.0.1") == "127.0.0.1"
    assert plain_address("fe80::1%lo") == "fe80::1"
    assert plain_address("") == ""


async def test_a_stranger_who_has_had_his_time_makes_room_at_the_ssh_door() -> None:
    async with world(admission=Admission(10, 2, patience_s=0.0)) as w:
        waiting = [await asyncio.open_connection("127.0.0.1", w.port) for _ in range(2)]
        for reader, _ in waiting:
            assert (await reader.readline()).startswith(b"SSH-2.0-fairlead")
        tunnel = await w.dial()
        async with asyncio.timeout(10):
            await waiting[0][0].read()
        assert w.admission.inside == 1
        assert not tunnel.closed.is_set()
        for _, writer in waiting:
            writer.close()
