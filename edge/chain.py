"""Does the chain close? What a device signed, in any order, to a statement of completeness.

Within a run each segment names the hash of the one before; segment 0 names the last segment of the run
before. What is missing is either told by a tombstone whose hashes fit, or it is a gap. Two different
segments with one (run, number), or two runs that both follow the same segment, are a fork: two nodes have
the same key. Signatures are not checked here; give only verified segments.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from edge.segment import Lost, Previous, Sealed, Tombstone

MAX_FINDINGS: Final = 1000
"""Findings of one kind that are listed; a chain with more is broken beyond what a list helps."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Segments that are missing without a word."""

    run: bytes
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Fork:
    """Different segments in one place, or runs that follow the same one: a copied or rogue device."""

    run: bytes
    number: int
    hashes: tuple[bytes, ...]
    """Of the segments that exclude each other, sorted."""


@dataclass(frozen=True, slots=True)
class Break:
    """A segment that does not fit what is there."""

    run: bytes
    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Head:
    """A segment with nothing before it here: the begin, where there is one of them."""

    run: bytes
    number: int
    before: Previous | str
    """What segment 0 says came before; for a later number, that it is the first one here."""


@dataclass(frozen=True, slots=True)
class Tip:
    """The last segment known: completeness reaches to here and no further."""

    run: bytes
    number: int
    hash: bytes
    wall_ms: int | None
    """Wall time of its last event that has one."""


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What can be said of the segments that were looked at."""

    segments: int
    events: int
    lost: tuple[tuple[Lost, int], ...]
    """Events told missing by tombstones, by reason."""
    heads: tuple[Head, ...]
    tips: tuple[Tip, ...]
    gaps: tuple[Gap, ...]
    forks: tuple[Fork, ...]
    breaks: tuple[Break, ...]

    @property
    def complete(self) -> bool:
        """One begin, no gap, no fork, no break: all there is up to the tip, or told to be missing."""
        return len(self.heads) <= 1 and not (self.gaps or self.forks or self.breaks)


@dataclass(frozen=True, slots=True)
class _Node:
    """What is kept of a segment."""

    run: bytes
    number: int
    hash: bytes
    previous: bytes | Previous | str
    first_seq: int | None
    last_seq: int | None
    events: int
    wall_ms: int | None


def check(segments: Iterable[Sealed]) -> ChainReport:
    """Look at all segments of one device, in any order, duplicates allowed."""
    return _Check(segments).report()


class _Check:
    def __init__(self, segments: Iterable[Sealed]) -> None:
        self.nodes: dict[bytes, _Node] = {}
        self.runs: dict[bytes, dict[int, list[_Node]]] = {}
        self.thinned: dict[bytes, list[Tombstone]] = {}
        self.lost_events: dict[bytes, list[Tombstone]] = {}
        self.gaps: list[Gap] = []
        self.forks: list[Fork] = []
        self.breaks: list[Break] = []
        self.heads: list[Head] = []
        self.holed: list[tuple[_Node, list[int]]] = []
        """Segments whose events do not follow each other: alarms stored while telemetry was refused."""
        seen: set[Tombstone] = set()
        for sealed in segments:
            self._add(sealed, seen)
        self.tombstones = seen

    def _add(self, sealed: Sealed, seen: set[Tombstone]) -> None:
        digest, content = sealed.hash, sealed.segment
        if digest in self.nodes:
            return
        seqs = [event.seq for event in content.events]
        walls = [e.stamp.wall_ns for e in content.events if e.stamp.wall_ns is not None]
        node = _Node(
            content.run, content.number, digest, content.previous, seqs[0] if seqs else None,
            seqs[-1] if seqs else None, len(seqs), walls[-1] // 1_000_000 if walls else None,
        )  # fmt: skip
        self.nodes[digest] = node
        self.runs.setdefault(content.run, {}).setdefault(content.number, []).append(node)
        for tombstone in content.tombstones:
            if tombstone not in seen:
                seen.add(tombstone)
                kind = self.thinned if tombstone.reason is Lost.THINNED else self.lost_events
                kind.setdefault(tombstone.run, []).append(tombstone)
        if any(b != a + 1 for a, b in itertools.pairwise(seqs)):
            self.holed.append((node, seqs))

    def _break(self, node: _Node, text: str) -> None:
        self.breaks.append(Break(node.run, node.number, text))

    def report(self) -> ChainReport:
        for run, numbers in self.runs.items():
            for number in sorted(numbers):
                self._place(run, number, numbers)
        self._openings()
        for node, seqs in self.holed:
            if seqs != sorted(set(seqs)) or not _Spans(self.lost_events.get(node.run, ())).cover_between(
                seqs
            ):
                self._break(node, "events are missing inside the segment without a word")
        lost = {
            reason: sum(t.count for t in self.tombstones if t.reason is reason)
            for reason in sorted({t.reason for t in self.tombstones})
        }
        return ChainReport(
            len(self.nodes), sum(node.events for node in self.nodes.values()), tuple(lost.items()),
            tuple(self.heads[:MAX_FINDINGS]), self._tips(), tuple(self.gaps[:MAX_FINDINGS]),
            tuple(self.forks[:MAX_FINDINGS]), tuple(self.breaks[:MAX_FINDINGS]),
        )  # fmt: skip

    def _place(self, run: bytes, number: int, numbers: dict[int, list[_Node]]) -> None:
        """Hold all segments of one (run, number) against what is before them."""
        here = numbers[number]
        if len(here) > 1:
            self.forks.append(Fork(run, number, tuple(sorted(node.hash for node in here))))
        if number == 0:
            return
        before = numbers.get(number - 1)
        for node in here:
            if before is not None:
                self._follows(node, before)
            else:
                self._over_missing(node, numbers)

    def _follows(self, node: _Node, before: Sequence[_Node]) -> None:
        parent = next((b for b in before if b.hash == node.previous), None)
        if parent is None:
            self._break(node, "names another segment before it than the one that is here")
        elif parent.last_seq is not None and node.first_seq is not None:
            self._continues(node, parent.last_seq + 1, thinned=0)

    def _continues(self, node: _Node, expected: int, *, thinned: int) -> None:
        """The first event of `node` follows `expected`, but for what is told missing."""
        assert node.first_seq is not None
        if node.first_seq < expected + thinned:
            self._break(node, f"event {node.first_seq} is there twice")
        elif node.first_seq > expected + thinned:
            told = _Spans(self.lost_events.get(node.run, ()))
            if told.count(expected, node.first_seq - 1) + thinned != node.first_seq - expected:
                self._break(
                    node, f"events from {expected} to {node.first_seq - 1} are missing without a word"
                )

    def _over_missing(self, node: _Node, numbers: dict[int, list[_Node]]) -> None:
        """Close the chain from `node` down to the next segment that is here, over tombstones."""
        spans = self.thinned.get(node.run, [])
        at, digest, thinned = node.number - 1, node.previous, 0
        while True:
            if (present := numbers.get(at)) is not None:
                parent = next((b for b in present if b.hash == digest), None)
                if parent is None:
                    self._break(node, f"the tombstones before it do not close over segment {at}")
                elif parent.last_seq is not None and node.first_seq is not None:
                    self._continues(node, parent.last_seq + 1, thinned=thinned)
                return
            fits = [t for t in spans if t.last == at and t.hash_end == digest]
            if not fits:
                self._missing(node, at, numbers, spans)
                return
            # The narrowest first: it never jumps over a segment that is here after all.
            t = max(fits, key=lambda t: t.first)
            at, digest, thinned = t.first - 1, t.hash_before, thinned + t.count
            if at < 0:
                self._break(node, "its tombstone hides the first segment of the run, which is never dropped")
                return

    def _missing(
        self, node: _Node, at: int, numbers: dict[int, list[_Node]], spans: Sequence[Tombstone]
    ) -> None:
        below = max((n for n in numbers if n < at), default=None)
        told = _Spans(spans)
        if below is None:
            self.heads.append(Head(node.run, node.number, "the first segment of its run that is here"))
        elif told.count(below + 1, at) == at - below:
            self._break(node, "the hashes of its tombstones do not fit")
        else:
            self.gaps += [Gap(node.run, first, last) for first, last in told.holes(below + 1, at)]

    def _openings(self) -> None:
        """How runs follow each other."""
        following: dict[bytes, list[tuple[int, _Node]]] = {}
        for run, numbers in self.runs.items():
            for node in numbers.get(0, ()):
                before = node.previous
                if isinstance(before, Previous) and before.run in self.runs:
                    following.setdefault(before.run, []).append((before.number, node))
                    self._end_of_run(node, before)
                elif isinstance(before, Previous | str):
                    self.heads.append(Head(run, 0, before))
        for run, places in following.items():
            if len({node.run for _, node in places}) > 1:
                number = min(number for number, _ in places)
                self.forks.append(Fork(run, number + 1, tuple(sorted({node.hash for _, node in places}))))

    def _end_of_run(self, node: _Node, before: Previous) -> None:
        """Segment 0 of a run says how far the run before it went; hold that against what is here."""
        numbers = self.runs[before.run]
        last = max(numbers)
        if last > before.number:
            hashes = sorted(
                {node.hash, *(n.hash for n in numbers[min(n for n in numbers if n > before.number)])}
            )
            self.forks.append(Fork(before.run, before.number + 1, tuple(hashes)))
        elif last == before.number:
            parents = [n for n in numbers[last] if n.hash == before.hash]
            if not parents:
                self._break(node, "names another end of the run before it than the one that is here")
            elif parents[0].last_seq is not None:
                self._tail(node, before.run, parents[0].last_seq + 1)
        else:
            end = _Node(before.run, before.number + 1, b"", before.hash, None, None, 0, None)
            self._over_missing(end, numbers)

    def _tail(self, node: _Node, run: bytes, expected: int) -> None:
        """What a crash cost follows directly on what was accepted."""
        crash = [t.first for t in self.lost_events.get(run, ()) if t.reason is Lost.CRASH]
        refused = _Spans(t for t in self.lost_events.get(run, ()) if t.reason is Lost.REFUSED_FULL)
        if crash and min(crash) > expected:
            between = min(crash) - expected
            if refused.count(expected, min(crash) - 1) != between:
                self._break(
                    node, f"events from {expected} of the run before it were accepted and are missing"
                )

    def _tips(self) -> tuple[Tip, ...]:
        followed = {
            node.previous.run
            for numbers in self.runs.values()
            for node in numbers.get(0, ())
            if isinstance(node.previous, Previous)
        }
        return tuple(
            Tip(run, max(numbers), node.hash, node.wall_ms)
            for run, numbers in self.runs.items()
            if run not in followed
            for node in numbers[max(numbers)]
        )


class _Spans:
    """Inclusive ranges of numbers, joined."""

    def __init__(self, tombstones: Iterable[Tombstone]) -> None:
        self._spans: list[tuple[int, int]] = []
        for first, last in sorted((t.first, t.last) for t in tombstones):
            if self._spans and first <= self._spans[-1][1] + 1:
                self._spans[-1] = (self._spans[-1][0], max(last, self._spans[-1][1]))
            else:
                self._spans.append((first, last))

    def count(self, first: int, last: int) -> int:
        """How many of first .. last are in a range."""
        return sum(max(min(b, last) - max(a, first) + 1, 0) for a, b in self._spans)

    def holes(self, first: int, last: int) -> list[tuple[int, int]]:
        """The parts of first .. last that are in no range."""
        holes: list[tuple[int, int]] = []
        at = first
        for a, b in self._spans:
            if b < at or a > last:
                continue
            if a > at:
                holes.append((at, a - 1))
            at = b + 1
        if at <= last:
            holes.append((at, last))
        return holes

    def cover_between(self, numbers: Sequence[int]) -> bool:
        """Every number left out between neighbours of `numbers` is in a range."""
        pairs = itertools.pairwise(numbers)
        return all(self.count(a + 1, b - 1) == b - a - 1 for a, b in pairs)
