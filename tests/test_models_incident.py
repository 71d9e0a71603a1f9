from __future__ import annotations

import pytest

from models.geo import Place
from models.incident import MAX_EVIDENCE, Book, Claim, confidence, duration, ground, metres
from models.limits import Limits
from models.verdict import Action, Cause

S = 1_000_000_000
TOW = Cause.MOVED_WITHOUT_WHEELS
A = ground("a", "position", 0.5, "one")
B = ground("b", "tyres", 0.5, "two")


def test_one_incident_a_cause_numbered_from_one() -> None:
    book = Book(Limits())
    first = book.claim(TOW, Claim(5, "x", (A,)), 10, Place(1.0, 2.0))
    second = book.claim(Cause.JAMMED, Claim(7, "y", (B,)), 11, None)
    assert first is not None and second is not None
    assert (first.incident, first.action, first.since_ns, first.t_ns) == (1, Action.OPENED, 5, 10)
    assert (first.lat_deg, first.lon_deg) == (1.0, 2.0)
    assert second.incident == 2
    assert [v.incident for v in book.verdicts()] == [1, 2]


def test_the_same_again_says_nothing_however_often() -> None:
    book = Book(Limits())
    book.claim(TOW, Claim(0, "x", (A,)), 0, None)
    assert all(book.claim(TOW, Claim(0, "x", (A,)), t * S, None) is None for t in range(1000))


def test_news_is_told_once_and_not_more_often_than_allowed() -> None:
    book = Book(Limits())
    book.claim(TOW, Claim(0, "x", (A,)), 0, None)
    assert book.claim(TOW, Claim(0, "x", (A, B)), 1 * S, None) is None
    told = book.claim(TOW, Claim(0, "y", (A,)), 31 * S, None)
    assert told is not None and told.action is Action.UPDATED
    assert [e.text for e in told.evidence] == ["one", "two"]
    assert told.confidence == pytest.approx(0.75)


def test_a_doubled_figure_is_material_but_updates_end() -> None:
    limits = Limits(max_updates=5)
    book = Book(limits)
    book.claim(TOW, Claim(0, "x", (A,), 10.0), 0, None)
    told = [book.claim(TOW, Claim(0, "x", (A,), 10.0 * 2**n), n * 40 * S, None) for n in range(1, 20)]
    assert sum(v is not None for v in told) == 5


def test_folding_adds_grounds_once() -> None:
    book = Book(Limits())
    book.claim(TOW, Claim(0, "It moved.", (A,)), 0, None)
    told = book.fold(TOW, (B,), 5, None)
    assert told is not None and told.sentence == "It moved. Since then: two."
    assert book.fold(TOW, (B,), 6, None) is None


def test_closing_ends_it_and_the_next_has_a_new_number() -> None:
    book = Book(Limits())
    book.claim(TOW, Claim(0, "x", (A,)), 0, None)
    closed = book.close(TOW, "over", 9, None)
    assert (closed.action, closed.incident, closed.sentence) == (Action.CLOSED, 1, "over")
    assert TOW not in book and book.verdicts() == []
    again = book.claim(TOW, Claim(0, "x", (A,)), 10, None)
    assert again is not None and again.incident == 2


def test_evidence_is_bounded() -> None:
    book = Book(Limits())
    many = tuple(ground(str(n), "radio", 0.1, "t") for n in range(50))
    told = book.claim(TOW, Claim(0, "x", many), 0, None)
    assert told is not None and len(told.evidence) == MAX_EVIDENCE


def test_two_words_of_one_sensor_are_one_sensor() -> None:
    same = ground("c", "position", 0.5, "three")
    assert confidence([A, same]) == pytest.approx(0.5)
    assert confidence([A, B]) == pytest.approx(0.75)
    assert confidence([ground(str(n), str(n), 0.9, "") for n in range(9)]) == 0.99


def test_words() -> None:
    assert [duration(s) for s in (-1, 95, 200, 30_000)] == ["0 s", "95 s", "3 min", "8.3 h"]
    assert [metres(m) for m in (339.6, 2400)] == ["340 m", "2.4 km"]
