"""What people may type over SSH, held against the commands that there are."""

import re
from typing import Any

import pytest
import typer
import typer.main
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.base.errors import Refused
from fairlead.cli.allowed import COMMANDS, check, words
from fairlead.cli.main import application


def commands(group: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every command, by its words."""
    found: dict[tuple[str, ...], Any] = {}
    for name, command in group.commands.items():
        found |= commands(command, (*path, name)) if hasattr(command, "commands") else {(*path, name): command}
    return found


UsageError: Any = typer.BadParameter.__base__
ALL = commands(typer.main.get_command(application()))
OURS = ("backup", "bench", "controller", "demo", "engine", "login", "logout")
"""What belongs to a machine, not to the cluster."""


def refused(text: str) -> str:
    with pytest.raises(Refused) as caught:
        check(words(text))
    assert caught.value.line().isprintable()
    return caught.value.code


def test_each_command_of_the_list_exists_with_each_of_its_options() -> None:
    for path, allowed in COMMANDS.items():
        options = {name for param in ALL[path].params for name in getattr(param, "opts", ())}
        assert allowed.options | allowed.piped | allowed.flags <= options | {"--help"}, path


def test_no_option_and_no_argument_of_the_list_names_a_file() -> None:
    """By what its help says."""
    seen = 0
    for path, allowed in COMMANDS.items():
        arguments = [param for param in ALL[path].params if not param.opts[0].startswith("-")]
        for param in ALL[path].params:
            names = set(param.opts)
            said = (getattr(param, "help", None) or "").lower()
            if re.search(r"\bfiles?\b|\bfolder\b|/etc|standard input", said) or names & {"file", "--ca"}:
                seen += 1
                assert not names & (allowed.options | allowed.flags), (path, param.opts)
                assert param not in arguments or arguments.index(param) == allowed.piped_at, (path, param.opts)
    assert seen > len(COMMANDS), "each has --state, some have others"


def test_all_other_commands_are_refused() -> None:
    others = set(ALL) - set(COMMANDS)
    assert {path[0] for path in others} >= set(OURS)
    assert not {path[0] for path in COMMANDS} & set(OURS)
    for path in others:
        for more in ("", " --help", " x", " --state /tmp"):
            assert refused(" ".join(path) + more) == "FL-SSH-COMMAND"


@pytest.mark.parametrize("text", [
    "", "id", "sh -c id", "node", "node --help", "--help node list", "--state /tmp node list", "NODE list",
    "node  'list x'", "node list; id", "node list;id", "$(id)", "`id`",
    "node list\nnode remove x", "node list\0", "node list \x1b[2J", "node list \u202e", "node 'list", "node list \\",
    "node list --state /tmp", "node list --state=/tmp", "node list -- --state", "node list -h", "node list --js",
    "hosts --install", "hosts --install --json", "bundle export --role engine --output /tmp/x",
    "bundle export --role engine --output=-", "bundle export --for /etc/passwd", "bundle export --for=/etc/passwd",
    "bundle export --for", "bundle show /etc/shadow", "bundle show", "bundle show --json /etc/shadow - x",
    "user add x --role viewer --password-file /etc/shadow", "user password x --password-file=/etc/shadow",
    "user key add admin /etc/hostname", "user key add admin --comment x /etc/hostname",
    "user key add - /etc/hostname", "user key", "user key add --state /x admin -",
    "cluster client-certificate --output /tmp/x", "cluster recover --yes", "backup create --output - --recipient x",
    "login https://x --ca -", "logout"])
def test_what_is_refused(text: str) -> None:
    if text == "bundle show":
        check(words(text))  # typer says what is missing
    else:
        assert refused(text) == "FL-SSH-COMMAND"


@pytest.mark.parametrize("text", [
    "node events se-1 --json", "service add x --role engine --port 1 --allow controllers --scrape /metrics",
    "node list", "node list --json", "node show 'se-1'", "node list --help", "audit list --limit 5 --json",
    "audit list --limit=5", "bundle export --role engine --node se-1 --ttl 5m", "bundle export --for -",
    "bundle export --for=-", "bundle show - --json", "user add jane --role viewer --password-file -",
    "user password jane --password-file=-", "user key add admin - --comment 'my laptop'",
    "user key add --comment x admin -", "user key list admin",
    "service add db --port 5432 --node ctl --allow engines --allow site=lab",
    "node label se-1 site=lab site-", "policy explain se-1 db"])
def test_what_is_allowed(text: str) -> None:
    check(words(text))


def test_words_are_those_of_a_shell_and_nothing_is_replaced() -> None:
    assert words("node show '$HOME' \"~\" *.pem ${X} a\\ b") == ["node", "show", "$HOME", "~", "*.pem", "${X}", "a b"]


VALUES = st.sampled_from(["-", "--", "/etc/passwd", "x", "a=b", "-x", "--help", "--state", "--output"])
FILES = ("password_file", "request", "file", "out", "state", "ca", "install", "identity", "passphrase_file")


def said(path: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    """What may follow a command: its own options with and without values, and whatever else."""
    options = st.sampled_from(sorted({name for param in ALL[path].params for name in param.opts
                                      if name.startswith("-")}))
    one = st.one_of(options, VALUES, st.builds("{}={}".format, options, VALUES))
    return st.lists(st.one_of(one.map(lambda word: [word]), st.tuples(options, VALUES).map(list)), max_size=4).map(
        lambda parts: [word for part in parts for word in part])


@pytest.mark.parametrize("path", sorted(COMMANDS), ids=" ".join)
@settings(max_examples=80, deadline=None)
@given(st.data())
def test_what_passes_names_no_file_however_the_command_line_reads_it(path: tuple[str, ...],
                                                                     data: st.DataObject) -> None:
    """Our reading of a command beside typer's own, which is what counts in the end."""
    rest = data.draw(said(path))
    try:
        check([*path, *rest])
    except Refused:
        return
    try:
        context = ALL[path].make_context("fairlead", list(rest), resilient_parsing=True)
    except (typer.Exit, UsageError):
        return
    for name in FILES:
        assert context.params.get(name) in (None, False, "-"), (name, context.params)
