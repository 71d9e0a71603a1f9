"""Does the chain of a device close over what a bundle holds? Pure; no signature is checked here.

Within a run, each segment names the hash of the one before it. A gap is closed only by a tombstone of the
device, signed in a later segment, that names the hashes on both sides of it. Two segments at one place are
a fork. An erased segment keeps its place by its hash; what it named before it can no longer be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cloud_sync.evidence.bundle import SegmentEntry
from edge.segment import Lost, Previous, Segment, Tombstone


@dataclass(frozen=True, slots=True)
class Link:
    """One place in a chain: the entry and, unless it was erased, what it says."""

    entry: SegmentEntry
    segment: Segment | None


@dataclass(frozen=True, slots=True)
class RunReport:
    """What the chain of one run shows."""

    run: bytes
    first: int
    last: int
    segments: int
    erased: int
    """Segments whose content is gone; their place is proven, their link backwards is not."""
    thinned: int
    """Events that the device dropped on purpose, by its own signed tombstones."""
    lost: int
    """Events read and lost in a crash or with a full disk, by its own tombstones (an upper bound)."""
    gaps: tuple[str, ...]
    """Sentences about what is missing and not accounted for."""
    broken: tuple[str, ...]
    """Sentences about what contradicts itself: never a matter of waiting for more."""
    before: str
    """What the first segment shown names before it."""
    rooted: bool
    """The run is shown from segment 0, and what came before it is shown too, or was unknown to the device."""


def check_runs(links: Iterable[Link]) -> list[RunReport]:
    """One report for each run in `links`, in the order in which they first appear."""
    runs: dict[bytes, list[Link]] = {}
    stones: dict[bytes, list[Tombstone]] = {}
    for link in links:
        runs.setdefault(link.entry.run, []).append(link)
        for stone in link.segment.tombstones if link.segment else ():
            stones.setdefault(stone.run, []).append(stone)
    return [_check_run(run, runs, stones) for run in runs]


def contiguous(links: Sequence[Link], at: int) -> tuple[int, int]:
    """The widest [start, stop) around position `at` of one run's `links` (by number) whose chain closes."""
    stones = [stone for link in links if link.segment for stone in link.segment.tombstones]
    start, stop = at, at + 1
    while start > 0 and _joins(links[start - 1], links[start], stones)[0]:
        start -= 1
    while stop < len(links) and _joins(links[stop - 1], links[stop], stones)[0]:
        stop += 1
    return start, stop


def _check_run(
    run: bytes, runs: dict[bytes, list[Link]], all_stones: dict[bytes, list[Tombstone]]
) -> RunReport:
    links = sorted(runs[run], key=lambda link: (link.entry.number, link.entry.index))
    stones = all_stones.get(run, [])
    gaps: list[str] = []
    broken: list[str] = []
    for before, after in pairwise(links):
        closed, why = _joins(before, after, stones)
        if not closed:
            missing = after.entry.number > before.entry.number + 1 and not _contradicts(before, after, stones)
            (gaps if missing else broken).append(why)
    rooted, contradiction = _rooted(links[0], runs, all_stones)
    if contradiction:
        broken.append(contradiction)
    return RunReport(
        run, links[0].entry.number, links[-1].entry.number, len(links),
        sum(link.segment is None for link in links),
        sum(stone.count for stone in stones if stone.reason is Lost.THINNED),
        sum(stone.count for stone in stones if stone.reason is not Lost.THINNED),
        tuple(gaps), tuple(broken), _before(links[0]), rooted,
    )  # fmt: skip


def _rooted(
    first: Link, runs: dict[bytes, list[Link]], stones: dict[bytes, list[Tombstone]]
) -> tuple[bool, str]:
    """Whether a run begins where the one before it ended, and a sentence where that cannot be true."""
    if first.segment is None or first.entry.number > 0:
        return False, ""
    named = first.segment.previous
    if not isinstance(named, Previous):
        return True, ""
    others = runs.get(named.run, [])
    if any(link.entry.number > named.number for link in others):
        return False, f"the run before it goes on after segment {named.number}: two devices use this identity"
    for link in others:
        if link.entry.number == named.number:
            if link.entry.hash != named.hash:
                return False, f"segment {named.number} of the run before it has another hash than it names"
            return True, ""
    return any(s.last == named.number and s.hash_end == named.hash for s in stones.get(named.run, [])), ""


def _joins(before: Link, after: Link, stones: Sequence[Tombstone]) -> tuple[bool, str]:
    """Whether `after` follows `before` in the chain, and a sentence where it does not."""
    low, high = before.entry.number, after.entry.number
    named = after.segment.previous if after.segment else None
    if low == high:
        return (
            False,
            f"two segments claim number {low}: a second device uses this identity, or a key was stolen",
        )
    if high == low + 1:
        if after.segment is None or named == before.entry.hash:
            return True, ""
        return False, f"segment {high} does not name segment {low} as the one before it"
    stone = _covering(low + 1, high - 1, stones)
    if stone is None:
        return False, f"segments {low + 1} to {high - 1} are missing and no tombstone accounts for them"
    if stone.hash_before != before.entry.hash or (after.segment is not None and named != stone.hash_end):
        return False, f"the tombstone of segments {low + 1} to {high - 1} does not fit the segments around it"
    return True, ""


def _contradicts(before: Link, after: Link, stones: Sequence[Tombstone]) -> bool:
    return _covering(before.entry.number + 1, after.entry.number - 1, stones) is not None


def _covering(first: int, last: int, stones: Sequence[Tombstone]) -> Tombstone | None:
    """The tombstone, or the joined neighbours, that stand for exactly segments first .. last."""
    thinned = sorted((s for s in stones if s.reason is Lost.THINNED), key=lambda s: s.first)
    joined: Tombstone | None = None
    for stone in thinned:
        if joined is None:
            joined = stone if stone.first == first else None
        elif stone.first == joined.last + 1 and stone.hash_before == joined.hash_end:
            joined = Tombstone(
                Lost.THINNED, stone.run, first, stone.last, joined.count + stone.count,
                joined.from_mono_ns, stone.to_mono_ns, joined.hash_before, stone.hash_end,
            )  # fmt: skip
        if joined is not None and joined.last == last:
            return joined
    return None


def _before(link: Link) -> str:
    if link.segment is None:
        return "erased"
    match link.segment.previous:
        case Previous(run, number, _):
            return f"segment {number} of run {run.hex()}"
        case bytes():
            return f"segment {link.entry.number - 1} of the same run"
        case reason:
            return f"unknown: {reason}"[:200]
