"""The service manager's protocol (sd_notify(3)): ready, stopping, and a sign of life."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable


class Notify:
    """Tells systemd what it asked to be told; silent where nobody asked."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        watchdog = os.environ.get("WATCHDOG_USEC", "")
        self.interval_s: float | None = int(watchdog) / 2e6 if watchdog.isdigit() and self._address else None
        """Half of the time after which the manager takes us for hung; None where it does not watch."""

    def tell(self, state: str) -> None:
        """Send `state` ("READY=1", "WATCHDOG=1", "STOPPING=1"); a manager that is gone is no error."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto(state.encode(), self._address)
        except OSError:
            pass  # nobody to tell

    def reloading(self) -> None:
        """A reload has begun; READY=1 ends it. The time is what Type=notify-reload (systemd 253) asks for."""
        self.tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


class Pulses:
    """When each task that must not hang was last seen to run, in real time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, float] = {}

    def beat(self, task: str) -> None:
        """`task` runs."""
        self._seen[task] = self._clock()

    def late(self, budgets_s: dict[str, float]) -> list[str]:
        """The tasks that were not seen for longer than their budget; one never seen begins now."""
        now = self._clock()
        return [task for task, budget in budgets_s.items() if now - self._seen.setdefault(task, now) > budget]
