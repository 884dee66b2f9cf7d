"""A stock TUF client accepts what is in a bundle: python-tuf's `ngclient`, over a folder that `tar` has unpacked."""

import functools
import http.server
import os
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tuf.api.exceptions import DownloadHTTPError, DownloadLengthMismatchError, RepositoryError
from tuf.ngclient import FetcherInterface, Updater

from fairlead.base.clock import SECOND
from fairlead.upgrade.build import Plan, build, gather
from fairlead.upgrade.keys import Keys, demo
from fairlead.upgrade.manifest import NAME, decode
from fairlead.upgrade.seen import Seen
from fairlead.upgrade.verify import verify

LONG = "a" * 80 + ".cfg"


class Folder(FetcherInterface):
    """Reads the unpacked repository."""

    def __init__(self, top: Path) -> None:
        self._top = top

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self._top / urlsplit(url).path.lstrip("/")
        if not path.is_file():
            raise DownloadHTTPError("not there", 404)
        return iter([path.read_bytes()])


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


class Site:
    """A publisher's keys, and the repository as `tar` unpacks it from the newest bundle."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.keys, self.top = folder, folder / "keys", folder / "repository"
        self.now = datetime.now(UTC).replace(microsecond=0)
        demo(self.keys, self.now)
        self.root = (self.keys / "root.json").read_bytes()
        (folder / "payload" / "deep").mkdir(parents=True)
        (folder / "payload" / "deep" / LONG).write_bytes(b"long")

    def publish(self, version: str) -> Seen:
        (self.folder / "payload" / "a.whl").write_bytes(version.encode())
        payload = gather([self.folder / "payload"])
        plan = Plan(version, "0.0.0", ("engine",), None, self.now + timedelta(days=1), payload)
        build(self.folder / "bundle", Keys(self.keys), plan)
        self.top.mkdir(exist_ok=True)
        subprocess.run(["tar", "xf", self.folder / "bundle", "-C", self.top], check=True)
        fd = os.open(self.folder / "bundle", os.O_RDONLY)
        try:
            return verify(fd, self.root, Seen(), int(self.now.timestamp()) * SECOND).seen
        finally:
            os.close(fd)

    def client(self, name: str, base: str, fetcher: FetcherInterface | None) -> Updater:
        cache = self.folder / name
        (cache / "targets").mkdir(parents=True, exist_ok=True)
        return Updater(str(cache), f"{base}/metadata/", str(cache / "targets"), f"{base}/targets/", fetcher,
                       bootstrap=self.root)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def taken(updater: Updater, path: str) -> bytes:
    updater.refresh()
    found = updater.get_targetinfo(path)
    assert found is not None
    return Path(updater.download_target(found)).read_bytes()


def test_a_stock_client_takes_the_same_files_and_follows_the_same_roots(site: Site) -> None:
    assert site.publish("1.0.0").root == 1
    reader = Folder(site.top)
    assert decode(taken(site.client("one", "https://x", reader), NAME)).version == "1.0.0"
    assert taken(site.client("one", "https://x", reader), f"deep/{LONG}") == b"long"
    Keys(site.keys).rotate(site.now)
    assert site.publish("1.1.0") == Seen(2, 2, 2, 2, 0)
    for name in ("one", "two"):
        assert taken(site.client(name, "https://x", reader), "a.whl") == b"1.1.0"


def test_a_stock_client_over_http(site: Site) -> None:
    site.publish("1.0.0")
    handler = functools.partial(_Silent, directory=str(site.top))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            base = f"http://127.0.0.1:{server.server_port}"
            for path in ("a.whl", f"deep/{LONG}", NAME):
                assert taken(site.client("one", base, None), path)
        finally:
            server.shutdown()
            thread.join()


def test_a_stock_client_refuses_what_we_refuse(site: Site) -> None:
    site.publish("1.0.0")
    whl = next((site.top / "targets").glob("*.a.whl"))
    whl.write_bytes(b"1.0.1")
    with pytest.raises((RepositoryError, DownloadLengthMismatchError)):
        taken(site.client("one", "https://x", Folder(site.top)), "a.whl")
    snapshot = site.top / "metadata" / "1.snapshot.json"
    snapshot.write_bytes(snapshot.read_bytes().replace(b'"version":1', b'"version":2'))
    with pytest.raises(RepositoryError):
        site.client("two", "https://x", Folder(site.top)).refresh()
