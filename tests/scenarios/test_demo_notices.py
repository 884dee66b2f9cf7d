"""The demo is a witness: with one defence taken away it fails, and names what is wrong."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import fairlead
from tests.conftest import need
from tests.scenarios.test_demo import DEADLINE_S, LAST, running

SOURCE = Path(fairlead.__file__).parent


@dataclass(frozen=True, slots=True)
class Harm:
    """One change of the source, and the check that must notice it."""

    file: str
    before: str
    after: str
    noticed_by: str


HARMS = {
    "everybody may reach everything": Harm(
        "nodes/policy.py",
        "    return next((who for who in service.allow if who in names), None)\n",
        "    return next((who for who in service.allow if who in names), service.allow[0])\n",
        "forbidden service"),
    "any certificate is believed": Harm(
        "pki/verify.py",
        "    context.verify_mode = ssl.CERT_REQUIRED\n    context.check_hostname = True\n",
        "    context.check_hostname = False\n    context.verify_mode = ssl.CERT_NONE\n",
        "foreign CA"),
    "a removed node keeps its connections": Harm(
        "fleet/sessions.py",
        "                self._cut(tunnel, frozen=node is not None and node.state == \"frozen\")\n",
        "                pass\n",
        "removed engine"),
}


@pytest.mark.whole
@pytest.mark.timeout(DEADLINE_S + 60)
@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_the_demo_fails_without(harm: Harm, tmp_path: Path) -> None:
    need("ssh")
    shutil.copytree(SOURCE, tmp_path / "fairlead", ignore=shutil.ignore_patterns("__pycache__"))
    changed = tmp_path / "fairlead" / harm.file
    text = changed.read_text()
    assert text.count(harm.before) == 1, f"{harm.file} no longer has the defence in these words"
    changed.write_text(text.replace(harm.before, harm.after))
    environment = {"PYTHONPATH": str(tmp_path)}
    where = subprocess.run([sys.executable, "-c", "import fairlead; print(fairlead.__file__)"], capture_output=True,
                           text=True, check=True, env=os.environ | environment)
    assert Path(where.stdout.strip()).is_relative_to(tmp_path), "another fairlead would run than the one with the harm"

    with running(environment=environment) as demo:
        demo.read()
        report = "\n".join(demo.lines)
        assert demo.process.wait() == 1, report
        assert harm.noticed_by in demo.failed, report
        assert (last := LAST.fullmatch(demo.lines[-1])), report
        assert int(last[2]) == len(demo.failed), report
        assert not demo.left(), report
