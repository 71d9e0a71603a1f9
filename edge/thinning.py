"""Which sealed telemetry segments go when the outbox is over its bounds, and what stands for them.

Whole segments of lane 1 only, oldest first, k-1 of each k, so that what is left still shows the course of
things and old data grows sparser each time. Alarms (lane 0), and so the first segment of each run, are
never dropped. Telemetry past its age is dropped whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edge.segment import Lost, Tombstone

FREE_PERMILLE: Final = 900
"""Thinning goes on until this much of the bound is used, so that it does not run at each commit."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One telemetry segment in the outbox."""

    id: int
    run: bytes
    number: int
    hash: bytes
    previous: bytes
    events: int
    from_mono_ns: int
    to_mono_ns: int
    size: int
    """Bytes it holds in the store."""
    created_ns: int
    """Wall time of the node when it was sealed; 0 where that was not known."""


def choose(
    candidates: Sequence[Candidate],
    *,
    live_bytes: int,
    max_bytes: int,
    keep_one_in: int,
    now_wall_ns: int | None,
    max_age_s: int,
) -> list[Candidate]:
    """What to drop of `candidates` (oldest first). `now_wall_ns` only where it can be trusted."""
    dropped: dict[int, Candidate] = {}
    if now_wall_ns is not None:
        oldest = now_wall_ns - max_age_s * 1_000_000_000
        dropped = {c.id: c for c in candidates if 0 < c.created_ns < oldest}
    if live_bytes > max_bytes:
        excess = live_bytes - max_bytes * FREE_PERMILLE // 1000 - sum(c.size for c in dropped.values())
        left = [c for c in candidates if c.id not in dropped]
        while excess > 0 and len(left) > 1:
            kept: list[Candidate] = []
            for place, candidate in enumerate(left):
                # The newest always stays: it is the one place where the car was last.
                if excess <= 0 or place % keep_one_in == keep_one_in - 1 or candidate is left[-1]:
                    kept.append(candidate)
                else:
                    dropped[candidate.id] = candidate
                    excess -= candidate.size
            if len(kept) == len(left):
                break
            left = kept
    return sorted(dropped.values(), key=lambda c: c.id)


def tombstones(dropped: Sequence[Candidate]) -> list[Tombstone]:
    """One tombstone for each unbroken range of numbers in `dropped`."""
    result: list[Tombstone] = []
    for c in sorted(dropped, key=lambda c: (c.run, c.number)):
        result.append(
            Tombstone(
                Lost.THINNED,
                c.run,
                c.number,
                c.number,
                c.events,
                c.from_mono_ns,
                c.to_mono_ns,
                c.previous,
                c.hash,
            )
        )
    return merge(result)


def merge(items: Sequence[Tombstone]) -> list[Tombstone]:
    """`items` with neighbouring thinned ranges joined, the rest as it is and in its order."""
    thinned = sorted((t for t in items if t.reason is Lost.THINNED), key=lambda t: (t.run, t.first))
    result: list[Tombstone] = [t for t in items if t.reason is not Lost.THINNED]
    for t in thinned:
        before = result[-1] if result else None
        if (
            before is not None
            and before.reason is Lost.THINNED
            and before.run == t.run
            and before.last + 1 == t.first
            and before.hash_end == t.hash_before
        ):
            result[-1] = Tombstone(
                Lost.THINNED, t.run, before.first, t.last, before.count + t.count,
                min(before.from_mono_ns, t.from_mono_ns), max(before.to_mono_ns, t.to_mono_ns),
                before.hash_before, t.hash_end,
            )  # fmt: skip
        else:
            result.append(t)
    return result
