"""Every route of a running Controller, asked for what the description of the API promises, by a tool of others.

What is left out, and why:

- ``POST /api/stop`` and ``/logout`` end what is asked; ``/login`` would lock who asks. They have tests by hand.
- ``positive_data_acceptance``: what a schema allows may still name nothing that is there, or be forbidden by its rules.
- ``use_after_free`` for tokens of ``/api/token``: what was revoked is still shown, with its history.
- Parameters that nobody knows and the cookie itself are not varied: the first are passed over by a rule of the model.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.interop.test_avisdk import PASSWORD, Sdk, sdk

__all__ = ["sdk"]
CONFIG = """
[generation]
with-security-parameters = false

[checks]
positive_data_acceptance.enabled = false
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 409, 412, 413]

[[operations]]
include-path = "/api/token/{token_id}"
checks.use_after_free.enabled = false
"""
OUT = ("/api/stop", "/login", "/logout")


@pytest.mark.whole
@pytest.mark.parametrize("phase", ["coverage", "fuzzing", "stateful"])
def test_every_route_keeps_to_its_description(sdk: Sdk, tmp_path: Path, phase: str) -> None:
    with requests.Session() as session:
        session.verify, session.trust_env = sdk.ca, False
        session.post(f"{sdk.url}/login", json={"username": "admin", "password": PASSWORD}).raise_for_status()
        described = session.get(f"{sdk.url}/api/openapi.json")
        shown = [f"Cookie: sessionid={session.cookies['sessionid']}", f"X-CSRFToken: {session.cookies['csrftoken']}"]
    (tmp_path / "openapi.json").write_text(described.text)
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("schemathesis")), "run", "openapi.json", "--url", sdk.url, "--tls-verify",
         sdk.ca, "--phases", phase, "--max-examples", "4", "--seed", "1", "--no-color", "--continue-on-failure",
         *(["--max-time", "60"] if phase == "stateful" else []),
         *(part for header in shown for part in ("--header", header)),
         *(part for path in OUT for part in ("--exclude-path", path))],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-20_000:]
