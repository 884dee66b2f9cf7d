"""Who holds a port: the kernel's tables read right, and a real holder found."""

import os
import socket
from pathlib import Path

import pytest

from fairlead.base.sockets import holder, listening

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0000000000000000 100
   1: 0200007F:0016 0100007F:E3A2 01 00000000:00000000 00:00000000 00000000     0        0 4343 1 0000000000000000 20
   2: nonsense
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when
   0: 00000000000000000000000000000000:20FB 00000000000000000000000000000000:0000 0A 0:0 00:0 0 33 0 77 1 0 100 0
   1: B80D0120000000000000000001000000:01BB 00000000000000000000000000000000:0000 0A 0:0 00:0 0 33 0 78 1 0 100 0
"""


def test_tables_are_read_and_other_lines_passed_over() -> None:
    assert [(str(one.address), one.port, one.inode) for one in listening(TCP + TCP6)] == [
        ("127.0.0.1", 8080, 4242), ("::", 8443, 77), ("2001:db8::1", 443, 78)]


@pytest.mark.parametrize(("host", "port", "expected"), [
    ("127.0.0.1", 8080, "pid 7 (squ\\x1bat)"), ("0.0.0.0", 8080, "pid 7 (squ\\x1bat)"), ("127.0.0.2", 8080, None),
    ("127.0.0.1", 22, None), ("0.0.0.0", 8443, None), ("name", 8080, None)])
def test_the_holder_is_the_one_in_the_way(tmp_path: Path, host: str, port: int, expected: str | None) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text(TCP)
    (tmp_path / "7" / "fd").mkdir(parents=True)
    (tmp_path / "7" / "comm").write_text("squ\x1bat\n")
    (tmp_path / "7" / "fd" / "3").symlink_to("socket:[4242]")
    assert holder(host, port, tmp_path) == expected


def test_this_very_process_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert (holder("127.0.0.1", sock.getsockname()[1]) or "").startswith(f"pid {os.getpid()} (")
