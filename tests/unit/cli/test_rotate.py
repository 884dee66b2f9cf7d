"""`rotate start --wait`: what it says at the end."""

from typing import Any

import pytest

from fairlead.cli import rotate
from fairlead.cli.rotate import start


class Api:
    """Begins what it is asked for."""

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"id": "r1", **body}


@pytest.mark.parametrize("missing", [0, 2])
def test_who_stayed_behind_when_the_old_one_was_retired_is_named(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: int) -> None:
    why = "in the phase retire se-1 (it is deaf) and 1 more stayed behind for 60 s" if missing else ""
    over = {"id": "r1", "phase": "over", "outcome": "done", "missing": missing, "why": why}
    monkeypatch.setattr(rotate, "client", lambda *_: Api())
    monkeypatch.setattr(rotate, "_wait", lambda *_: over)
    context: Any = None
    start(context, "api", wait=True)
    said = capsys.readouterr()
    assert (why in said.out + said.err, "stay behind" in said.out + said.err) == (True, bool(missing))
