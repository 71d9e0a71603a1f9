"""The node's state folder while it is enrolled: files that appear whole or not at all, the journal, the lock.

Every change here is one system call that either happened or did not (rename, link, mkdir), after the data
was synced and before the folder is. So a run may be killed, or the disk run full, between any two of them.
`after` is told of each: that is where tests kill the process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from provisioning.enrolment import MAX_JOURNAL, Exit, Journal
from provisioning.errors import EnrolError
from provisioning.runtime.owner import as_owner, as_root

SERVICE_USER: Final = "holdfast"
"""Owner of a state folder that root makes: the user of the node's services."""
JOURNAL: Final = "provision.json"
_LOCK: Final = "provision.lock"


def nothing(_: str) -> None:
    """Nobody waits to hear of it."""


class Files:
    """Writes below one state folder, for the owner of that folder."""

    def __init__(self, state: Path, after: Callable[[str], None] = nothing) -> None:
        self._state = state
        self._after = after

    def acting(self, path: Path | None = None) -> contextlib.AbstractContextManager[None]:
        """Root reads and writes what is below the state folder as the folder's owner.

        Other paths were named by who called us: the configuration stays root's, and the node may read it.
        """
        state = self._state
        if path is None or path.is_relative_to(state) or path.is_relative_to(state.resolve()):
            return as_owner(state)
        return as_root()

    def make_state(self) -> None:
        """The state folder itself, 0700; where root makes it, of the service's user if there is one."""
        if self._state.is_dir():
            return
        self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            with contextlib.suppress(KeyError):
                user = pwd.getpwnam(SERVICE_USER)
                os.chown(self._state, user.pw_uid, user.pw_gid)
        sync_folder(self._state.parent)

    def folder(self, path: Path) -> None:
        """Make `path` and what is missing above it: 0700 where it is state, else 0755."""
        with self.acting(path):
            for missing in reversed([f for f in (path, *path.parents) if not f.exists()]):
                missing.mkdir(mode=0o700 if missing.is_relative_to(self._state) else 0o755, exist_ok=True)
                sync_folder(missing.parent)
                self._after(f"folder {missing}")

    def put(self, path: Path, data: bytes, *, mode: int = 0o600, replace: bool = True) -> bool:
        """Write `path`, whole and durably. Without `replace` a file that is there stays: False then."""
        with self.acting(path):
            if not self._put(path, data, mode, replace):
                return False
        self._after(f"file {path}")
        return True

    def _put(self, path: Path, data: bytes, mode: int, replace: bool) -> bool:
        temporary = path.with_name(f".{path.name}.tmp")  # one name: the lock is held, a dead run's goes
        temporary.unlink(missing_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(handle, mode)  # whatever the umask is
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._after(f"data of {path}")
            if replace:
                temporary.replace(path)
            else:
                os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
        return True

    def point(self, link: Path, target: str) -> None:
        """Make or turn the symbolic link `link` to `target`, in one step."""
        with self.acting(link):
            if link.is_symlink() and link.readlink() == Path(target):
                return
            temporary = link.with_name(f".{link.name}.tmp")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target)
            temporary.replace(link)
            sync_folder(link.parent)
        self._after(f"link {link}")

    def move(self, source: Path, target: Path) -> None:
        """Rename a file or folder, in one step."""
        with self.acting(source):
            source.rename(target)
            sync_folder(target.parent)
            sync_folder(source.parent)
        self._after(f"moved {target}")

    def remove(self, path: Path) -> None:
        """Remove a file, a link, or a folder of files; what is not there is no error."""
        with self.acting(path):
            if path.is_dir() and not path.is_symlink():
                for inside in path.iterdir():
                    inside.unlink()
                path.rmdir()
            elif path.exists() or path.is_symlink():
                path.unlink()
            else:
                return
            sync_folder(path.parent)
        self._after(f"removed {path}")


def sync_folder(folder: Path) -> None:
    """Make names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(state: Path) -> Journal | None:
    """The journal of a state folder, None where nothing was begun. Raises EnrolError, OSError."""
    try:
        with as_owner(state), (state / JOURNAL).open("rb") as file:
            return Journal.from_json(file.read(MAX_JOURNAL + 1))
    except FileNotFoundError:
        return None


def save(files: Files, state: Path, journal: Journal) -> None:
    """Write the journal where it says something new. Raises OSError."""
    path, data = state / JOURNAL, journal.to_json()
    with files.acting():
        if not path.exists() or path.read_bytes() != data:
            files.put(path, data)


@contextlib.contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Hold the state folder for one run. Raises EnrolError (busy), OSError."""
    with as_owner(state):
        handle = os.open(state / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EnrolError(
                Exit.BUSY, f"another run works in {state}", "wait until it is done, then run again"
            ) from error
        yield
    finally:
        os.close(handle)


def explain(error: OSError) -> EnrolError:
    """An error of the file system as one of ours, with what to do."""
    where = str(error.filename or "the state folder").replace("/.", "/").removesuffix(".tmp")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return EnrolError(
            Exit.PERMISSION, f"{where}: {error.strerror}",
            "run this as root or as the user that owns the state folder (sudo holdfast provision ...)",
        )  # fmt: skip
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnrolError(
            Exit.FAILURE, f"the disk is full ({where})",
            "free some space and run again: what is there is whole, and the keys stay the same",
        )  # fmt: skip
    return EnrolError(Exit.FAILURE, f"{where}: {error.strerror or error}", "see to it and run again")
