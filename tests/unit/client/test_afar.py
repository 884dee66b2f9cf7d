"""What names a Controller from afar, and what a log-in leaves."""

import stat
from pathlib import Path

import pytest

from fairlead.base.errors import FairleadError
from fairlead.client.afar import Context, load, origin


@pytest.mark.parametrize(("url", "means"), [
    ("https://ctl-1.example.com", "https://ctl-1.example.com:443"), ("ctl-1", "https://ctl-1:443"),
    ("192.0.2.1:4443", "https://192.0.2.1:4443"), ("https://[2001:db8::1]:8/", "https://[2001:db8::1]:8")])
def test_what_names_a_controller(url: str, means: str) -> None:
    assert origin(url) == means


@pytest.mark.parametrize("url", ["http://ctl-1", "https://", "https://ctl-1/api", "https://ctl-1?x", "https://ctl-1:x",
                                 "https://jane:canary@ctl-1", ""])
def test_what_names_none_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(FairleadError) as caught:
        origin(url)
    assert caught.value.code == "FL-URL"
    assert "canary" not in caught.value.line()


def test_a_context_is_its_owners_alone_and_shows_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "fairlead" / "context.json"
    context = Context("https://c:443", "pem", "jane", "s-canary", "c-canary")
    context.save(path)
    assert load(path) == context
    assert "canary" not in repr(context)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(FairleadError) as caught:
        load(path)
    assert caught.value.code == "FL-STATE-OPEN"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"url": "canary"}', '{"canary": 1}'])
def test_a_damaged_context_is_named_and_not_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "context.json"
    assert load(path) is None
    path.touch(mode=0o600)
    path.write_text(content)
    with pytest.raises(FairleadError) as caught:
        load(path)
    assert caught.value.code == "FL-CONTEXT"
    assert "canary" not in caught.value.line()
