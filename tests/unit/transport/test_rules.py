"""What an operator may say about the SSH port, and what is refused."""

from ipaddress import ip_network

import pytest

from fairlead.base.errors import OperatorError
from fairlead.base.networks import Networks
from fairlead.transport.options import CIPHERS, KEY_EXCHANGES, MACS, Algorithms
from fairlead.transport.rules import SshRules, check_ssh_algorithms


def test_without_wishes_all_of_ours_is_offered() -> None:
    assert check_ssh_algorithms() == check_ssh_algorithms([], [], [], []) == Algorithms(KEY_EXCHANGES, CIPHERS, MACS)


def test_fewer_are_offered_in_the_order_that_is_wished_for() -> None:
    found = check_ssh_algorithms(["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-gcm@openssh.com"],
                                 ["hmac-sha2-512-etm@openssh.com"], ["mlkem768x25519-sha256"])
    assert found.ciphers == ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
    assert found.macs == ("hmac-sha2-512-etm@openssh.com",)
    assert found.key_exchanges == KEY_EXCHANGES[1:]


def test_to_exclude_what_was_never_offered_changes_nothing() -> None:
    assert check_ssh_algorithms(kex_exclude=["diffie-hellman-group14-sha1"], host_key_exclude=["ssh-rsa", "ssh-dss"]
                                ) == Algorithms()


@pytest.mark.parametrize("wish", [
    {"ciphers": ["aes256-ctr"]}, {"ciphers": ["aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"]},
    {"ciphers": ["none"]}, {"macs": ["hmac-md5"]}, {"macs": ["hmac-sha2-256"]}, {"ciphers": ["*"]},
    {"ciphers": ["+aes256-cbc"]}, {"ciphers": ["aes256-gcm@openssh.com,aes256-cbc"]}, {"ciphers": [""]},
    {"kex_exclude": list(KEY_EXCHANGES)}, {"host_key_exclude": ["ssh-ed25519"]}, {"kex_exclude": ["a\nb"]},
    {"kex_exclude": ["x" * 65]}, {"macs": ["\x1b[2J"]}], ids=str)
def test_what_is_weaker_unknown_or_leaves_nothing_is_refused(wish: dict[str, list[str]]) -> None:
    with pytest.raises(OperatorError) as refusal:
        check_ssh_algorithms(**wish)
    assert refusal.value.code == "FL-SSH-ALGORITHM"
    assert refusal.value.remedy
    assert refusal.value.line().isprintable()


def test_networks() -> None:
    home = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))
    inside, outside = SshRules(Networks("IS_IN", home)), SshRules(Networks("IS_NOT_IN", home))
    for source, there in (("192.0.2.7", True), ("2001:db8::1%eth0", True), ("198.51.100.1", False), ("::1", False)):
        assert inside.admits(source) == there
        assert outside.admits(source) != there
        assert SshRules().admits(source)
    for nobody in ("", "somewhere"):
        assert not inside.admits(nobody)
        assert not outside.admits(nobody)
