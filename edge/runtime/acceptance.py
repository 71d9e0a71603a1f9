"""Tells an oracle outside of this process what was accepted, after each commit. For tests of crashes.

One JSON line an event over a unix stream socket whose server is the oracle. The oracle may be absent, slow
or dead: lines then wait, bounded, and the oldest are dropped; the edge is never held up.
"""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Iterable
from typing import Final

from edge.sealer import Accepted

MAX_WAITING: Final = 4 << 20
"""Bytes that wait for a slow oracle: about 25,000 events."""
RETRY_S: Final = 1.0
LAST_WAIT_S: Final = 1.0
"""An orderly end gives a live oracle this long to take the rest."""


class Acceptance:
    """The edge's end of the stream. Used by the event loop only; never blocks but in `close`."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._waiting = bytearray()
        self._retry_at = 0.0
        self.dropped = 0
        """Lines that no oracle took."""

    def tell(self, run: bytes, items: Iterable[Accepted]) -> None:
        """`items` of `run` are durable."""
        if self._path is None:
            return
        for item in items:
            line = {
                "run": run.hex(),
                "seq": item.event.seq,
                "kind": int(item.event.kind),
                "sha256": hashlib.sha256(item.data).hexdigest(),
            }
            self._waiting += json.dumps(line).encode() + b"\n"
        self.flush()
        if len(self._waiting) > MAX_WAITING:
            self.dropped += self._waiting.count(b"\n")
            self._waiting.clear()
            self._disconnect()  # a line may have been cut: the next connection begins with a whole one

    def flush(self) -> None:
        """Send what can be sent now."""
        if not self._waiting or not self._connected():
            return
        assert self._socket is not None
        try:
            while self._waiting:
                del self._waiting[: self._socket.send(self._waiting)]
        except BlockingIOError:
            return
        except OSError:
            self._disconnect()

    def close(self) -> None:
        """Give the oracle a last chance, then go."""
        if self._waiting and self._connected():
            assert self._socket is not None
            self._socket.settimeout(LAST_WAIT_S)
            try:
                self._socket.sendall(self._waiting)
            except OSError:
                self.dropped += self._waiting.count(b"\n")
        self._disconnect()

    def _connected(self) -> bool:
        if self._socket is not None:
            return True
        if time.monotonic() < self._retry_at:
            return False
        self._retry_at = time.monotonic() + RETRY_S
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.setblocking(False)
        try:
            assert self._path is not None
            connection.connect(self._path)
        except OSError:
            connection.close()
            return False
        self._socket = connection
        return True

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            # What the old connection took in part must not continue in the middle of a line.
            end = self._waiting.find(b"\n")
            if end >= 0 and not self._waiting.startswith(b"{"):
                del self._waiting[: end + 1]
