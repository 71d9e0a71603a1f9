"""The watch over a haircut: each week the bounds that were issued are counted against what the cars fetched.

A haircut that is too low and one that is too conservative both raise a notice (exact binomial test, a least
number of cars, two weeks in a row), and the level that the next bounds are made for moves against the misses.
Gibbs and Candes, Adaptive Conformal Inference Under Distribution Shift (2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum, unique
from typing import Final, Literal

import numpy as np

from models.errors import ValuationError
from models.valuation import metrics
from models.valuation.conformal import Calibration
from models.valuation.policy import Policy, Scored, bounds_of, calibrate
from models.valuation.table import Bools, Floats, Ints

TAIL_RANGE: Final = (0.2, 1.8)
"""The adaptive tail stays within these multiples of the nominal one."""


def chance(n: int, share: float, significance: float) -> tuple[int, int]:
    """(low, high): counts outside of it are as rare as `significance` (two-sided, exact binomial) when each
    of n
    succeeds with probability `share`."""
    low, high = metrics.binomial_range(n, share, significance / 2.0)
    return round(low * n), round(high * n)


@unique
class Finding(StrEnum):
    """What a count says of a haircut."""

    HOLDS = "holds"
    TOO_LOW = "too low"
    TOO_CONSERVATIVE = "too conservative"
    TOO_FEW = "too few"


@dataclass(frozen=True, slots=True)
class Count:
    """How many of n cars were worth at least their bound, and the range that chance allows."""

    n: int
    kept: int
    low: int
    high: int
    finding: Finding

    @property
    def coverage(self) -> float:
        """Share kept; NaN of none."""
        return self.kept / self.n if self.n else math.nan


def judge(policy: Policy, kept: Bools, significance: float) -> Count:
    """Count bounds that were kept and test the count against the policy's coverage."""
    n, good = len(kept), int(np.count_nonzero(kept))
    low, high = chance(n, policy.coverage, significance)
    if n < policy.least:
        finding = Finding.TOO_FEW
    elif good < low:
        finding = Finding.TOO_LOW
    else:
        finding = Finding.TOO_CONSERVATIVE if good > high else Finding.HOLDS
    return Count(n, good, low, high, finding)


@dataclass(frozen=True, slots=True)
class Alarm:
    """The notice of one band (or of the whole market) with its hysteresis. `streak`: weeks that argue for a
    change."""

    finding: Finding = Finding.HOLDS
    since: int | None = None
    toward: Finding = Finding.HOLDS
    streak: int = 0


