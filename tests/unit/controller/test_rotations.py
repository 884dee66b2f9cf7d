"""What a Controller does at every change while something rotates, and from time to time."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from fairlead.controller import rotations
from fairlead.controller.rotations import Rotations
from fairlead.fleet.attached import Whereabouts


class Engines:
    """Those that are connected."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def bring(self) -> None:
        """There is nothing new."""

    async def again(self) -> None:
        """Those that refused are asked."""
        self.asked.set()


async def test_who_had_no_room_is_asked_again_though_something_changes_all_the_time(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotations, "AGAIN_S", 0.05)
    listeners: list[Any] = []
    directory = SimpleNamespace(common=0, changes={"rotation": 0, "trust": 0, "told": 0}, listen=listeners.append)
    engines = Engines()
    one: Any = SimpleNamespace(
        _mesh=SimpleNamespace(directory=directory), _presentation=SimpleNamespace(), rooted=SimpleNamespace(),
        _engines=engines, telling=SimpleNamespace(changed=asyncio.Event()),
        driver=SimpleNamespace(nudge=lambda: None))

    async def services_come_and_go() -> None:
        while True:
            await asyncio.sleep(0.005)
            directory.common += 1
            for changed in listeners:
                changed()

    tasks = [asyncio.create_task(work) for work in (Rotations.follow(one), services_come_and_go())]
    try:
        async with asyncio.timeout(10):
            await engines.asked.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_controller_that_does_not_say_how_its_engines_stand_is_waited_for() -> None:
    async def look(number: int) -> Whereabouts:
        assert number == 9
        return Whereabouts({"se-1": "late"}, away=["se-2"], silent=["ctl-2"])

    one: Any = SimpleNamespace(
        _attached=SimpleNamespace(look=look), driver=SimpleNamespace(settled=True),
        telling=SimpleNamespace(behind_statement=lambda _: {"ctl-3": "it has not acknowledged the trust statement"}))
    assert set(await Rotations.behind(one, 9)) == {"se-1", "ctl-2", "ctl-3"}
