"""Cases: who may do what in which state, the fold over the set of acts, severity, ids."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_sync import casework
from cloud_sync.casework import Act, Case, CaseKey, Ref, State, Verb, allowed, check, fold, severity
from cloud_sync.errors import BadRequest, NotFound
from cloud_sync.runtime.serve import schemas
from firmware_bridge.wire import cbor
from models.verdict import Cause

ACCOUNTS = ("li", "wang")


def life(*verbs: Verb, closed: bool = False) -> Case:
    """The case after `verbs`."""
    return fold(acts(*verbs), device_closed=closed)


def acts(*verbs: Verb) -> list[Act]:
    return [
        Act(n, verb, "li", 1000 * n, "wang" if verb is Verb.ASSIGN else None, "why")
        for n, verb in enumerate(verbs, 1)
    ]


def test_names_are_those_of_the_api() -> None:
    assert {str(state) for state in State} == set(schemas.CaseState.__args__)
    assert {str(verb) for verb in Verb} == set(schemas.CaseVerb.__args__)
    assert schemas.MAX_NOTE_CHARS == casework.MAX_NOTE_CHARS


def test_a_life() -> None:
    assert life().state is State.OPEN
    assert life(Verb.ACKNOWLEDGE).state is State.ACKNOWLEDGED
    case = life(Verb.ACKNOWLEDGE, Verb.ASSIGN)
    assert (case.state, case.assignee, case.version, case.verdict) == (State.ASSIGNED, "wang", 2, None)
    case = life(Verb.ACKNOWLEDGE, Verb.ASSIGN, Verb.CONFIRM, Verb.NOTE)
    assert (case.state, case.assignee, case.version, case.verdict) == (State.CONFIRMED, "wang", 4, True)
    assert life(Verb.CONFIRM, Verb.ASSIGN).state is State.CONFIRMED
    assert life(Verb.CONFIRM, Verb.REFUTE).verdict is False
    case = life(Verb.ASSIGN, Verb.REFUTE, Verb.CLOSE)
    assert (case.state, case.verdict, case.assignee) == (State.CLOSED, False, "wang")
    case = life(Verb.ASSIGN, Verb.REFUTE, Verb.CLOSE, Verb.REOPEN)
    assert (case.state, case.verdict, case.assignee, case.version) == (State.OPEN, None, None, 4)


def test_what_the_device_closed_and_nobody_acted_upon_is_closed() -> None:
    assert life(closed=True).state is State.CLOSED
    assert life(Verb.NOTE, closed=True).state is State.CLOSED
    assert life(Verb.ESCALATE, closed=True).state is State.ESCALATED
    assert Verb.CLOSE in allowed(life(Verb.ESCALATE, closed=True))
    assert Verb.CLOSE not in allowed(life(Verb.ESCALATE))
    assert {Verb.CONFIRM, Verb.REFUTE, Verb.REOPEN} <= set(allowed(life(closed=True)))
    assert life(Verb.CONFIRM, closed=True).state is State.CONFIRMED


@given(st.lists(st.sampled_from(list(Verb)), max_size=8), st.booleans(), st.integers())
def test_the_fold_depends_on_the_set_of_acts(verbs: list[Verb], closed: bool, seed: int) -> None:
    made = acts(*verbs)
    mixed = [*made, *made[::2]]
    random.Random(seed).shuffle(mixed)
    assert fold(mixed, device_closed=closed) == fold(made, device_closed=closed)


def reachable(closed: bool) -> list[Case]:
    """Every different case that allowed acts can reach in four steps."""
    seen: dict[tuple[State, bool | None], tuple[Verb, ...]] = {}
    paths: list[tuple[Verb, ...]] = [()]
    while paths:
        path = paths.pop(0)
        case = life(*path, closed=closed)
        if (case.state, case.verdict) not in seen:
            seen[case.state, case.verdict] = path
            paths += [(*path, verb) for verb in allowed(case) if len(path) < 4]
    return [life(*path, closed=closed) for path in seen.values()]


@pytest.mark.parametrize("closed", [False, True])
def test_every_state_takes_what_the_table_says_and_refuses_the_rest(closed: bool) -> None:
    cases = reachable(closed)
    assert {case.state for case in cases} == set(State)
    for case, verb in itertools.product(cases, Verb):
        name = "li" if verb is Verb.ASSIGN else None
        if verb in allowed(case):
            assert check(case, verb, note="why", assignee=name, accounts=ACCOUNTS)[0] is verb
        else:
            with pytest.raises(BadRequest, match=f"is {case.state} cannot take '{verb}'"):
                check(case, verb, note="why", assignee=name, accounts=ACCOUNTS)
        assert Verb.NOTE in allowed(case)
        if verb is Verb.CLOSE and verb in allowed(case):
            assert case.device_closed or case.verdict is not None


@pytest.mark.parametrize("verb", sorted(casework.NEEDS_NOTE))
def test_what_needs_a_note_is_refused_without(verb: Verb) -> None:
    case = next(case for case in reachable(False) if verb in allowed(case))
    with pytest.raises(BadRequest, match="needs a note"):
        check(case, verb, note=" \n", assignee=None, accounts=ACCOUNTS)


@pytest.mark.parametrize(
    ("action", "note", "assignee", "message"),
    [
        ("assign", "", None, "needs the account"),
        ("assign", "", "", "needs the account"),
        ("assign", "", "mallory", "cannot take this incident"),
        ("acknowledge", "", "li", "names nobody"),
        ("note", "x" * 2001, None, "2001 characters"),
        ("note", "a\x1b[31mred", None, "control characters"),
        ("note", "\u202etxt", None, "control characters"),
        ("shrug", "why", None, "is not an action"),
        ("", "why", None, "is not an action"),
    ],
)
def test_bad_acts_say_what_is_amiss(action: str, note: str, assignee: str | None, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        check(life(), action, note=note, assignee=assignee, accounts=ACCOUNTS)


def test_an_acknowledgement_needs_no_note_and_a_note_is_trimmed() -> None:
    assert check(life(), "acknowledge", note="", assignee=None, accounts=()) == (Verb.ACKNOWLEDGE, "", None)
    assert (
        check(life(), "note", note=" 借款人说在修车厂。\n ", assignee=None, accounts=())[1]
        == "借款人说在修车厂。"
    )


def test_a_case_takes_so_many_acts() -> None:
    full = fold(Act(n, Verb.NOTE, "li", n, None, "x") for n in range(1, casework.MAX_ACTS + 1))
    assert allowed(full) == ()
    with pytest.raises(BadRequest, match="1000 entries"):
        check(full, "note", note="one more", assignee=None, accounts=())


def test_ids() -> None:
    ref = Ref("car-1", bytes(range(16)), 7)
    assert casework.parse_id(str(ref)) == ref


@pytest.mark.parametrize(
    "text",
    [
        "", "car-1", "car-1..1", f"car-1.{'0' * 31}.1", f"car-1.{'0' * 32}.01", f"car-1.{'A' * 32}.1",
        f"Car.{'0' * 32}.1", f"car-1.{'0' * 32}.-1", f"car-1.{'0' * 32}.9999999999", f"car-1.{'0' * 32}.1\n",
        f"car-1.{'0' * 32}.1' OR 1=1", "<b>." + "0" * 32 + ".1",
    ],
)  # fmt: skip
def test_other_texts_name_no_incident(text: str) -> None:
    with pytest.raises(NotFound):
        casework.parse_id(text)


def test_severity_is_the_table() -> None:
    table = {
        Cause.MOVED_WITHOUT_WHEELS: (600, 800, 1000), Cause.REMOVED_OR_OPENED: (562, 750, 950),
        Cause.LEFT_REGION: (375, 500, 700), Cause.JAMMED: (300, 400, 600), Cause.SILENT: (188, 250, 450),
    }  # fmt: skip
    for cause, (half, whole, pledged) in table.items():
        assert severity(cause, 0.5) == half
        assert severity(cause, 1.0) == whole
        assert severity(cause, 1.0, pledged=True) == pledged
    assert set(table) == set(Cause)


@given(st.sampled_from(list(Cause)), st.floats(allow_nan=False), st.booleans())
def test_severity_stays_on_its_scale(cause: Cause, confidence: float, pledged: bool) -> None:
    assert 0 <= severity(cause, confidence, pledged=pledged) <= 1000


def test_no_text_of_a_body_but_the_device_stands_at_its_top() -> None:
    act = Act(3, Verb.ASSIGN, "car-9", 5, "car-8", "car-7")
    body = casework.body(
        Ref("car-1", bytes(16), 1),
        act,
        role="operator",
        cause=Cause.JAMMED,
        segment=bytes(32),
        state=State.ASSIGNED,
    )
    assert [value for value in body.values() if isinstance(value, str)] == ["car-1"]
    assert body[CaseKey.AUTHOR] == ["car-9", "operator"]
    assert body[CaseKey.ACTION] == ["assign", "assigned"]
    assert cbor.decode(cbor.encode(body), max_bytes=10_000) == body
