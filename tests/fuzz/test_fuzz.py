"""Every input that is kept ends as its name says; nothing that the fuzzer makes of them ends in any other way.

The corpus holds what the fuzzer starts from, and under a telling name each input that ever showed a defect: it is
``understood-...`` or ``refused-...``, and every property of its target holds.
"""

import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import fuzz
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_every_kept_input_ends_as_its_name_says(name: str) -> None:
    inputs = sorted((fuzz.CORPUS / name).iterdir())
    assert {"understood", "refused"} == {path.name.partition("-")[0] for path in inputs}
    for path in inputs:
        with_what = "understood" if TARGETS[name](path.read_bytes()) else "refused"
        assert with_what == path.name.partition("-")[0], path.name


def test_the_corpus_is_small_and_belongs_to_the_targets() -> None:
    assert sorted(folder.name for folder in fuzz.CORPUS.iterdir()) == sorted(TARGETS)
    for name in TARGETS:
        assert sum(path.stat().st_size for path in (fuzz.CORPUS / name).iterdir()) < 32 * 1024, name


@pytest.mark.whole
def test_the_fuzzer_finds_nothing_in_a_few_seconds(tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        built = sys.version_info < (3, 14) and sys.platform == "linux" and platform.machine() == "x86_64"
        if built and os.environ.get("CI") == "true":
            pytest.fail("atheris is not installed")
        pytest.skip("atheris is not installed; there is one for Python below 3.14 on Linux, x86_64")
    done = subprocess.run([sys.executable, fuzz.__file__, "3"], capture_output=True, text=True, timeout=290,
                          env=os.environ | {"FUZZ_SEED": "7", "TMPDIR": str(tmp_path)}, check=False)
    assert done.returncode == 0, "\n".join(done.stderr.splitlines()[-200:])
