"""uplink.json: what the uplink says of itself, for `holdfast status` and the metrics.

Written when something of importance changed and once a minute otherwise; not synced, because it is worth
nothing after a crash. A file that nobody renewed for STALE_S belongs to an uplink that is no more.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

NAME: Final = "uplink.json"
EVERY_S: Final = 60.0
"""A write a minute costs a card nothing."""
STALE_S: Final = 180.0
_COUNTS: Final = ("connects", "sent", "receipts", "troubles")


@dataclass(frozen=True, slots=True)
class UplinkState:
    """Since the start of the uplink."""

    connected: bool
    connects: int
    """Connections that came about."""
    sent: int
    """Segments that the broker acknowledged."""
    receipts: int
    """Receipts brought to the edge."""
    troubles: int
    """Troubles that a person should know of, now."""
    ended: bool = False
    """The uplink ended orderly."""

    def write(self, folder: Path) -> None:
        """Replace the file; a disk that does not take it is no reason to stop."""
        new = folder / f".{NAME}.new"
        with contextlib.suppress(OSError):
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(self), file)
            os.replace(new, folder / NAME)

    @classmethod
    def read(cls, folder: Path, now_s: float) -> UplinkState | None:
        """What a running uplink said; None where none runs, or the file is not one of ours."""
        path = folder / NAME
        try:
            if abs(now_s - path.stat().st_mtime) > STALE_S:
                return None
            value = json.loads(path.read_text("utf-8"))
            connects, sent, receipts, troubles = (_count(value[name]) for name in _COUNTS)
            ended = value["ended"] is not False
            state = cls(value["connected"] is True, connects, sent, receipts, troubles, ended)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return None if state.ended else state


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(value)
    return value
