"""What every test may rely on: the tools it needs, and a share of the tests for machines that run them in parts."""

import os
import shutil
from argparse import ArgumentTypeError
from typing import NoReturn

import pytest


def need(*tools: str) -> None:
    """Skip the test where a tool is missing; in CI (``CI=true``) that is a failure: there nothing goes untested."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if not missing:
        return
    lacking(f"not installed: {', '.join(missing)} (packaging/debian-packages.txt has what provides it)")


def lacking(reason: str) -> NoReturn:
    """Skip the test for that *reason*, or fail it in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--part k/n``: the k-th of n shares."""
    parser.addoption("--part", metavar="K/N", type=_part, help="run only the K-th of N shares of the test files")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the files of this share. They are dealt out in the order of their names, so every machine deals alike."""
    part: tuple[int, int] | None = config.getoption("--part")
    if part is None:
        return
    share, shares = part
    kept = set(sorted({item.path for item in items})[share - 1::shares])
    config.hook.pytest_deselected(items=[item for item in items if item.path not in kept])
    items[:] = [item for item in items if item.path in kept]


def _part(text: str) -> tuple[int, int]:
    share, _, shares = text.partition("/")
    if not (share.isdecimal() and shares.isdecimal() and 1 <= int(share) <= int(shares)):
        raise ArgumentTypeError(f"{text!r} is not K/N with K from 1 to N")
    return int(share), int(shares)
