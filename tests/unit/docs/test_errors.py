"""The list of codes that scripts rely on is the one in the source."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
CODE = re.compile(r"FL-[A-Z0-9]+(?:-[A-Z0-9]+)*")


def test_every_code_is_explained_and_none_is_explained_that_does_not_exist() -> None:
    said = {code for file in (ROOT / "src").rglob("*.py")
            for text in re.findall(r'"(FL-[A-Z0-9-]+)"|\[(FL-[A-Z0-9-]+)\]', file.read_text()) for code in text if code}
    explained = {code for line in (ROOT / "docs/errors.md").read_text().splitlines() if line.startswith("| `")
                 for code in CODE.findall(line.split("|")[1])}
    assert said == explained
