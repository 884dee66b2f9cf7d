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


@dataclass
class House:
    """A house of five to twenty places, and a clock that stands still until it is moved."""

    now: float = 0.0

    def __post_init__(self) -> None:
        self.crowd = Crowd(Admission(20, 20, patience_s=60.0, least=5, monotonic=lambda: self.now))

    def serve(self, took_s: float) -> None:
        place = self.crowd.enter("192.0.2.1")
        assert place
        self.now += took_s
        place.served()
        place.served()
        place.leave()


def test_a_house_grows_with_whoever_is_served_promptly_and_shrinks_when_they_wait() -> None:
    house = House()
    admission = house.crowd.admission
    assert admission.size == 5
    for _ in range(20):
        house.serve(1.0)
    assert (admission.size, admission.inside) == (20, 0)
    house.serve(3.0)
    assert admission.size == 15
    for _ in range(20):
        house.serve(3.0)
    assert admission.size == 5  # and no smaller


def test_many_who_waited_together_shrink_it_once() -> None:
    house = House()
    for _ in range(10):
        house.serve(1.0)
    places = [house.crowd.enter("192.0.2.2") for _ in range(10)]
    house.now += 3.0
    for place in places:
        assert place
        place.served()
    assert house.crowd.admission.size == 15


def test_attack_who_shows_nothing_changes_no_size() -> None:
    house = House()
    for took_s in (0.0, 9.0) * 20:
        place = house.crowd.enter("192.0.2.66")
        assert place
        house.now += took_s
        place.leave()
        assert house.crowd.admission.size == 5


def test_who_was_sent_away_is_no_longer_served() -> None:
    house = House()
    place = house.crowd.enter("192.0.2.1")
    assert place
    place.leave()
    place.served()
    assert house.crowd.admission.size == 5


def test_a_fleet_is_told_to_come_within_the_time_that_it_takes() -> None:
    house = House()
    for _ in range(200):
        house.serve(1.0)
    assert house.crowd.admission.come_again_s(20 * 7) == 7
    assert house.crowd.admission.come_again_s(0) == 1
    assert house.crowd.admission.come_again_s(10**6) == 60


def test_before_anybody_was_served_a_door_is_thought_to_be_quick() -> None:
    """Who comes too soon is told once more; who comes too late finds an empty house."""
    assert Admission(1024, 128, least=128).come_again_s(128 * 20) == 5


def test_who_is_turned_away_is_known_without_asking_anybody_to_go() -> None:
    house = House()
    crowd, admission = house.crowd, house.crowd.admission
    assert not admission.turn_away("192.0.2.9")
    for number in range(5):
        assert crowd.enter(f"192.0.2.{number}")
    assert admission.turn_away("192.0.2.9")
    assert not crowd.enter("192.0.2.9")
    house.now += 60.0
    assert not admission.turn_away("192.0.2.9")
    assert crowd.away == []
    assert crowd.enter("192.0.2.9")
    assert crowd.away == ["192.0.2.0"]
    assert admission.inside == 5


def test_attack_a_flood_opens_the_whole_house() -> None:
    house = House()
    crowd, admission = house.crowd, house.crowd.admission
    for number in range(5):
        assert crowd.enter(f"198.51.100.{number}")
    for _ in range(6):
        assert admission.turn_away("192.0.2.9")
        house.now += 1.0
    assert admission.turn_away("192.0.2.9")
    assert admission.size == 20
    assert crowd.enter("192.0.2.9")


def test_a_fleet_that_is_served_all_the_while_is_no_flood() -> None:
    house = House()
    crowd, admission = house.crowd, house.crowd.admission
    for number in range(100):
        while place := crowd.enter(f"192.0.2.{number}"):
            served = place
        house.now += 0.25
        admission._size = 5.0  # it does not grow here: what is looked at is whether it is opened
        served.served()
        admission._size = 5.0
        assert admission.size == 5
