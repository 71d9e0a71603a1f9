"""Log lines of the edge: one JSON object a line on stderr, each kind at a bounded rate."""

from __future__ import annotations

import json
import sys
import time
from typing import Final, TextIO

LEVELS: Final = ("debug", "info", "warning", "error")
BURST: Final = 5
"""Lines of one kind in one window; a broken disk fails at each commit and must not fill the journal."""
WINDOW_S: Final = 30.0
MAX_LINE: Final = 2000
"""Characters of one line."""


class Log:
    """Writes what happened; never raises."""

    def __init__(self, level: str = "info", stream: TextIO | None = None) -> None:
        self._least = LEVELS.index(level)
        self._stream = stream if stream is not None else sys.stderr
        self._windows: dict[str, tuple[float, int]] = {}

    def say(self, kind: str, *, level: str = "info", **fields: object) -> None:
        """One line `{"time", "level", "kind", ...}`; after BURST in WINDOW_S only how many were left out."""
        if LEVELS.index(level) < self._least:
            return
        now = time.monotonic()
        since, count = self._windows.get(kind, (now, 0))
        if now - since >= WINDOW_S:
            if count > BURST:
                fields = {**fields, "left_out": count - BURST}
            since, count = now, 0
        self._windows[kind] = (since, count + 1)
        if count >= BURST:
            return
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = json.dumps(
            {"time": at, "level": level, "kind": kind, **fields}, ensure_ascii=True, default=str
        )
        try:
            self._stream.write(line[:MAX_LINE] + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass  # stderr is gone or its disk is full: the daemon goes on
