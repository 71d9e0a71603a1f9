"""How long the uplink waits before it connects again, without I/O.

A broker that is away is asked at growing intervals. A connection that always ends soon after it came about
has another reason: MQTT-3.1.4-2 obliges a broker to end the older of two connections of one client id, so a
copied card makes two nodes throw each other out for ever. Both must notice, and both must slow down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_CAPPED_DOUBLINGS: Final = 16
"""More doublings than any cap needs; keeps 2**n a small number after weeks."""


@dataclass(frozen=True, slots=True)
class ReconnectLimits:
    """All in seconds, except the count."""

    first_s: float = 1.0
    max_s: float = 60.0
    short_s: float = 10.0
    """A connection that ends sooner was no success."""
    conflict_after: int = 3
    """So many short connections in a row, none of them explained: somebody else uses this identity."""
    conflict_s: float = 60.0
    """At least this long between connects while that lasts."""
    calm_s: float = 180.0
    """A connection that lives so long ends the suspicion; two that wait `conflict_s` never reach it."""


class Reconnects:
    """How long to wait before the next connect."""

    def __init__(self, limits: ReconnectLimits | None = None) -> None:
        self.limits = limits or ReconnectLimits()
        self._failed = 0
        self._short = 0

    @property
    def conflict(self) -> bool:
        """Another client is taken to use this identity: the broker ends one of the two at each connect."""
        return self._short >= self.limits.conflict_after

    def refused(self, jitter: float) -> float:
        """No connection came about. Returns the wait in seconds."""
        self._failed += 1
        wait = self.limits.first_s * 2 ** min(self._failed - 1, _CAPPED_DOUBLINGS)
        return (
            min(wait, self.limits.max_s) * (0.5 + 0.5 * jitter) if not self.conflict else self._calm(jitter)
        )

    def ended(self, lived_s: float, jitter: float, *, blamed: bool = False) -> float:
        """A connection that had come about ended after `lived_s`. Returns the wait in seconds.

        `blamed`: a segment explains it, so it says nothing about another client.
        """
        self._failed = 0
        if lived_s >= (self.limits.calm_s if self.conflict else self.limits.short_s):
            self._short = 0
        elif not blamed:
            self._short += 1
        if self.conflict:
            return self._calm(jitter)
        return self._growing(self._short, jitter)

    def _growing(self, times: int, jitter: float) -> float:
        wait: float = self.limits.first_s * 2 ** min(times, _CAPPED_DOUBLINGS)
        return min(wait, self.limits.max_s) * (0.5 + 0.5 * jitter)

    def _calm(self, jitter: float) -> float:
        return self.limits.conflict_s * (1.0 + 0.5 * jitter)
