"""The page about an organisation's PKI, followed by a newcomer who copies each block: it works as it stands."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from fairlead.pki.certificate import portal_name
from tests.processes import Site, surroundings
from tests.unit.docs.test_errors import CODE

PAGE = Path(__file__).parents[2] / "docs/organisation-pki.md"
STEPS = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


@pytest.mark.whole
@pytest.mark.timeout(300)
def test_a_newcomer_follows_the_page_to_the_end(site: Site) -> None:
    controller = site.controller()
    engine = site.engine(controller, "se-1")
    portal = f"127.0.0.1:{controller.ports['portal']}"
    script = "\n".join(f"echo '== {number}'\n{step}" for number, step in enumerate(STEPS))
    assert script.count("ctl-1.example.com:8443") == 1
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace("ctl-1.example.com:8443", portal)], cwd=site.folder,
        env=surroundings({"FAIRLEAD_STATE": str(controller.state), "LC_ALL": "C",
                          "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    for words in ("nobody would be left behind", "over: done", "Verification: OK", "Example Corp"):
        assert words in said, said
    assert [one["outcome"] for one in controller.get("/api/rotation")["past"]] == ["done", "done"]
    assert controller.get("/api/status")["problems"] == []
    assert controller.node("se-1")["state"] == "up"
    assert (len(engine.events("link.up")), engine.events("link.down")) == (1, []), "it stayed connected"
    site.engine(controller, "se-2")
    for key in ("root.key", "issuing.key"):
        assert (site.folder / "pki" / key).stat().st_mode & 0o077 == 0


def test_the_page_names_the_name_and_codes_that_there_are() -> None:
    text, errors = PAGE.read_text(), (PAGE.parent / "errors.md").read_text()
    assert len(STEPS) == 10
    uuid = UUID(int=7)
    assert portal_name(uuid).replace(str(uuid), "<cluster uuid>") in text
    assert set(CODE.findall(text)) <= set(CODE.findall(errors))
