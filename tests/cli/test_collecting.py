"""A daemon looks for garbage seldom; a command as Python does."""

import gc

from fairlead.cli.daemons import finish


async def thresholds() -> tuple[int, ...]:
    return gc.get_threshold()


def test_only_daemons_look_for_garbage_seldom() -> None:
    before = gc.get_threshold()
    try:
        assert finish(thresholds()) == before
        assert finish(thresholds(), fast=True) > before
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
