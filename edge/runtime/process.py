"""What a daemon needs of its process: the lock of its folder, its memory, its last word."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from edge.errors import EdgeError
from edge.runtime.log import Log


class Busy(EdgeError):
    """Another edge already works in this state folder."""


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the lock of a state folder. Raises Busy, or OSError when the folder cannot be written."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"another edge works in {folder}: stop it first") from error
        yield
    finally:
        os.close(descriptor)


def rss_mb() -> float:
    """Resident memory of this process in MB (10^6 bytes); 0 where the kernel does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def fail(code: int, text: str) -> int:
    """Say in the log why the daemon does not start; the exit code."""
    Log().say("not_started", error=text)
    return code
