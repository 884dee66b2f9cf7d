"""The state folder: private to its owner, and never half written.

Rules: the folder is 0700 and ours; every file in it is 0600; a file is replaced by a synced temporary and a rename, so
a crash or a full disk leaves the old content or the new one, never a mixture.
"""

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fairlead.base.errors import OperatorError


def make_private_folder(path: Path) -> None:
    """Make *path* with mode 0700 where it is missing, durably; an existing one is checked. Raises OperatorError."""
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in missing:  # or a power cut takes the folder, with all that was synced in it
            sync_folder(folder.parent)
    except OSError as error:
        raise OperatorError("FL-STATE-UNWRITABLE", f"the state folder {path} cannot be made: {error.strerror}",
                            "choose another with --state, or have its parent folder made for this user") from error
    check_private_folder(path)


def check_private_folder(path: Path) -> None:
    """Refuse a state folder that others may read, that is not ours, or that is not there. Raises OperatorError."""
    try:
        found = path.stat()
    except OSError as error:
        raise OperatorError("FL-STATE-MISSING", f"there is no state folder at {path}: {error.strerror}",
                            "name the node's folder with --state, or make the node first") from error
    if not stat.S_ISDIR(found.st_mode):
        raise OperatorError("FL-STATE-MISSING", f"{path} is not a folder", "name the node's folder with --state")
    if found.st_uid != os.geteuid():
        raise OperatorError("FL-STATE-OWNER", f"the state folder {path} belongs to user id {found.st_uid}, "
                            f"this is user id {os.geteuid()}", "run fairlead as the folder's owner")
    if found.st_mode & 0o077:
        raise OperatorError("FL-STATE-OPEN", f"the state folder {path} is open to others "
                            f"(mode {stat.S_IMODE(found.st_mode):04o})", f"chmod 700 {path}")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise OperatorError("FL-STATE-UNWRITABLE", f"the state folder {path} cannot be read and written",
                            f"chmod 700 {path}")


def write_private(path: Path, data: bytes, *, synced: bool = True) -> None:
    """Put *data* at *path*, 0600, atomic and synced to disk. Raises OperatorError when the disk refuses.

    Not *synced*: a power cut may bring the old content back, or none.
    """
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp makes it 0600
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if synced:
                os.fsync(file.fileno())
        Path(temporary).replace(path)
        if synced:
            sync_folder(path.parent)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        raise OperatorError("FL-DISK", f"{path} cannot be written: {error.strerror}",
                            "free some space or mend the disk, then repeat the command; nothing was lost") from error


def append(handle: int, data: bytes) -> None:
    """Write *data*, all of it or nothing, at the end of a file that is open for appending. Raises OSError.

    A disk that fills up takes a part first and refuses what is left: that part is taken back.
    """
    before = os.fstat(handle).st_size
    left = memoryview(data)
    try:
        while left:
            left = left[os.write(handle, left):]
    except OSError:
        os.ftruncate(handle, before)
        raise


def read_private(path: Path) -> bytes:
    """The content of *path*, refused when others may read it. Raises OperatorError; FileNotFoundError passes."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & 0o077:
                raise OperatorError("FL-STATE-OPEN", f"{path} is open to others (mode {stat.S_IMODE(mode):04o})",
                                    f"chmod 600 {path}")
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OperatorError("FL-STATE-UNREADABLE", f"{path} cannot be read: {error.strerror}",
                            "mend the disk or the file's owner and mode") from error


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold *folder* against other processes that ask the same. Raises OperatorError FL-STATE-BUSY at once."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OperatorError("FL-STATE-BUSY", f"another command works in {folder}",
                                "wait until it has ended") from None
        yield
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Make a rename or removal in *path* durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file if it is there, durably. Raises OperatorError when the disk refuses."""
    try:
        path.unlink()
        sync_folder(path.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OperatorError("FL-DISK", f"{path} cannot be removed: {error.strerror}",
                            "mend the disk, or its rights, then repeat the command; nothing was lost") from error
