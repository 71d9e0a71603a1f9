"""One explained incident a cause: opened once, updated when something material is new, closed once."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.geo import Place
from models.limits import Limits
from models.verdict import Action, Cause, Evidence, Verdict

_S = 1_000_000_000
MAX_CONFIDENCE = 0.99
MAX_EVIDENCE = 10
"""An incident's event must fit in 4 kB."""
_ASK_NS = 5 * _S
_MATERIAL = 0.1
"""A change of confidence that is worth a word."""


@dataclass(frozen=True, slots=True)
class Ground:
    """One piece of evidence with its weight, 0 .. 1."""

    key: str
    """Names the kind of observation; a new key is material, a new figure under an old one is not."""
    weight: float
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Claim:
    """What a rule says now: this incident is on, and these are the grounds."""

    since_ns: int
    sentence: str
    grounds: tuple[Ground, ...]
    figure: float = 0.0
    """Grows with the incident (metres); doubling is material."""


def ground(key: str, sensor: str, weight: float, text: str) -> Ground:
    """Shorthand for a Ground."""
    return Ground(key, weight, Evidence(sensor, text))


def confidence(grounds: list[Ground]) -> float:
    """Independent sensors multiply doubt away; several observations of one sensor count as its best."""
    best: dict[str, float] = {}
    for item in grounds:
        best[item.evidence.sensor] = max(best.get(item.evidence.sensor, 0.0), item.weight)
    doubt = 1.0
    for weight in best.values():
        doubt *= 1.0 - weight
    return min(MAX_CONFIDENCE, round(1.0 - doubt, 3))


@dataclass(slots=True)
class _Open:
    number: int
    since_ns: int
    opened_ns: int
    told_ns: int
    asked_ns: int
    told_keys: int
    told_confidence: float
    told_figure: float
    updates: int
    last: Verdict
    grounds: dict[str, Ground] = field(default_factory=dict)


class Book:
    """Numbers incidents from 1 within a run; at most one is open for each cause."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: dict[Cause, _Open] = {}
        self._number = 0

    def __contains__(self, cause: Cause) -> bool:
        return cause in self._open

    def __len__(self) -> int:
        return len(self._open)

    def opened_ns(self, cause: Cause) -> int | None:
        """When the open incident of `cause` was opened, None where there is none."""
        entry = self._open.get(cause)
        return None if entry is None else entry.opened_ns

    def due(self, cause: Cause, now: int) -> bool:
        """Whether an open incident of `cause` may speak again."""
        entry = self._open[cause]
        return now - entry.told_ns >= self._limits.update_s * _S and entry.updates < self._limits.max_updates

    def ask(self, cause: Cause, now: int) -> bool:
        """As `due`, and not asked within the last seconds: stating a claim costs more than all rules."""
        entry = self._open[cause]
        if now - entry.asked_ns < _ASK_NS or not self.due(cause, now):
            return False
        entry.asked_ns = now
        return True

    def verdicts(self) -> list[Verdict]:
        """The last word on each open incident, oldest incident first."""
        return [entry.last for entry in sorted(self._open.values(), key=lambda entry: entry.number)]

    def claim(self, cause: Cause, claim: Claim, now: int, place: Place | None) -> Verdict | None:
        """Open the incident, or update it if something material is new."""
        entry = self._open.get(cause)
        if entry is None:
            return self._open_new(cause, claim, now, place)
        self._add(entry, claim.grounds)
        sure = confidence(list(entry.grounds.values()))
        material = (
            len(entry.grounds) > entry.told_keys
            or sure >= entry.told_confidence + _MATERIAL
            or claim.figure >= 2 * max(entry.told_figure, 1.0)
        )
        if not material or not self.due(cause, now):
            return None
        return self._tell(entry, cause, Action.UPDATED, claim.sentence, now, place, figure=claim.figure)

    def fold(
        self, cause: Cause, grounds: tuple[Ground, ...], now: int, place: Place | None
    ) -> Verdict | None:
        """Add grounds of a related cause to the open incident of `cause`; its sentence names the first."""
        entry = self._open[cause]
        before = len(entry.grounds)
        self._add(entry, grounds)
        if len(entry.grounds) == before or entry.updates >= self._limits.max_updates:
            return None
        news = "; ".join(item.evidence.text for item in grounds)
        sentence = f"{entry.last.sentence.split(' Since then: ')[0]} Since then: {news}."
        return self._tell(entry, cause, Action.UPDATED, sentence, now, place, figure=entry.told_figure)

    def close(self, cause: Cause, sentence: str, now: int, place: Place | None) -> Verdict:
        """Close the open incident of `cause`."""
        entry = self._open.pop(cause)
        return self._tell(entry, cause, Action.CLOSED, sentence, now, place, figure=0.0)

    def _open_new(self, cause: Cause, claim: Claim, now: int, place: Place | None) -> Verdict:
        self._number += 1
        since = min(claim.since_ns, now)
        blank = Verdict(now, since, self._number, cause, Action.OPENED, 0.0, claim.sentence, ())
        entry = _Open(self._number, since, now, now, now, 0, 0.0, claim.figure, -1, blank)
        self._open[cause] = entry
        self._add(entry, claim.grounds)
        return self._tell(entry, cause, Action.OPENED, claim.sentence, now, place, figure=claim.figure)

    @staticmethod
    def _add(entry: _Open, grounds: tuple[Ground, ...]) -> None:
        for item in grounds:
            if item.key in entry.grounds or len(entry.grounds) < MAX_EVIDENCE:
                entry.grounds[item.key] = item

    @staticmethod
    def _tell(
        entry: _Open,
        cause: Cause,
        action: Action,
        sentence: str,
        now: int,
        place: Place | None,
        *,
        figure: float,
    ) -> Verdict:
        grounds = list(entry.grounds.values())
        entry.told_ns, entry.told_keys, entry.told_figure = now, len(grounds), figure
        entry.told_confidence = confidence(grounds)
        entry.updates += 1
        entry.last = Verdict(
            t_ns=now, since_ns=entry.since_ns, incident=entry.number, cause=cause, action=action,
            confidence=entry.told_confidence, sentence=sentence,
            evidence=tuple(item.evidence for item in grounds),
            lat_deg=None if place is None else place.lat_deg,
            lon_deg=None if place is None else place.lon_deg,
        )  # fmt: skip
        return entry.last


def duration(seconds: float) -> str:
    """`95 s`, `12 min`, `8.1 h`: as a person would say it."""
    if seconds < 180:
        return f"{max(0, round(seconds))} s"
    if seconds < 7200:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def metres(way_m: float) -> str:
    """`340 m`, `2.4 km`."""
    return f"{round(way_m)} m" if way_m < 1000 else f"{way_m / 1000:.1f} km"
