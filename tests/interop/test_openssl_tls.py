"""Which TLS the public ports speak, with openssl as the client."""

import subprocess
from pathlib import Path

import pytest

from tests.processes import Site


def spoken(port: int, *version: str) -> str:
    """The protocol and the cipher that openssl gets, or nothing."""
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *version, "-brief"], input=b"",
                          capture_output=True, timeout=30, check=False)
    said = done.stderr.decode(errors="replace")
    found = [line.partition(": ")[2] for line in said.splitlines() if line.startswith(("Protocol ", "Ciphersuite"))]
    return " ".join(found)


@pytest.mark.parametrize("minimum", ["1.3", "1.2"])
def test_the_api_speaks_tls_1_2_where_it_is_told_to_and_the_portal_never(tmp_path: Path, minimum: str) -> None:
    with Site(tmp_path) as site:
        controller = site.controller(api_tls_minimum=minimum)
        assert spoken(controller.ports["api"]).startswith("TLSv1.3 ")
        old = spoken(controller.ports["api"], "-tls1_2")
        assert old.startswith("TLSv1.2 ECDHE") if minimum == "1.2" else old == ""
        assert "GCM" in old or "CHACHA20" in old or not old
        for weak in (("-tls1_1",), ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:AES128-GCM-SHA256:AES128-SHA")):
            assert spoken(controller.ports["api"], *weak) == ""
        assert spoken(controller.ports["portal"], "-tls1_2") == ""