def advance(policy: Policy, alarm: Alarm, found: Finding, monday: int) -> Alarm:
    """The alarm after one more week. Weeks with too few sales neither raise nor clear."""
    if found is Finding.TOO_FEW:
        return alarm
    if found is alarm.finding:
        return replace(alarm, toward=found, streak=0)
    streak = alarm.streak + 1 if found is alarm.toward else 1
    needed = policy.clear_after if found is Finding.HOLDS else policy.raise_after
    if streak >= needed:
        return Alarm(found, None if found is Finding.HOLDS else monday, found, 0)
    return replace(alarm, toward=found, streak=streak)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something changed that a lender must know."""

    monday: int
    band: str
    change: Literal["raised", "cleared"]
    finding: Finding
    count: Count

    def sentence(self, policy: Policy) -> str:
        """For people."""
        seen = (
            f"{self.count.coverage:.1%} of {self.count.n:,} cars fetched at least their bound, "
            f"{policy.coverage:.0%} was promised; chance allows "
            f"{self.count.low / max(self.count.n, 1):.1%} to "
            f"{self.count.high / max(self.count.n, 1):.1%}"
        )
        if self.change == "cleared":
            return f"The haircut for {self.band} holds again: {seen}."
        advice = (
            "lend less against these cars until it is cleared"
            if self.finding is Finding.TOO_LOW
            else "it costs borrowers more than the promise needs"
        )
        return f"The haircut for {self.band} is {self.finding.value}: {seen}; {advice}."

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "monday": self.monday, "band": self.band, "change": self.change, "finding": self.finding.value,
            "n": self.count.n, "kept": self.count.kept, "allowed": [self.count.low, self.count.high],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class WeekReport:
    """One week of the policy. `haircut`: mean share the bound lies below the point, this week's cars; by band
    too."""

    monday: int
    calibration: Calibration | None
    cars: int
    haircut: float
    haircut_by_band: tuple[float, ...]
    overall: Count
    by_band: tuple[Count, ...]
    notices: tuple[Notice, ...]
    raised: tuple[tuple[str, Finding], ...]

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "monday": self.monday,
            "tail": None if self.calibration is None else round(1.0 - self.calibration.coverage, 6),
            "labels": 0 if self.calibration is None else sum(self.calibration.n),
            "cars": self.cars, "haircut": _number(self.haircut),
            "haircut_by_band": [_number(h) for h in self.haircut_by_band],
            "coverage": _number(self.overall.coverage), "judged": self.overall.n,
            "finding": self.overall.finding.value,
            "coverage_by_band": [_number(c.coverage) for c in self.by_band],
            "judged_by_band": [c.n for c in self.by_band],
            "notices": [n.as_json() for n in self.notices],
            "raised": [{"band": band, "finding": finding.value} for band, finding in self.raised],
        }  # fmt: skip


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


@dataclass(slots=True)
class Watch:
    """The policy week by week. Feed it with `week` in the order of time; it sees no label before its day."""

    policy: Policy
    tail: float = math.nan
    alarms: list[Alarm] = field(default_factory=list)
    _made: list[Ints] = field(default_factory=list)
    _visible: list[Ints] = field(default_factory=list)
    _kept: list[Bools] = field(default_factory=list)
    _band: list[Ints] = field(default_factory=list)
    _last: int | None = None

    def __post_init__(self) -> None:
        if math.isnan(self.tail):
            self.tail = self.policy.tail
        if not self.alarms:
            self.alarms = [Alarm() for _ in range(self.policy.bands + 1)]

    def week(self, monday: int, past: Scored, now: Scored) -> tuple[WeekReport, Floats]:
        """Judge what became visible before `monday`, recalibrate, and bound this week's predictions (`now`).

        `past`: all predictions so far; of it only labels visible before `monday` are looked at. `now.y` is
        kept to be judged once it is visible. Returns the report and ln of the bounds (NaN: not calibrated).
        Raises ValuationError for a week before the last one.
        """
        if self._last is not None and monday <= self._last:
            raise ValuationError("weeks must be given in the order of time, each once")
        overall, by_band, notices = self._judge(monday)
        self._adapt(monday)
        self._last = monday
        found = calibrate(self.policy, past, monday, self.tail)
        bounds = np.full(len(now), np.nan) if found is None else bounds_of(found, now)
        if found is not None:
            self._made.append(now.made)
            self._visible.append(now.visible)
            self._kept.append(now.y >= bounds)
            self._band.append(self.policy.band(now.value))
        cut, band = 1.0 - np.exp(bounds - now.point), self.policy.band(now.value)
        report = WeekReport(
            monday, found, len(now), _mean(cut),
            tuple(_mean(cut[band == b]) for b in range(self.policy.bands)),
            overall, by_band, notices, self.raised(),
        )  # fmt: skip
        return report, bounds

    def raised(self) -> tuple[tuple[str, Finding], ...]:
        """(band, finding) of every notice that stands."""
        return tuple(
            (self._name(place), alarm.finding)
            for place, alarm in enumerate(self.alarms)
            if alarm.finding is not Finding.HOLDS
        )

    def _name(self, place: int) -> str:
        return "the whole market" if place == 0 else f"cars {self.policy.band_name(place - 1)}"

    def _visible_between(self, start: int, end: int) -> tuple[Bools, Ints]:
        if not self._kept:
            return np.zeros(0, np.bool_), np.zeros(0, np.int32)
        visible = np.concatenate(self._visible)
        rows = (visible >= start) & (visible < end)
        return np.concatenate(self._kept)[rows], np.concatenate(self._band)[rows]

    def _judge(self, monday: int) -> tuple[Count, tuple[Count, ...], tuple[Notice, ...]]:
        policy = self.policy
        kept, band = self._visible_between(monday - policy.watch_days, monday)
        share = policy.significance / policy.bands
        counts = [judge(policy, kept, policy.significance)]
        counts += [judge(policy, kept[band == number], share) for number in range(policy.bands)]
        notices = []
        for place, count in enumerate(counts):
            before = self.alarms[place]
            after = self.alarms[place] = advance(policy, before, count.finding, monday)
            if after.finding is not before.finding:
                change: Literal["raised", "cleared"] = (
                    "cleared" if after.finding is Finding.HOLDS else "raised"
                )
                notices.append(Notice(monday, self._name(place), change, after.finding, count))
        return counts[0], tuple(counts[1:]), tuple(notices)

    def _adapt(self, monday: int) -> None:
        """Move the working tail against the misses that became visible since the last week."""
        if self._last is None:
            return
        kept, _ = self._visible_between(self._last, monday)
        if len(kept) < self.policy.least:
            return
        missed = 1.0 - float(kept.mean())
        low, high = (self.policy.tail * factor for factor in TAIL_RANGE)
        self.tail = min(max(self.tail + self.policy.rate * (self.policy.tail - missed), low), high)


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


def replay(policy: Policy, scored: Scored, mondays: Sequence[int]) -> tuple[list[WeekReport], Floats]:
    """The policy over past weeks: the reports and each prediction's bound (NaN where there was none yet)."""
    watch, bounds, reports = Watch(policy), np.full(len(scored), np.nan), []
    for monday in mondays:
        now = np.flatnonzero((scored.made >= monday) & (scored.made < monday + 7))
        report, found = watch.week(monday, scored, scored.take(now.astype(np.int32)))
        bounds[now] = found
        reports.append(report)
    return reports, bounds


def sentence(policy: Policy, report: WeekReport) -> str:
    """A week for people."""
    if report.calibration is None:
        return "There are too few labels for a calibrated bound; nothing should be lent on it."
    seen = (
        "too few of them are known yet to judge it"
        if report.overall.finding is Finding.TOO_FEW
        else f"{report.overall.coverage:.1%} of the {report.overall.n:,} last known kept to their bound"
    )
    raised = "; ".join(f"{band}: {finding.value}" for band, finding in report.raised)
    notices = f" Notices: {raised}." if raised else ""
    cut = (
        "No car was valued"
        if math.isnan(report.haircut)
        else f"The haircut is {report.haircut:.1%} on average over {report.cars:,} cars"
    )
    return f"{cut}, for a bound that {policy.coverage:.0%} should keep; {seen}.{notices}"
