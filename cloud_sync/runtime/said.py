"""What the collector says of refused messages and alarms: within bounds, and safe on a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PERIOD_S: Final = 60.0
LINES: Final = 5
"""Lines of one kind in a period: enough to name the first devices, few enough that one kind cannot drown the
others or fill a disk, whatever names a hostile broker invents."""
MAX_TEXT: Final = 500
"""Characters of one text that a device had a hand in, as a detail in the store."""


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """A device's text, at most `limit` characters: what could steer a terminal is shown, not sent."""
    shown = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text[: limit + 1])
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


@dataclass(slots=True)
class _Kind:
    since_s: float
    said: int = 0
    withheld: int = 0


class Limiter:
    """At most LINES lines of each kind in PERIOD_S; those withheld are counted into the next that is said.

    Kinds are ours (reasons, alarms), so that their number is bounded.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def withheld(self, kind: str, now_s: float) -> int | None:
        """None when a line of `kind` must not be said now, else how many were withheld since the last one."""
        state = self._kinds.get(kind)
        if state is None:
            state = self._kinds[kind] = _Kind(now_s)
        elif now_s - state.since_s >= PERIOD_S:
            state.since_s, state.said = now_s, 0
        if state.said >= LINES:
            state.withheld += 1
            return None
        state.said += 1
        count, state.withheld = state.withheld, 0
        return count
