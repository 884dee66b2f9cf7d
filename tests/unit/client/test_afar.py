"""What names a Controller from afar, and what a log-in leaves."""

import io
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
import typer

from fairlead.base.errors import FairleadError
from fairlead.cli import people
from fairlead.client import afar
from fairlead.client.afar import Afar, Context, load, origin
from tests.unit.client.certificates import Root


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


TOKEN = f"flk1_{'0f' * 8}_{'canary-' * 6}1"
Answer = Callable[[httpx2.Request], httpx2.Response]


class There:
    """A Controller, and a home in which a log-in leaves its context."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[httpx2.Request] = []
        self.refusal = ""
        self.ca, self.file = folder / "ca.pem", folder / "token"
        self.ca.write_bytes(Root().pair.certificate)
        self.file.touch(mode=0o600)
        self.file.write_text(TOKEN + "\n")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
        monkeypatch.setattr(httpx2, "HTTPTransport", lambda **_: httpx2.MockTransport(self._answer))

    def login(self, file: str = "", **more: str) -> str:
        """The code of the refusal, which does not show the token; empty for none."""
        try:
            people.login("https://ctl-1", self.ca, token_file=file or str(self.file), **more)
        except FairleadError as error:
            return error.code if "canary" not in error.line() else "shown"
        return ""

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        status = {"": 200, "FL-LOGIN": 401}.get(self.refusal, 403)
        return httpx2.Response(status, json={"error": "x", "code": self.refusal} if self.refusal else {})


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> There:
    return There(tmp_path, monkeypatch)


def test_a_token_is_tried_and_then_all_that_its_context_shows(there: There, capsys: pytest.CaptureFixture[str]) -> None:
    for refusal in ("", "FL-PERMISSION"):  # whose scope is small is good all the same
        there.refusal = refusal
        assert there.login() == ""
    (context, place), there.refusal = (load(afar.place()), afar.place()), ""
    assert context is not None
    assert (context.token, context.session, context.user) == (TOKEN, "", f"token {'0f' * 8}")
    assert "canary" not in repr(context) + capsys.readouterr().err
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    Afar(context).post("/api/service", {})
    for request in there.asked:
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        assert not {"cookie", "x-csrftoken"} & set(request.headers)
    assert [request.method for request in there.asked] == ["GET", "GET", "POST"]


@pytest.mark.parametrize("refusal", ["FL-LOGIN", "FL-SOURCE", "FL-STORE"])
def test_a_token_that_is_refused_leaves_no_context(there: There, refusal: str) -> None:
    there.refusal = refusal
    assert there.login() == refusal
    assert not afar.place().exists()


def test_what_is_no_token_or_is_open_to_others_is_not_sent_anywhere(there: There) -> None:
    for text in ("", "the password canary", TOKEN[:-1], TOKEN + "\n" + TOKEN, TOKEN.upper(), "\xff"):
        there.file.write_text(text)
        assert there.login() == "FL-API-TOKEN-FORMAT"
    there.file.write_text(TOKEN)
    for mode in (0o640, 0o604, 0o620):
        there.file.chmod(mode)
        assert there.login() == "FL-STATE-OPEN"
    assert there.login(str(there.file) + ".gone") == "FL-FILE"
    assert there.asked == []
    assert not afar.place().exists()


def test_a_token_comes_by_standard_input_and_beside_neither_name_nor_password(
        there: There, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TOKEN.encode() + b"\n")))
    assert there.login("-") == ""
    assert there.asked[0].headers["authorization"] == f"Bearer {TOKEN}"
    for more in ({"user": "jane"}, {"password_file": "-"}):
        with pytest.raises(typer.BadParameter):
            there.login(**more)


def test_a_log_out_forgets_the_token_and_says_that_it_is_good(
        there: There, capsys: pytest.CaptureFixture[str]) -> None:
    there.login()
    people.logout()
    assert (len(there.asked), afar.place().exists()) == (1, False)
    said = capsys.readouterr().err
    assert f"fairlead user token revoke {'0f' * 8}" in said
    assert "canary" not in said
