from __future__ import annotations

import pytest

from edge.reconnect import Reconnects


def test_an_absent_broker_is_asked_at_growing_intervals() -> None:
    reconnects = Reconnects()
    waits = [reconnects.refused(1.0) for _ in range(12)]
    assert waits[:7] == [1, 2, 4, 8, 16, 32, 60]
    assert set(waits[7:]) == {60}
    assert reconnects.refused(0.0) == 30, "jitter spreads, and never to nothing"
    assert reconnects.ended(1000, 1.0) == 1, "a connection that lived begins anew"


def test_weeks_of_absence_stay_finite() -> None:
    reconnects = Reconnects()
    assert {reconnects.refused(1.0) for _ in range(5000)} <= {1, 2, 4, 8, 16, 32, 60}


def test_short_connections_in_a_row_mean_another_client() -> None:
    reconnects = Reconnects()
    assert reconnects.ended(2, 0.5) < 3
    assert reconnects.ended(2, 0.5) < 6
    assert not reconnects.conflict
    assert 60 <= reconnects.ended(2, 0.5) <= 90
    assert reconnects.conflict
    assert 60 <= reconnects.refused(0.0) <= 90
    assert reconnects.ended(89, 0.0) >= 60, "while the other waits a minute, ours lives that long"
    assert reconnects.conflict
    assert reconnects.ended(181, 1.0) == 1
    assert not reconnects.conflict


def test_a_segment_that_breaks_connections_is_no_other_client() -> None:
    reconnects = Reconnects()
    for _ in range(10):
        reconnects.ended(0.5, 0.5, blamed=True)
    assert not reconnects.conflict


@pytest.mark.parametrize("lived", [11.0, 61.0, 89.0])
def test_the_copy_that_lives_while_the_other_waits_notices_too(lived: float) -> None:
    reconnects = Reconnects()
    assert [reconnects.ended(lived, 1.0) for _ in range(2)] == [1, 1]
    assert not reconnects.conflict
    assert reconnects.ended(lived, 0.0) == 60
    assert reconnects.conflict
    for _ in range(20):
        assert reconnects.ended(90, 1.0) == 90, "as long as it goes on"
    reconnects.lives(179)
    assert reconnects.conflict
    reconnects.lives(180)
    assert not reconnects.conflict, "the remaining copy says so while it is connected"


def test_a_broker_that_is_restarted_is_no_other_client() -> None:
    reconnects = Reconnects()
    for _ in range(20):
        assert reconnects.ended(15, 1.0) == 1
        assert reconnects.refused(1.0) == 1
    assert reconnects.ended(15, 1.0) == 1
    assert not reconnects.conflict


def test_a_refusal_explains_one_end_alone() -> None:
    reconnects = Reconnects()
    reconnects.ended(15, 1.0)
    reconnects.ended(15, 1.0)
    for _ in range(5):
        reconnects.refused(1.0)
    reconnects.ended(15, 1.0)
    assert not reconnects.conflict
    reconnects.ended(15, 1.0)
    assert reconnects.conflict


def test_ends_far_apart_are_no_other_client() -> None:
    reconnects = Reconnects()
    for _ in range(20):
        reconnects.ended(30, 0.5)
        for _ in range(12):
            reconnects.ended(170, 0.5, ours=True)
    assert not reconnects.conflict


def test_connections_that_we_end_slow_down_and_accuse_nobody() -> None:
    reconnects = Reconnects()
    assert [reconnects.ended(0.1, 1.0, ours=True) for _ in range(7)] == [2, 4, 8, 16, 32, 60, 60]
    assert not reconnects.conflict


@pytest.mark.parametrize("jitter", [0.0, 0.3, 1.0])
def test_two_copies_connect_about_once_a_minute_each(jitter: float) -> None:
    """F19 on a fast clock: each connect ends the other's connection at once."""
    nodes = [Reconnects(), Reconnects()]
    connects: list[list[float]] = [[], []]
    due = [0.0, 0.4]
    since: list[float | None] = [None, None]
    while min(due) < 1800:
        who = due.index(min(due))
        now, other = due[who], 1 - who
        connects[who].append(now)
        since[who], due[who] = now, float("inf")
        began = since[other]
        if began is not None:
            since[other] = None
            due[other] = now + nodes[other].ended(now - began, (jitter * (1 + len(connects[other]))) % 1)
    for node, times in zip(nodes, connects, strict=True):
        assert node.conflict, "each of the two says so"
        assert len([t for t in times if t > 60]) <= 24, "less than one a minute"
    since = [None, None]
    assert nodes[0].ended(600, 0.5) <= 1, "the remaining copy runs normally"
