"""One measured figure, and how it is measured: repeated, the best taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of bench.json."""

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    goal: str | None = None
    met: bool | None = None

    def as_json(self) -> dict[str, object]:
        """The row as it stands in bench.json."""
        return asdict(self)

    def line(self) -> str:
        """The row for people."""
        peer = "" if self.peer is None else f"  {self.peer} {self.peer_value:,.0f}, ratio {self.ratio:.2f}"
        goal = "" if self.goal is None else f"  goal {self.goal}: {'met' if self.met else 'MISSED'}"
        return f"{self.name:<34} {self.value:>14,.1f} {self.unit}{peer}{goal}"


def against(
    name: str,
    value: float,
    unit: str,
    peer: str,
    peer_value: float,
    *,
    goal: str | None = None,
    met: bool | None = None,
) -> Row:
    """A row with its peer, both rounded as they stand in the file."""
    ratio = round(value / peer_value, 3) if peer_value else None
    return Row(name, round(value, 1), unit, peer, round(peer_value, 1), ratio, goal, met)


def best(work: Callable[[], object], *, times: int = 3) -> float:
    """CPU seconds of the fastest of `times` runs of something that only computes: what the code costs,
    without what else the machine does. What waits for a disk is timed by the wall."""
    seconds = []
    for _ in range(times):
        begun = time.process_time()
        work()
        seconds.append(time.process_time() - begun)
    return min(seconds)
