"""The story of an incident: what is known, what is not, what to do first."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_sync import story
from cloud_sync.casework import State, Verb
from cloud_sync.story import CODES, Facts, Seen, Told, Verdict, tell
from cloud_sync.words import parameters
from models.verdict import Cause

NOW_MS = 1_796_100_000_000
MINUTE_MS = 60_000
ALL = tuple(Verb)
WORDS = Path(__file__).parent.parent / "cloud_sync" / "page" / "words"

FACTS = Facts(
    now_ms=NOW_MS, device="car-1", cause=Cause.MOVED_WITHOUT_WHEELS, confidence=0.9, sensors=3,
    began_ms=NOW_MS - 2 * MINUTE_MS, unc_ms=100, source="gnss", ended_ms=None, log_index=41,
    state=State.OPEN, assignee=None, verdict=None, clock="live", title_state=None, pledged=False,
    placed=True, place="Depot", distance_m=1200, place_ms=NOW_MS - 3 * MINUTE_MS, sightings=(), tyres=4,
    tyres_ms=NOW_MS - MINUTE_MS, heard_ms=NOW_MS - MINUTE_MS, due_ms=NOW_MS + MINUTE_MS, missing=0, erased=0,
    complete_ms=NOW_MS - MINUTE_MS, may=ALL, exact=True,
)  # fmt: skip


def codes(told: Told) -> tuple[list[str], list[str], list[str]]:
    """Codes without their area."""
    known, unknown, then = (
        [code.rsplit(".", 1)[1] for code, _ in part] for part in (told.known, told.unknown, told.next)
    )
    return known, unknown, then


def params(told: Told, code: str) -> dict[str, Any]:
    return next(said for name, said in (*told.known, *told.unknown, *told.next) if name == code)


def test_a_fresh_tow() -> None:
    told = tell(FACTS)
    assert codes(told) == (
        ["logged", "began", "sensors", "position", "complete"],
        ["driver"],
        ["acknowledge", "call_borrower", "send", "refute"],
    )
    assert params(told, "story.known.logged") == {"device": "car-1", "index": 41}
    assert params(told, "story.known.began") == {
        "at": "2026-12-01T04:38:00.000Z", "unc_s": 0.1, "source": "gnss",
    }  # fmt: skip
    assert params(told, "story.known.sensors") == {"n": 3, "percent": 90}
    assert params(told, "story.next.send") == {"place": "Depot", "distance": 1200, "minutes": 3}


def test_nobody_took_it_and_a_roadside_node_heard_it_later() -> None:
    seen = (Seen("gantry-2", 2, NOW_MS - 20 * MINUTE_MS), Seen("gantry-9", 4, NOW_MS - 5 * MINUTE_MS))
    told = tell(
        replace(
            FACTS, began_ms=NOW_MS - 90 * MINUTE_MS, place_ms=NOW_MS - 80 * MINUTE_MS, sightings=seen,
            pledged=True, title_state="ALERT", heard_ms=NOW_MS - 80 * MINUTE_MS,
            due_ms=NOW_MS - 40 * MINUTE_MS, tyres_ms=NOW_MS - 85 * MINUTE_MS, missing=2,
        )
    )  # fmt: skip
    known, unknown, then = codes(told)
    assert known == ["logged", "began", "sensors", "sighted", "sighted", "pledged"]
    assert unknown == ["place_now", "driver", "after", "missing"]
    assert then == ["acknowledge_late", "call_borrower", "start_at_node", "old_position"]
    assert params(told, "story.known.sighted")["node"] == "gantry-9"
    assert params(told, "story.next.start_at_node")["node"] == "gantry-9"
    assert params(told, "story.next.acknowledge_late") == {"minutes": 90}
    assert params(told, "story.next.old_position")["minutes"] == 80


def test_a_sighting_before_the_last_position_leads_nowhere() -> None:
    told = tell(replace(FACTS, sightings=(Seen("gantry-2", 2, NOW_MS - 20 * MINUTE_MS),)))
    assert "start_at_node" not in codes(told)[2]


@pytest.mark.parametrize("clock", ["replay", "simulated"])
def test_what_is_not_live_says_so_first(clock: str) -> None:
    told = tell(replace(FACTS, clock=clock))
    assert told.next[0] == ("story.next.not_live", {"clock": clock})
    for state in (State.OPEN, State.CONFIRMED):
        seen = (Seen("gantry-2", 2, NOW_MS - MINUTE_MS),)
        then = codes(tell(replace(FACTS, clock=clock, state=state, sightings=seen)))[2]
        assert not {"send", "send_coarse", "exact", "start_at_node", "old_position"} & set(then)


def test_doubt_is_said() -> None:
    told = tell(replace(FACTS, confidence=0.4, sensors=1, unc_ms=150_000, tyres=0, tyres_ms=None))
    assert codes(told)[1] == ["one_sensor", "driver", "tyres_none", "clock"]
    assert params(told, "story.unknown.clock") == {"minutes": 3}
    told = tell(replace(FACTS, unc_ms=None, source="received", placed=False, place_ms=None, place=None))
    assert codes(told)[0][:2] == ["logged", "began_received"]
    assert codes(told)[1] == ["place", "driver"]
    assert codes(told)[2] == ["acknowledge", "call_borrower", "refute"]


def test_not_yet_logged_is_not_called_logged() -> None:
    assert codes(tell(replace(FACTS, log_index=None)))[0][0] == "signed"


def test_silence_before_the_announced_time_is_to_be_waited_for() -> None:
    silent = replace(FACTS, cause=Cause.SILENT, may=())
    assert codes(tell(silent))[2] == ["wait", "call_silent", "technician"]
    overdue = replace(silent, due_ms=NOW_MS - 1)
    assert codes(tell(overdue))[2] == ["call_silent", "technician"]
    assert "after" in codes(tell(overdue))[1]


def test_after_a_verdict() -> None:
    yes = Verdict(True, "li", NOW_MS - 1000)
    confirmed = replace(FACTS, state=State.CONFIRMED, verdict=yes)
    known, unknown, then = codes(tell(confirmed))
    assert known[0] == "confirmed" and "driver" not in unknown
    assert then == ["report", "exact", "send"]
    assert "exact" not in codes(tell(replace(confirmed, exact=False)))[2]
    refuted = replace(FACTS, state=State.REFUTED, verdict=replace(yes, true=False))
    assert codes(tell(refuted))[2] == ["close"]
    assert codes(tell(replace(refuted, may=())))[2] == []


def test_after_its_end() -> None:
    ended = replace(FACTS, ended_ms=NOW_MS - MINUTE_MS, state=State.CLOSED)
    assert codes(tell(ended))[2] == ["verdict"]
    assert "ended" in codes(tell(ended))[0]
    judged = replace(ended, verdict=Verdict(False, "li", NOW_MS))
    assert codes(tell(judged))[2] == ["reopen"]
    assert codes(tell(replace(ended, state=State.ASSIGNED, assignee="wang")))[2] == [
        "ask_assignee",
        "verdict",
    ]


def test_a_reader_who_may_do_nothing_is_not_told_to() -> None:
    assert not {"acknowledge", "refute"} & set(codes(tell(replace(FACTS, may=())))[2])


def every() -> list[Facts]:
    """Facts that between them say everything there is to say."""
    out = []
    for cause, state, clock in itertools.product(Cause, State, ("live", "replay")):
        for ended, verdict in ((None, None), (NOW_MS, None), (NOW_MS, Verdict(True, "li", 1))):
            out.append(
                replace(
                    FACTS,
                    cause=cause,
                    state=state,
                    clock=clock,
                    ended_ms=ended,
                    assignee="li",
                    verdict=verdict,
                )
            )
    for verdict in (Verdict(True, "li", 1), Verdict(False, "li", 1)):
        out += [replace(FACTS, state=s, verdict=verdict, missing=0) for s in State]
    for late, lost in itertools.product((0, 90 * MINUTE_MS), (False, True)):
        for cause in Cause:
            out.append(
                replace(
                    FACTS, cause=cause, now_ms=NOW_MS + late, placed=not lost, place=None,
                    place_ms=None if lost else FACTS.place_ms, log_index=None if lost else 1,
                    unc_ms=None if lost else 900_000, tyres=0 if lost else 4, missing=3 * lost, erased=lost,
                    due_ms=NOW_MS + 600 * MINUTE_MS, pledged=True, title_state="PLEDGED",
                    sightings=(Seen("gantry", 1, NOW_MS),), confidence=0.9, state=State.ACKNOWLEDGED,
                )
            )  # fmt: skip
    out += [
        replace(FACTS, confidence=0.1), replace(FACTS, now_ms=NOW_MS + 90 * MINUTE_MS),
        replace(FACTS, erased=1), replace(FACTS, tyres=0, tyres_ms=None),
        replace(FACTS, pledged=True, title_state="PLEDGED"),
        replace(FACTS, tyres_ms=NOW_MS - 90 * MINUTE_MS), replace(FACTS, unc_ms=900_000),
        replace(FACTS, missing=1),
    ]  # fmt: skip
    return out


def test_the_table_holds_every_code_with_its_parameters_and_nothing_else() -> None:
    said: dict[str, set[tuple[str, ...]]] = {}
    for facts in every():
        told = tell(facts)
        assert len(told.known) <= story.MAX_KNOWN and len(told.unknown) <= story.MAX_UNKNOWN
        assert len(told.next) <= story.MAX_NEXT
        for code, values in (*told.known, *told.unknown, *told.next):
            said.setdefault(code, set()).add(tuple(values))
    assert {code: {names} for code, names in CODES.items()} == said


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_code_has_words_with_no_parameter_but_its_own(language: str) -> None:
    texts = json.loads((WORDS / language / "story.json").read_text("utf-8"))
    for code, names in CODES.items():
        assert parameters(texts[code]) <= set(names), code


ages = st.none() | st.integers(0, 10_000_000_000)


@given(
    st.builds(
        replace, st.just(FACTS), cause=st.sampled_from(list(Cause)), state=st.sampled_from(list(State)),
        began_ms=st.integers(0, 2 * NOW_MS), unc_ms=ages, due_ms=ages, place_ms=ages, tyres_ms=ages,
        confidence=st.floats(0, 1), sensors=st.integers(0, 9), may=st.sampled_from([(), ALL]),
    )
)  # fmt: skip
def test_no_facts_break_the_story(facts: Facts) -> None:
    told = tell(facts)
    for code, values in (*told.known, *told.unknown, *told.next):
        assert tuple(values) == CODES[code]
        assert all(not isinstance(value, (int, float)) or value >= 0 for value in values.values())
