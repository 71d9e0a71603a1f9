"""`high-water`: which seq was given out last, so that a crash can say how much it cost.

One small file, mapped into memory: an update costs a microsecond, needs no fsync, and survives kill -9 in
the page cache. It does not survive a power cut; the kernel's boot id in it tells the two apart. Two slots,
written in turn, each with a CRC: a torn update leaves the other one.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HEAD: Final = struct.Struct("<QB")
"""Turn, number of marks that follow."""
_MARK: Final = struct.Struct("<16s16sQQQ")
"""Run, boot id, next seq, committed seq, monotonic time of the last event."""
MAX_MARKS: Final = 16
"""The present run and those before it that no store has heard of yet (a disk that was full throughout)."""
_SLOT_BYTES: Final = 1024
_FILE_BYTES: Final = 4096
"""One page, allocated at creation, so that a full disk cannot stop an update."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Mark:
    """What the last edge process had given out when it ended."""

    run: bytes
    next_seq: int
    committed_seq: int
    """Everything below was accepted, as far as this file knows."""
    mono_ns: int
    same_boot: bool
    """The machine has not restarted since: the figures are exact."""


class HighWater:
    """The mark on disk. The edge's two threads may both write it; other processes must not."""

    def __init__(self, path: Path) -> None:
        """Open or create `path`. Raises OSError when that is not possible."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < _FILE_BYTES:
                os.posix_fallocate(descriptor, 0, _FILE_BYTES)
            self._map = mmap.mmap(descriptor, _FILE_BYTES)
        finally:
            os.close(descriptor)
        self._boot = _boot_id()
        self.before: tuple[Mark, ...] = ()
        """The marks of earlier processes that no store has settled yet, the latest first."""
        self._lock = threading.Lock()
        """Guards everything below: the event loop gives numbers out, the store's thread commits them."""
        self._turn = 0
        for place in (0, 1):
            found = self._read(place)
            if found is not None and found[0] >= self._turn:
                self._turn, self.before = found
        self._carried = b"".join(self._pack(mark) for mark in self.before[: MAX_MARKS - 1])
        self._run = b"\0" * 16
        self._committed = 0
        self._last = (0, 0)

    def begin(self, run: bytes) -> None:
        """A new run: nothing of it is given out yet."""
        with self._lock:
            self._run, self._committed, self._last = run, 0, (0, 0)
            self._write()

    def settled(self) -> None:
        """A store has begun the present run and told what the marks before it mean: they can go."""
        with self._lock:
            self._carried = b""
            self._write()

    def given_out(self, next_seq: int, mono_ns: int) -> None:
        """Events below `next_seq` exist, accepted or not."""
        with self._lock:
            self._last = (next_seq, mono_ns)
            self._write()

    def committed(self, next_seq: int) -> None:
        """Events below `next_seq` are accepted."""
        with self._lock:
            self._committed = next_seq
            self._write()

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()

    def _pack(self, mark: Mark) -> bytes:
        boot = self._boot if mark.same_boot else _OTHER_BOOT
        return _MARK.pack(mark.run, boot, mark.next_seq, mark.committed_seq, mark.mono_ns)

    def _write(self) -> None:
        next_seq, mono_ns = self._last
        self._turn += 1
        slot = (
            _HEAD.pack(self._turn, 1 + len(self._carried) // _MARK.size)
            + _MARK.pack(self._run, self._boot, next_seq, self._committed, mono_ns)
            + self._carried
        )
        start = (self._turn % 2) * _SLOT_BYTES
        data = zlib.crc32(slot).to_bytes(4, "little") + slot
        self._map[start : start + len(data)] = data

    def _read(self, place: int) -> tuple[int, tuple[Mark, ...]] | None:
        data = self._map[place * _SLOT_BYTES : (place + 1) * _SLOT_BYTES]
        turn, count = _HEAD.unpack_from(data, 4)
        slot = data[4 : 4 + _HEAD.size + count * _MARK.size]
        if not turn or not 0 < count <= MAX_MARKS or zlib.crc32(slot).to_bytes(4, "little") != data[:4]:
            return None
        marks = (
            Mark(run, next_seq, committed, mono_ns, boot == self._boot)
            for run, boot, next_seq, committed, mono_ns in _MARK.iter_unpack(slot[_HEAD.size :])
        )
        return turn, tuple(mark for mark in marks if mark.next_seq)


_OTHER_BOOT: Final = b"\xff" * 16


def _boot_id() -> bytes:
    try:
        return bytes.fromhex(_BOOT_ID.read_text("ascii").strip().replace("-", ""))
    except (OSError, ValueError):
        return b"\0" * 16  # not Linux, or no /proc: taken as the same boot
