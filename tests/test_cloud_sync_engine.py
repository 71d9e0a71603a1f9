"""The embedded engine: versions, races, and the statement each transition becomes."""

from __future__ import annotations

import hashlib
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_sync.ledger import contract
from cloud_sync.ledger.engine import (
    ABSENT,
    Call,
    MemoryState,
    Outcome,
    TitleKey,
    simulate,
    statement_body,
    title_of,
)
from cloud_sync.ledger.errors import Conflict, Refused, WrongState
from firmware_bridge.wire import cbor


def h(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


TOKEN, OWNER, LOAN, OTHER_LOAN = h("token"), h("owner"), h("loan"), h("other loan")


def call(function: str, *args: str, org: str = "registry", role: str = "registry", time_ms: int = 0) -> Call:
    return Call(function, args, org, role, time_ms)


def minted() -> MemoryState:
    state = MemoryState()
    state.commit(simulate(state, call("MintWithTokenURI", TOKEN, OWNER, "")))
    return state


def test_simulation_changes_nothing() -> None:
    state = MemoryState()
    outcome = simulate(state, call("MintWithTokenURI", TOKEN, OWNER, ""))
    assert state.read(contract.title_key(TOKEN)) == (None, ABSENT)
    assert outcome.reads == {contract.title_key(TOKEN): ABSENT}
    assert simulate(state, outcome.call) == outcome


def test_a_refused_call_writes_nothing() -> None:
    state = minted()
    before = state.read(contract.title_key(TOKEN))
    with pytest.raises(WrongState):
        simulate(state, call("MintWithTokenURI", TOKEN, h("thief"), ""))
    assert state.read(contract.title_key(TOKEN)) == before


def test_of_two_pledges_on_one_snapshot_one_wins() -> None:
    state = minted()
    first = simulate(state, call("ProposeLien", TOKEN, LOAN, org="bank", role="lender"))
    second = simulate(state, call("ProposeLien", TOKEN, OTHER_LOAN, org="bank-2", role="lender"))
    state.commit(first)
    with pytest.raises(Conflict, match="read it again"):
        state.commit(second)
    assert state.keys("loan/") == [contract.loan_key(LOAN)]
    with pytest.raises(WrongState, match="PROPOSED"):
        simulate(state, second.call)


def test_two_mints_of_one_vehicle_on_one_snapshot_one_wins() -> None:
    state = MemoryState()
    outcomes = [simulate(state, call("MintWithTokenURI", TOKEN, h(name), "")) for name in "ab"]
    state.commit(outcomes[0])
    with pytest.raises(Conflict):
        state.commit(outcomes[1])
    assert state.keys("title/") == [contract.title_key(TOKEN)]


def test_one_loan_on_two_vehicles_on_one_snapshot_one_wins() -> None:
    state = minted()
    other = h("other token")
    state.commit(simulate(state, call("MintWithTokenURI", other, OWNER, "")))
    outcomes = [
        simulate(state, call("ProposeLien", token, LOAN, org="bank", role="lender"))
        for token in (TOKEN, other)
    ]
    state.commit(outcomes[1])
    with pytest.raises(Conflict):
        state.commit(outcomes[0])


@given(st.permutations(range(8)))
def test_of_eight_racing_pledges_exactly_one_wins(order: list[int]) -> None:
    state = minted()
    outcomes = [
        simulate(state, call("ProposeLien", TOKEN, h(f"loan {n}"), org=f"bank-{n}", role="lender"))
        for n in range(8)
    ]
    won = []
    for n in order:
        try:
            state.commit(outcomes[n])
            won.append(n)
        except Conflict:
            continue
    assert won == [order[0]]


def test_versions_count_up() -> None:
    state = minted()
    key = contract.title_key(TOKEN)
    assert state.read(key)[1] == 0
    state.commit(simulate(state, call("ProposeLien", TOKEN, LOAN, org="bank", role="lender")))
    assert state.read(key)[1] == 1


def test_a_question_must_not_write() -> None:
    def writes(ctx: contract.Ctx, args: object) -> str:
        ctx.put("x", b"1")
        return ""

    functions = dict(contract.FUNCTIONS)
    functions["Sneak"] = contract.Function((), (), False, writes)
    original = contract.FUNCTIONS
    try:
        contract.FUNCTIONS = functions  # type: ignore[misc]
        with pytest.raises(Refused, match="must not write"):
            simulate(MemoryState(), call("Sneak"))
    finally:
        contract.FUNCTIONS = original  # type: ignore[misc]


def path() -> list[Outcome]:
    """A title's life up to an alert, as outcomes."""
    state = MemoryState()
    out = []
    for one in (
        call("MintWithTokenURI", TOKEN, OWNER, "u"),
        call("ProposeLien", TOKEN, LOAN, org="bank", role="lender"),
        call("ConsentLien", TOKEN, LOAN, org="fund", role="guarantor"),
        call("ConsentLien", TOKEN, LOAN),
        call("ReportAlert", TOKEN, h("segment"), "removed_or_opened", org="collector", role="oracle"),
    ):
        out.append(simulate(state, one))
        state.commit(out[-1])
    return out


def test_statements_chain_and_say_who_did_what() -> None:
    bodies = [statement_body(outcome) for outcome in path()]
    states = [(body[TitleKey.FROM], body[TitleKey.TO]) for body in bodies]
    assert states == [
        (None, "FREE"), ("FREE", "PROPOSED"), ("PROPOSED", "PROPOSED"), ("PROPOSED", "PLEDGED"),
        ("PLEDGED", "ALERT"),
    ]  # fmt: skip
    assert [body[TitleKey.NUMBER] for body in bodies] == [0, 1, 2, 3, 4]
    for earlier, later in itertools.pairwise(bodies):
        assert later[TitleKey.BEFORE] == earlier[TitleKey.AFTER]
    assert bodies[0][TitleKey.BEFORE] is None
    assert bodies[1][TitleKey.ARGS] == [bytes.fromhex(LOAN)]
    assert bodies[3][TitleKey.EVENTS] == ["Locked"]
    assert bodies[4][TitleKey.ARGS] == [hashlib.sha256(b"segment").digest()]
    assert bodies[4][TitleKey.CAUSE] == "removed_or_opened"
    assert (bodies[4][TitleKey.ORG], bodies[4][TitleKey.ROLE]) == ("collector", "oracle")


def test_a_body_is_what_signed_cbor_may_hold() -> None:
    for outcome in path():
        body = statement_body(outcome)
        assert cbor.decode(cbor.encode(body)) == body
        assert all(type(key) is int for key in body)


def test_title_of_an_outcome() -> None:
    outcome = path()[1]
    title = title_of(outcome)
    assert title is not None
    assert title == json.loads(outcome.answer)
    state = minted()
    assert title_of(simulate(state, call("OwnerOf", TOKEN))) is None
