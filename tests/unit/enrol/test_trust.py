"""What a joined node holds, and what it says when that is missing or damaged."""

from pathlib import Path
from uuid import uuid4

import pytest

from fairlead.base.errors import OperatorError
from fairlead.enrol.exchange import CoreController
from fairlead.enrol.trust import FILE, HOST_KEY, KEYS, Trust, load, load_key, save_key
from fairlead.keys.ssh import PrivateKey

TRUST = Trust(cluster_uuid=uuid4(), node="se-1", node_id="id", role="engine", user="aviseuser",
              internal_address="127.64.1.0", ca_certificates=["AAAA"], tls_name="portal", controllers=[CoreController(
                  name="ctl-1", address="192.0.2.10", portal_port=8443, ssh_port=22, internal_address="127.64.0.1",
                  host_key=PrivateKey.from_seed(bytes(32)).public.line, user_key="u", node_id="c")])


def code(call: object, *given: object) -> str:
    with pytest.raises(OperatorError) as caught:
        call(*given)  # type: ignore[operator]
    return caught.value.code


def test_there_and_back(tmp_path: Path) -> None:
    assert code(load, tmp_path) == "FL-NOT-JOINED"
    TRUST.save(tmp_path)
    assert load(tmp_path) == TRUST
    TRUST.but(removed=True).save(tmp_path)
    assert load(tmp_path).removed
    assert not TRUST.removed


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"fairlead_trust":2}'])
def test_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).touch(0o600)
    (tmp_path / FILE).write_text(text)
    assert code(load, tmp_path) == "FL-STATE-DAMAGED"


def test_open_to_others(tmp_path: Path) -> None:
    TRUST.save(tmp_path)
    (tmp_path / FILE).chmod(0o640)
    assert code(load, tmp_path) == "FL-STATE-OPEN"


def test_keys(tmp_path: Path) -> None:
    (tmp_path / KEYS).mkdir()
    assert code(load_key, tmp_path, HOST_KEY) == "FL-STATE-DAMAGED"
    key = PrivateKey.generate()
    save_key(tmp_path, HOST_KEY, key)
    assert load_key(tmp_path, HOST_KEY).public == key.public
    assert (tmp_path / KEYS / "host.pub").read_text() == key.public.line + "\n"
    (tmp_path / KEYS / HOST_KEY).chmod(0o644)
    assert code(load_key, tmp_path, HOST_KEY) == "FL-STATE-OPEN"
    (tmp_path / KEYS / HOST_KEY).chmod(0o600)
    (tmp_path / KEYS / HOST_KEY).write_text("x")
    assert code(load_key, tmp_path, HOST_KEY) == "FL-STATE-DAMAGED"
