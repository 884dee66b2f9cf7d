"""Programs of drivers: their words come back, they end in time with all they started, and know nothing of ours."""

import asyncio
import sys
from pathlib import Path

import pytest

from fairlead.base.errors import Refused
from fairlead.engine.drivers import program
from tests.processes import until
from tests.world import refusal


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


async def test_its_words_come_back_and_its_failure_is_a_refusal() -> None:
    assert await program.run(python("print('fine')")) == "fine\n"
    with pytest.raises(Refused) as caught:
        await program.run(python("import sys; sys.stderr.write('line 3: unknown\\x1b[2J word\\n'); sys.exit(3)"))
    assert caught.value.code == "FL-DRIVER-PROGRAM"
    assert "line 3: unknown\\x1b[2J word" in caught.value.message
    assert await refusal(program.run(["/nowhere/at-all"])) == "FL-DRIVER-PROGRAM"


async def test_it_knows_nothing_of_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVICNTRL_AUTHTOKEN", "secret")
    assert "secret" not in await program.run(python("import os; print(dict(os.environ), open('/dev/stdin').read())"))


async def test_it_ends_in_time_with_all_that_it_started(tmp_path: Path) -> None:
    left = tmp_path / "pid"
    code = (f"import subprocess, sys, time\nchild = subprocess.Popen([sys.executable, '-c', 'import time; "
            f"time.sleep(600)'])\nopen({str(left)!r}, 'w').write(str(child.pid))\ntime.sleep(600)")
    work = asyncio.get_running_loop().create_task(program.run(python(code), deadline_s=600))
    await asyncio.to_thread(until, lambda: left.exists() and left.read_text(), "the grandchild")
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    until(lambda: not Path(f"/proc/{left.read_text()}/cmdline").exists()
          or not Path(f"/proc/{left.read_text()}/cmdline").read_bytes(), "the grandchild's end")
    assert await refusal(program.run(python("import time; time.sleep(600)"), deadline_s=0.3)) == "FL-DRIVER-PROGRAM"


async def test_what_it_says_is_kept_within_bounds() -> None:
    said = await program.run(python("print('x' * 1_000_000 + 'end')"))
    assert len(said) <= program.MOST_BYTES
    assert said.endswith("end\n")
    assert len(program.last("a\n" * 5000)) <= program.MOST_WORDS + 1
