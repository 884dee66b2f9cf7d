"""Throw mutated input at what reads somebody else's bytes, guided by the lines that it reaches.

    python tests/fuzz/fuzz.py                     every target in turn, a minute each
    python tests/fuzz/fuzz.py TARGET [SECONDS]    one of them
    python tests/fuzz/fuzz.py TARGET FILE         one input again, without the fuzzer

It starts from tests/fuzz/corpus/TARGET; what it finds on the way goes into a temporary folder. It ends with 0 when
nothing was found; otherwise it says where the input lies and how to see it fail again. FUZZ_SEED makes a run repeat.
"""

import importlib
import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import structlog

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
INSTRUMENTED = ["fairlead", "tomllib", "http_message_signatures", "http_sf"]
MOST_BYTES = 64 * 1024
MOST_MEMORY_MB = 1024
MOST_SECONDS_AN_INPUT = 10
SECONDS = 60

Target = Callable[[bytes], bool]


def main(arguments: list[str]) -> int:
    """The program."""
    sys.path[0] = str(HERE.parents[1])
    if importlib.util.find_spec("atheris") is None:
        say("nothing is fuzzed: atheris is not installed; there is one for Python below 3.14 on Linux, x86_64")
        return int(os.environ.get("CI") == "true")
    with importlib.import_module("atheris").instrument_imports(include=INSTRUMENTED):
        targets = importlib.import_module("tests.fuzz.targets").TARGETS
    if not arguments or arguments[0].isdigit():
        return every(targets, int(arguments[0]) if arguments else SECONDS)
    name, how = arguments[0], arguments[1] if len(arguments) > 1 else str(SECONDS)
    if name not in targets:
        say(f"no target {name}: {', '.join(targets)}")
        return 2
    if how.isdigit():
        fuzz(name, targets[name], int(how))
    say("understood" if targets[name](Path(how).read_bytes()) else "refused")
    return 0


def every(targets: dict[str, Target], seconds: int) -> int:
    """All targets, each in a process of its own: libFuzzer ends the one it runs in."""
    failed = []
    for name, target in targets.items():
        child = os.fork()
        if not child:
            fuzz(name, target, seconds)
        if os.waitpid(child, 0)[1]:
            failed.append(name)
    say(f"found something: {', '.join(failed)}" if failed else "nothing found")
    return bool(failed)


def fuzz(name: str, target: Target, seconds: int) -> NoReturn:
    """Fuzz one target."""
    atheris = importlib.import_module("atheris")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    mutate = importlib.import_module("tests.fuzz.mutations").mutate
    finds = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    (finds / "new").mkdir()
    say(f"== {name}: {seconds} s; what is new goes to {finds}")

    def one(data: bytes) -> None:
        try:
            target(data)
        except BaseException:
            kept = finds / "input"
            kept.write_bytes(data)
            say(f"\n== {name} found something; see it again: python tests/fuzz/fuzz.py {name} {kept}")
            raise

    def changed(data: bytes, most: int, seed: int) -> bytes:
        made: bytes = mutate(data, most, seed, atheris.Mutate)
        return made

    atheris.Setup([
        "fuzz", f"-max_total_time={seconds}", f"-timeout={MOST_SECONDS_AN_INPUT}", f"-rss_limit_mb={MOST_MEMORY_MB}",
        f"-max_len={MOST_BYTES}", f"-seed={os.environ.get('FUZZ_SEED', '0')}", f"-artifact_prefix={finds}/",
        "-mutate_depth=2", "-print_final_stats=1", str(finds / "new"), str(CORPUS / name)], one, custom_mutator=changed)
    atheris.Fuzz()
    raise AssertionError("libFuzzer ends the process")


def say(text: str) -> None:
    """On standard error, where libFuzzer speaks too."""
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
