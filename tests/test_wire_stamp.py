"""Numbers that stand in signed records never change their meaning."""

from __future__ import annotations

import dataclasses

import pytest

from firmware_bridge.wire.stamp import NS, ClockKind, Stamp, TimeSource


def test_numbers_on_the_wire() -> None:
    assert {kind.name: int(kind) for kind in ClockKind} == {"LIVE": 0, "REPLAY": 1, "SIMULATED": 2}
    assert {source.name: int(source) for source in TimeSource} == {
        "NONE": 0,
        "FLOOR": 1,
        "HOST": 2,
        "HOST_SYNCED": 3,
        "GNSS": 4,
    }
    assert NS == 10**9


def test_sources_are_ordered_by_trust() -> None:
    assert max(TimeSource) is TimeSource.GNSS
    assert TimeSource.HOST < TimeSource.HOST_SYNCED


def test_a_stamp_cannot_be_changed_afterwards() -> None:
    stamp = Stamp(1, None, TimeSource.NONE, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stamp.wall_ns = 5  # type: ignore[misc]
    assert stamp == Stamp(1, None, TimeSource.NONE, 0)
    assert hash(stamp) == hash(Stamp(1, None, TimeSource.NONE, 0))
