"""Every claim of the threat model names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
ROWS = [line for line in (ROOT / "docs/threat-model.md").read_text().splitlines()
        if line.startswith("| ") and not line.startswith("| claim")]


def test_every_claim_names_a_test_and_every_test_exists() -> None:
    missing = []
    for row in ROWS:
        claim, attacker, named = (cell.strip() for cell in row.strip("|").split("|"))
        assert claim
        assert attacker
        ids = re.findall(r"`(tests/[^`]+)::(test_\w+)`", named)
        assert ids, claim
        for file, test in ids:
            path = ROOT / file
            if not path.exists() or not re.search(rf"def {test}\(", path.read_text()):
                missing.append(f"{file}::{test}")
    assert not missing
