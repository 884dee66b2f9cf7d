"""The certificates before a judge that is not ours: ``openssl verify``."""

import subprocess
import time
from pathlib import Path
from uuid import UUID

import pytest

from fairlead.base.clock import DAY, HOUR, SECOND
from fairlead.base.errors import OperatorError
from fairlead.pki.authority import Authority, Issued
from fairlead.pki.certificate import api_name, der_of, member_name, portal_name, sha256_fingerprint
from fairlead.pki.request import new_request, read_request
from tests.conftest import need

CLUSTER = UUID("6f1c2d3e-4a5b-4c6d-8e7f-0123456789ab")
NOW = time.time_ns() // 1000


def verdict(folder: Path, root: Authority, leaf: bytes, *options: str) -> str:
    """``openssl verify`` on *leaf*, as strict as it gets; empty when it has nothing to say against it."""
    need("openssl")
    (folder / "root.pem").write_bytes(root.certificate_pem)
    (folder / "leaf.pem").write_bytes(leaf)
    done = subprocess.run(["openssl", "verify", "-no-CApath", "-no-CAstore", "-CAfile", folder / "root.pem",
                           "-x509_strict", "-check_ss_sig", "-purpose", "sslserver", *options, folder / "leaf.pem"],
                          capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_openssl_accepts_each_certificate_under_its_own_names_only(tmp_path: Path) -> None:
    root = Authority.create(CLUSTER, NOW)
    portal, api = (issue(CLUSTER, ["ctl.example.org", "192.0.2.10", "2001:db8::1"], NOW).certificate_pem
                   for issue in (root.issue_portal, root.issue_api))
    for leaf, name, other in ((portal, portal_name(CLUSTER), api_name(CLUSTER)),
                              (api, api_name(CLUSTER), portal_name(CLUSTER))):
        assert verdict(tmp_path, root, leaf, "-verify_hostname", name) == ""
        assert verdict(tmp_path, root, leaf, "-verify_hostname", "ctl.example.org") == ""
        assert verdict(tmp_path, root, leaf, "-verify_ip", "192.0.2.10") == ""
        assert verdict(tmp_path, root, leaf, "-verify_ip", "2001:db8::1") == ""
        assert "hostname mismatch" in verdict(tmp_path, root, leaf, "-verify_hostname", other).lower()


def test_a_server_certificate_is_for_servers_and_for_its_time(tmp_path: Path) -> None:
    root = Authority.create(CLUSTER, NOW)
    leaf = root.issue_portal(CLUSTER, [], NOW).certificate_pem
    assert "purpose" in verdict(tmp_path, root, leaf, "-purpose", "sslclient")

    def at(moment: int) -> str:
        return verdict(tmp_path, root, leaf, "-attime", str(moment // SECOND))

    assert at(NOW - HOUR + SECOND) == ""  # a node whose clock runs late still joins
    assert "not yet valid" in at(NOW - HOUR - 2 * SECOND)
    assert at(NOW + 396 * DAY) == ""
    assert "expired" in at(NOW + 398 * DAY)


def test_only_members_and_clients_of_etcd_are_clients_and_only_members_carry_its_name(tmp_path: Path) -> None:
    root = Authority.create(CLUSTER, NOW)
    member = root.certify_member(CLUSTER, "ctl-1", "127.64.0.1", read_request(new_request()[1]), NOW)
    client = root.issue_client(CLUSTER, NOW).certificate_pem
    for leaf, server, peer in ((member, True, True), (client, False, False),
                               (root.issue_portal(CLUSTER, ["127.64.0.1"], NOW).certificate_pem, True, False),
                               (root.issue_api(CLUSTER, ["127.64.0.1"], NOW).certificate_pem, True, False)):
        assert (verdict(tmp_path, root, leaf) == "") is server
        assert (verdict(tmp_path, root, leaf, "-purpose", "sslclient") == "") is (leaf in (member, client))
        named = ("-purpose", "sslserver" if server else "sslclient", "-verify_hostname", member_name(CLUSTER))
        assert (verdict(tmp_path, root, leaf, *named) == "") is peer
    for name in ("-verify_ip", "127.64.0.1"), ("-verify_hostname", "ctl-1.fairlead.internal"):
        assert verdict(tmp_path, root, member, *name) == ""
    for node, address in (("ctl-1", "ctl-2"), ("127.64.0.1", "127.64.0.1"), ("a.b", "127.64.0.1"), ("*", "127.64.0.1")):
        with pytest.raises(OperatorError) as refused:
            root.certify_member(CLUSTER, node, address, read_request(new_request()[1]), NOW)
        assert refused.value.code == "FL-ADDRESS-NAME"


def test_another_root_and_a_leaf_that_plays_ca_are_refused(tmp_path: Path) -> None:
    root, other = Authority.create(CLUSTER, NOW), Authority.create(CLUSTER, NOW)
    leaf = root.issue_portal(CLUSTER, [], NOW)
    assert verdict(tmp_path, other, leaf.certificate_pem) != ""
    with pytest.raises(OperatorError, match="not those of a CA"):
        Authority.load(leaf.certificate_pem, leaf.key_pem)


def test_a_loaded_authority_signs_as_before(tmp_path: Path) -> None:
    root = Authority.create(CLUSTER, NOW)
    again = Authority.load(root.certificate_pem, root.key_pem)
    assert verdict(tmp_path, root, again.issue_api(CLUSTER, [], NOW).certificate_pem) == ""


def test_a_certificate_and_a_foreign_key_are_no_authority() -> None:
    root, other = Authority.create(CLUSTER, NOW), Authority.create(CLUSTER, NOW)
    for certificate, key in ((root.certificate_pem, other.key_pem), (b"", root.key_pem), (root.certificate_pem, b"x")):
        with pytest.raises(OperatorError) as refused:
            Authority.load(certificate, key)
        assert refused.value.code == "FL-AUTHORITY-DAMAGED"
        assert refused.value.__cause__ is None


def test_no_representation_shows_a_key() -> None:
    root = Authority.create(CLUSTER, NOW)
    issued: Issued = root.issue_portal(CLUSTER, [], NOW)
    assert "PRIVATE" not in repr(root) + repr(issued) + str(root) + str(issued)
    assert "fairlead root 6f1c2d3e" in repr(root)


def test_the_fingerprint_is_the_one_that_openssl_prints(tmp_path: Path) -> None:
    need("openssl")
    root = Authority.create(CLUSTER, NOW)
    (tmp_path / "root.pem").write_bytes(root.certificate_pem)
    shown = subprocess.run(["openssl", "x509", "-in", tmp_path / "root.pem", "-noout", "-fingerprint", "-sha256"],
                           capture_output=True, text=True, check=True).stdout
    assert shown.strip().partition("=")[2] == sha256_fingerprint(der_of(root.certificate_pem))
