"""How long the uplink waits before it connects again, without I/O.

A broker that is away is asked at growing intervals. A connection that the broker ends again and again, though
it takes the next connect at once, has another reason: MQTT-3.1.4-2 obliges it to end the older of two
connections of one client id, so a copied card makes two nodes throw each other out for ever. Both must
notice, and both must slow down: also the one whose connections live for the minute that the other waits.

A broker that was restarted or killed, and a network that was gone, do not count: the next connect fails.
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
    """A connection that ends sooner was no success: the waits grow."""
    conflict_after: int = 3
    """So many connections ended by the broker, none of them explained: somebody else uses this identity."""
    within_s: float = 600.0
    """They count for so long; two copies that wait `conflict_s` each end one another's every 150 s."""
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
        """Short connections in a row."""
        self._age_s = 0.0
        """Time as far as it is known here: lives and waits."""
        self._ends: list[float] = []
        """When the broker ended a connection and nothing explained it, within the last `within_s`."""
        self._open = False
        """The latest end has not been followed by a connect."""

    @property
    def conflict(self) -> bool:
        """Another client is taken to use this identity: the broker ends one of the two at each connect."""
        return len(self._ends) >= self.limits.conflict_after

    def refused(self, jitter: float) -> float:
        """No connection came about. Returns the wait in seconds."""
        self._failed += 1
        if self._open and not self.conflict:
            self._ends.pop()  # the broker itself, or the network, had gone
        self._open = False
        return self._wait(self._failed - 1, jitter)

    def lives(self, lived_s: float) -> None:
        """The present connection lives since `lived_s`."""
        if lived_s >= self.limits.calm_s:
            self._ends.clear()

    def ended(self, lived_s: float, jitter: float, *, blamed: bool = False, ours: bool = False) -> float:
        """A connection that had come about ended after `lived_s`. Returns the wait in seconds.

        `blamed`: a segment explains it; it pauses, so the others need not wait. `ours`: it was not the broker
        who ended it. Neither says anything about another client.
        """
        self._failed, self._age_s = 0, self._age_s + lived_s
        self.lives(lived_s)
        if lived_s >= self.limits.short_s:
            self._short = 0
        elif not blamed:
            self._short += 1
        self._open = not blamed and not ours and lived_s < self.limits.calm_s
        if self._open:
            self._ends.append(self._age_s)
        return self._wait(self._short, jitter)

    def _wait(self, times: int, jitter: float) -> float:
        """The wait after so many failures, a minute in a conflict; counted as time that passes."""
        self._ends = [at for at in self._ends if self._age_s - at <= self.limits.within_s]
        wait: float = self.limits.first_s * 2 ** min(times, _CAPPED_DOUBLINGS)
        wait = min(wait, self.limits.max_s) * (0.5 + 0.5 * jitter)
        if self.conflict:
            wait = self.limits.conflict_s * (1.0 + 0.5 * jitter)
        self._age_s += wait
        return wait
