"""The one Clock: the only reader of time for detectors, dwell, silence and sealing.

Network timers use real time and do not come here. A clock is either the system's, or a **page**: sixteen
bytes of shared memory in which the scenario's world writes how far it has come. Every process of a demo
reads the same page, so that a slow machine makes the scenario slower and never makes a silence.
"""

from __future__ import annotations

import mmap
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol

from firmware_bridge.wire.stamp import ClockKind

BUILD_FLOOR_NS: Final = 1_795_000_000 * 1_000_000_000
"""2026-11-18T11:06:40Z: nothing before this software was built can be the present of a live node."""
_PAGE: Final = struct.Struct("<QQ")
"""Monotonic nanoseconds, written twice; a reader that sees two values reads again."""


class Clock(Protocol):
    """Monotonic and wall time in nanoseconds, and whose time it is."""

    kind: ClockKind
    synced: bool
    """The wall time can be trusted (NTP, or a scenario's own time)."""
    floor_ns: int
    """Wall times below this cannot be true."""

    def mono_ns(self) -> int:
        """Nanoseconds, never going back."""
        ...

    def wall_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z as this clock believes."""
        ...


class SystemClock:
    """The host's clocks. `synced` says what the configuration claims about NTP."""

    kind = ClockKind.LIVE

    def __init__(self, *, synced: bool = False, floor_ns: int = BUILD_FLOOR_NS) -> None:
        self.synced = synced
        self.floor_ns = floor_ns

    def mono_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()


class PageClock:
    """A scenario's time, read from the page its world writes. Close it, or use it as a context."""

    def __init__(
        self, page: Path, *, epoch_wall_ns: int, kind: ClockKind, floor_ns: int = 0, synced: bool = True
    ) -> None:
        with page.open("rb") as file:
            self._page = mmap.mmap(file.fileno(), _PAGE.size, access=mmap.ACCESS_READ)
        self._epoch_wall_ns = epoch_wall_ns
        self.kind = kind
        self.synced = synced
        self.floor_ns = floor_ns

    def mono_ns(self) -> int:
        while True:
            first, second = _PAGE.unpack_from(self._page)
            if first == second:
                return int(first)

    def wall_ns(self) -> int:
        return self._epoch_wall_ns + self.mono_ns()

    def close(self) -> None:
        """Unmap the page."""
        self._page.close()

    def __enter__(self) -> PageClock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PageWriter:
    """The world's side of a page: it alone moves scenario time, and only forward."""

    def __init__(self, page: Path) -> None:
        page.write_bytes(_PAGE.pack(0, 0))
        with page.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), _PAGE.size)
        self._now_ns = 0

    def advance(self, mono_ns: int) -> None:
        """Set scenario time to `mono_ns`. Raises ValueError if that lies in the past."""
        if mono_ns < self._now_ns:
            raise ValueError(f"scenario time cannot go back from {self._now_ns} to {mono_ns}")
        self._now_ns = mono_ns
        _PAGE.pack_into(self._page, 0, mono_ns, mono_ns)

    def close(self) -> None:
        """Unmap the page."""
        self._page.close()
