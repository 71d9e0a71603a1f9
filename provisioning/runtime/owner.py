"""Root at work in somebody else's folder: as its owner, so that nothing there can lead to what is not theirs.

A folder's owner may lay a link wherever root is about to read or write. As the owner, root reaches with it
what the owner reaches anyway. Real and saved user id stay root's: nobody can trace or signal the process, and
`as_root` leads back for the few steps that need it. User ids are the process's, all threads of it.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def as_owner(folder: Path) -> Iterator[None]:
    """Where we are root: be the owner of `folder`. No change where it is root's, or not there yet.

    Who may change the folder's parents could name any owner: they are root's. Raises OSError.
    """
    if os.geteuid() != 0 or not folder.exists():
        yield
        return
    status = folder.stat()
    if status.st_uid == 0:
        yield
        return
    codecs.lookup("idna")  # of host names, loaded late: the owner may not be able to read our interpreter
    with _as(status.st_uid, status.st_gid):
        yield


@contextlib.contextmanager
def as_root() -> Iterator[None]:
    """Within `as_owner`: root again. No change for a process that never was root."""
    if os.geteuid() == 0 or os.getuid() != 0:
        yield
        return
    with _as(0, os.getgid()):
        yield


@contextlib.contextmanager
def _as(user: int, group: int) -> Iterator[None]:
    before = os.geteuid(), os.getegid(), os.getgroups()
    _become(user, group, [group])
    try:
        yield
    finally:
        _become(*before)


def _become(user: int, group: int, groups: list[int]) -> None:
    """Through root: nobody else may change groups. Raises OSError; then nothing but root's own is left."""
    os.seteuid(0)
    os.setgroups(groups)
    os.setegid(group)
    os.seteuid(user)


def kept_by_root(folder: Path) -> Path | None:
    """The folder, its links followed, where nobody but root can change it or what leads to it; else None.

    Of one that is not there yet, what is above it counts. Raises OSError.
    """
    real = folder.resolve()
    there = next(path for path in (real, *real.parents) if path.exists())
    if there.stat().st_mode & 0o022:
        return None
    return real if all(_kept(path) for path in (there, *there.parents)) else None


def _kept(path: Path) -> bool:
    """In a folder with the sticky bit (/tmp) others make names, and change none of root's."""
    status = path.stat()
    return status.st_uid == 0 and (not status.st_mode & 0o022 or bool(status.st_mode & 0o1000))


def read_beneath(folder: Path, parts: tuple[str, ...], most: int) -> tuple[bytes, int]:
    """Bytes and mode of the file at `parts` below `folder`; no link is followed, neither in it nor after.

    Raises OSError: ELOOP or ENOTDIR for a link, EFBIG beyond `most` bytes, EINVAL for what is no file.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for number, name in enumerate(parts):
            kind = os.O_DIRECTORY if number < len(parts) - 1 else os.O_NONBLOCK
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind
            try:
                inner = os.open(name, flags, dir_fd=handle)
            except OSError as error:
                error.filename = str(folder.joinpath(*parts))
                raise
            os.close(handle)
            handle = inner
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is no file", str(folder.joinpath(*parts)))
        with open(handle, "rb", closefd=False) as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise OSError(errno.EFBIG, "is larger than any file of ours", str(folder.joinpath(*parts)))
        return data, stat.S_IMODE(status.st_mode)
    finally:
        os.close(handle)
