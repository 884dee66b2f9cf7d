"""A folder on a disk of which every change is a step: the world may stop before or after any, or there is no room.

Steps are the system calls that change files below the folder, as Python makes them (what SQLite does is not seen), and
whatever else a test counts among them. A file is written in two halves. What a power cut leaves is the least that the
calls have promised: contents that were synced, under names whose folder was synced since.
"""

import errno
import io
import os
import shutil
import stat
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.world import Death

T = TypeVar("T")


def fills_up(patch: pytest.MonkeyPatch, most: int) -> None:
    """From now on no file gets longer than *most* bytes by `os.write`: it takes at most half of what it is given, then
    what has room, then nothing.
    """
    write = os.write

    def full(handle: int, data: bytes | memoryview) -> int:
        taken = min(most - os.fstat(handle).st_size, (len(data) + 1) // 2)
        if taken <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data[:taken])

    patch.setattr(os, "write", full)


class Disk:
    """What lies below *root*, an existing folder."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.steps: list[str] = []
        """What the process that runs has done or tried."""
        self._stop: tuple[int, bool] | None = None
        self._full_from: int | None = None
        self._dead = False
        self._aside = False
        self._contents: dict[int, list[bytes]] = {}
        """By inode: what was synced. A file system gives a new file the inode of one that is gone: each file that is
        made here, by a call or after a power cut, starts anew."""
        self._folders: dict[Path, dict[str, list[bytes] | None]] = {}
        """What each synced folder has: the content of a file, None for a folder."""
        self._fsync, self._open, self._fdopen = os.fsync, os.open, os.fdopen
        self.keep()
        for call, needs_room in (("mkdir", True), ("replace", True), ("rename", True), ("unlink", False),
                                 ("rmdir", False)):
            patch.setattr(os, call, self._watched(call, getattr(os, call), needs_room=needs_room))
        patch.setattr(os, "open", self._opens)
        patch.setattr(os, "fsync", self._syncs)
        patch.setattr(os, "fdopen", self._writes)

    # -- what a test says ---------------------------------------------------------------------------------------------

    def stop_at(self, step: int, *, happened: bool) -> None:
        """A new process, which dies at that step, before it or after it has *happened*."""
        self._new()
        self._stop = (step, happened)

    def fill_at(self, step: int) -> None:
        """A new process, for whose changes there is no room from that step on."""
        self._new()
        self._full_from = step

    def go_on(self, *, power_was_cut: bool = False) -> None:
        """A new process, which nothing stops."""
        self._new()
        if power_was_cut:
            kept = self._folders
            self.clear()
            self._folders = kept
            self._aside = True
            self._rebuild(self.root)
            self._aside = False

    def clear(self) -> None:
        """Nothing is there, for good."""
        self._aside = True
        for entry in self.root.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        self._aside = False
        self._folders = {self.root: {}}

    def keep(self) -> None:
        """All that is there now is safe."""
        self._aside = True
        for folder, _, names in os.walk(self.root):
            for name in names:
                self._keep_file(Path(folder) / name)
            self._keep_folder(Path(folder))
        self._aside = False

    def _new(self) -> None:
        self.steps, self._stop, self._full_from, self._dead = [], None, None, False

    # -- steps --------------------------------------------------------------------------------------------------------

    def step(self, what: str, do: Callable[[], T], *, needs_room: bool = False) -> T:
        """Do it, unless the world stops before; or stop afterwards."""
        last = self._begins(what, needs_room=needs_room)
        try:
            return do()
        finally:
            if last:
                self._dies()

    async def remote_step(self, what: str, do: Callable[[], Awaitable[T]]) -> T:
        """The same for something that is done elsewhere."""
        last = self._begins(what)
        try:
            return await do()
        finally:
            if last:
                self._dies()

    def _begins(self, what: str, *, needs_room: bool = False) -> bool:
        if self._dead:
            raise Death
        self.steps.append(what)
        if needs_room and self._full_from is not None and len(self.steps) >= self._full_from:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._stop is None or self._stop[0] != len(self.steps):
            return False
        if not self._stop[1]:
            self._dies()
        return True

    def _dies(self) -> None:
        self._dead = True
        raise Death

    # -- the calls ----------------------------------------------------------------------------------------------------

    def _watched(self, name: str, call: Callable[..., Any], *, needs_room: bool) -> Callable[..., Any]:
        def watched(path: Any, *more: Any, dir_fd: int | None = None, **options: Any) -> Any:
            if dir_fd is not None:
                options["dir_fd"] = dir_fd
            if not self._below(path, dir_fd):
                return call(path, *more, **options)

            def do() -> None:
                call(path, *more, **options)
                if name == "mkdir":
                    self._folders[Path(path)] = {}
                elif name in ("rename", "replace"):  # what a folder has of its own goes along
                    old, new = Path(path), Path(more[0])
                    for folder in [f for f in self._folders if f.is_relative_to(old)]:
                        self._folders[new / folder.relative_to(old)] = self._folders[folder]

            return self.step(f"{name} {Path(path).name}", do, needs_room=needs_room)

        return watched

    def _opens(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        def do() -> int:
            is_new = not os.access(path, os.F_OK, dir_fd=dir_fd, follow_symlinks=False)
            descriptor = self._open(path, flags, mode, dir_fd=dir_fd)
            if is_new:
                self._contents[os.fstat(descriptor).st_ino] = [b""]
            return descriptor

        if not flags & os.O_CREAT or not self._below(path, dir_fd):
            return self._open(path, flags, mode, dir_fd=dir_fd)
        return self.step(f"open {Path(path).name}", do, needs_room=True)

    def _syncs(self, descriptor: int) -> None:
        path = _path_of(descriptor)
        if not self._below(path, None):
            return self._fsync(descriptor)
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        return self.step(f"fsync {path.name}", lambda: self._keep_folder(path) if folder else self._keep_file(path),
                         needs_room=not folder)

    def _writes(self, descriptor: int, *how: Any, **options: Any) -> Any:
        if not self._below(_path_of(descriptor), None):
            return self._fdopen(descriptor, *how, **options)
        return io.BufferedWriter(_Halves(descriptor, self))

    def _below(self, path: Any, dir_fd: int | None) -> bool:
        where = Path(path) if dir_fd is None else _path_of(dir_fd) / path
        return not self._aside and where.is_relative_to(self.root)

    # -- what is safe -------------------------------------------------------------------------------------------------

    def _keep_file(self, path: Path) -> None:
        self._contents.setdefault(path.stat().st_ino, [b""])[0] = path.read_bytes()

    def _keep_folder(self, path: Path) -> None:
        self._folders[path] = {entry.name: None if entry.is_dir() else self._contents.setdefault(entry.inode(), [b""])
                               for entry in os.scandir(path)}

    def _rebuild(self, folder: Path) -> None:
        for name, content in self._folders[folder].items():
            path = folder / name
            if content is None:
                path.mkdir(0o700)
                self._rebuild(path)
            else:
                path.touch(0o600)
                path.write_bytes(content[0])
                self._contents[path.stat().st_ino] = content


def _path_of(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


class _Halves(io.FileIO):
    """A file of which each write is two."""

    def __init__(self, descriptor: int, disk: Disk) -> None:
        super().__init__(descriptor, "wb")
        self._disk = disk

    def write(self, data: Any) -> int:
        """As of a file."""
        whole, half, write = bytes(data), len(data) // 2, super().write
        return sum(self._disk.step("write", partial(write, part), needs_room=True)
                   for part in (whole[:half], whole[half:]))
