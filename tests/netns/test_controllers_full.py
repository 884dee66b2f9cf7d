"""A store that is full: it is said, nothing is written, and what can be given up is, though nobody leads."""

import base64
import subprocess
from pathlib import Path

import pytest

from tests.conftest import need
from tests.netns.controllers import cluster
from tests.netns.test_recover import with_etcdctl
from tests.processes import until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

QUOTA_MIB = 16


def test_a_full_store_is_named_and_recovers_when_it_can(tmp_path: Path) -> None:
    """No leader's mark is taken either, so nobody leads; what filled it is deleted in the end, and so given up."""
    need("etcdctl")
    with cluster(tmp_path, controllers=2) as town:
        for name in ("ctl-1", "ctl-2"):
            town[name].stop()
            town[name].configure(store_quota_mib=QUOTA_MIB)
        for name in ("ctl-1", "ctl-2"):
            town[name].start()
        town.until_well("ctl-1", "ctl-2")
        town.write("ctl-1", "before").done()
        term = town.status("ctl-1")["term"]
        etcdctl = with_etcdctl(town["ctl-2"], tmp_path / "certificate")
        rubbish = base64.b64encode(bytes(700_000)).decode()
        written = 0
        with pytest.raises(subprocess.CalledProcessError) as full:
            while written < 3 * QUOTA_MIB:
                etcdctl("put", f"x/{written}", given=rubbish)
                written += 1
                if written > QUOTA_MIB / 2:
                    etcdctl("defrag")  # else it is full of what can be given back, and that is done at once
        assert "database space exceeded" in full.value.stderr
        assert written > QUOTA_MIB / 2
        until(lambda: town.status("ctl-2")["alarms"] == ["NOSPACE"], "the alarm is shown")
        refused = town.write("ctl-2", "meanwhile").refused("FL-ETCD-SPACE")
        assert "store_quota_mib" in refused
        etcdctl("del", "x/", "--prefix")
        until(lambda: town.status("ctl-2")["alarms"] == [], "room was made")
        town.until_well("ctl-1", "ctl-2")
        assert town.status("ctl-1")["term"] > term
        town.write("ctl-2", "after").done()
        assert {"before", "after"} <= town.written("ctl-1")
        assert "meanwhile" not in town.written("ctl-1")
        for name in ("ctl-1", "ctl-2"):
            until(lambda name=name: not town[name].get("/api/status")["problems"], f"{name} is well")  # type: ignore[misc]
