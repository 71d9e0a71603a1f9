"""The contract's rules: one scenario suite for every engine, and properties over random calls."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_sync.ledger import contract
from cloud_sync.ledger.contract import CURE_MS, DAY_MS, FUNCTIONS, GRACE_MS
from cloud_sync.ledger.engine import Call, MemoryState, simulate
from cloud_sync.ledger.errors import NotAllowed, Refused, WrongState
from cloud_sync.runtime import fleet, title_state, titles
from cloud_sync.runtime.store import Store

Submit = Callable[[Call], bytes]
"""Runs one call to its end and returns the contract's JSON answer; raises Refused."""
KEY = ec.generate_private_key(ec.SECP256R1())


def h(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def memory_engine(folder: Path | None = None) -> Submit:
    state = MemoryState()

    def submit(call: Call) -> bytes:
        outcome = simulate(state, call)
        state.commit(outcome)
        return outcome.answer

    return submit


def sqlite_engine(folder: Path) -> Submit:
    store = Store(folder / "store.db")
    with store.transaction() as db:
        title_state.migrate(db)
        fleet.migrate(db)

    def submit(call: Call) -> bytes:
        if not FUNCTIONS[call.function].writes:
            return contract.canonical(title_state.ask(store.db, "fund-a", call.function, *call.args))
        return contract.canonical(titles.submit(store, "fund-a", call, KEY).title)

    return submit


ENGINES: dict[str, Callable[[Path], Submit]] = {"memory": memory_engine, "sqlite": sqlite_engine}

A, B = h("vehicle A"), h("vehicle B")
ALICE, BOB, CAROL = h("alice"), h("bob"), h("carol")
LOAN1, LOAN2 = h("loan 1"), h("loan 2")
E1, E2, E3, PLAN, PLAN2 = h("segment 1"), h("segment 2"), h("segment 3"), h("plan"), h("plan 2")
REG, BANK, FUND, ORACLE = (
    ("registry", "registry"),
    ("bank", "lender"),
    ("fund", "guarantor"),
    ("collector", "oracle"),
)


@dataclass(frozen=True)
class Step:
    """Who calls what, how many days after the start, and the state after it or the refusal."""

    who: tuple[str, str]
    function: str
    args: tuple[str, ...]
    then: str | type[Refused] | bool | int
    day: float = 0


def s(who: tuple[str, str], function: str, *args: str, then: Any, day: float = 0) -> Step:
    return Step(who, function, args, then, day)


SCENARIO = [
    s(BANK, "MintWithTokenURI", A, ALICE, "", then=NotAllowed),
    s(REG, "MintWithTokenURI", A, ALICE, "urn:x:1", then="FREE"),
    s(REG, "MintWithTokenURI", A, BOB, "", then=WrongState),
    s(("registry-2", "registry"), "MintWithTokenURI", A, BOB, "", then=WrongState),
    s(REG, "OwnerOf", B, then=WrongState),
    s(REG, "MintWithTokenURI", B, BOB, "", then="FREE"),
    s(REG, "TotalSupply", then=2),
    s(BANK, "ReleaseLien", A, then=WrongState),
    s(ORACLE, "ReportAlert", A, E1, "moved_without_wheels", then=WrongState),
    s(("registry", "lender"), "ProposeLien", A, LOAN1, then=NotAllowed),
    s(BANK, "ProposeLien", A, LOAN1, then="PROPOSED"),
    s(("bank-2", "lender"), "ProposeLien", A, LOAN2, then=WrongState),
    s(BANK, "ProposeLien", B, LOAN1, then=WrongState),
    s(BANK, "locked", A, then=False),
    s(REG, "TransferFrom", A, ALICE, CAROL, then=WrongState),
    s(("bank", "guarantor"), "ConsentLien", A, LOAN1, then=NotAllowed),
    s(FUND, "ConsentLien", A, LOAN2, then=Refused),
    s(FUND, "ConsentLien", A, LOAN1, then="PROPOSED"),
    s(FUND, "ConsentLien", A, LOAN1, then=WrongState),
    s(("bank-2", "lender"), "WithdrawLien", A, then=NotAllowed),
    s(("registry-2", "registry"), "ConsentLien", A, LOAN1, then=NotAllowed),
    s(REG, "ConsentLien", A, LOAN1, then="PLEDGED"),
    s(BANK, "locked", A, then=True),
    s(REG, "TransferFrom", A, ALICE, CAROL, then=WrongState),
    s(BANK, "WithdrawLien", A, then=WrongState),
    s(BANK, "Tick", A, then=WrongState, day=400),
    s(BANK, "ReportAlert", A, E1, "moved_without_wheels", then=NotAllowed),
    s(ORACLE, "ReportCure", A, E2, then=WrongState),
    s(ORACLE, "ReportAlert", A, E1, "moved_without_wheels", then="ALERT", day=400),
    s(ORACLE, "ReportAlert", A, E1, "moved_without_wheels", then=WrongState, day=400),
    s(ORACLE, "ReportAlert", A, E2, "removed_or_opened", then="ALERT", day=400.5),
    s(ORACLE, "ReportCure", A, E3, then="PLEDGED", day=401),
    s(ORACLE, "ReportAlert", A, h("segment 4"), "removed_or_opened", then="ALERT", day=402),
    s(FUND, "Tick", A, then=WrongState, day=404.9),
    s(FUND, "Tick", A, then="DEFAULT", day=405),
    s(FUND, "Tick", A, then=WrongState, day=434.9),
    s(REG, "Tick", A, then="DISPOSAL", day=435),
    s(BANK, "ReleaseLien", A, then=WrongState, day=435),
    s(BANK, "ApproveDisposal", A, PLAN, CAROL, then="DISPOSAL", day=436),
    s(("fund-2", "guarantor"), "ApproveDisposal", A, PLAN, CAROL, then=NotAllowed, day=436),
    s(FUND, "ApproveDisposal", A, PLAN2, CAROL, then="DISPOSAL", day=436),
    s(REG, "ApproveDisposal", A, PLAN, CAROL, then="DISPOSAL", day=436),
    s(FUND, "ApproveDisposal", A, PLAN, CAROL, then="FREE", day=437),
    s(BANK, "locked", A, then=False),
    s(REG, "TransferFrom", A, ALICE, BOB, then=Refused, day=438),
    s(("registry-2", "registry"), "TransferFrom", A, CAROL, BOB, then=NotAllowed, day=438),
    s(REG, "TransferFrom", A, CAROL, CAROL, then=Refused, day=438),
    s(REG, "TransferFrom", A, CAROL, BOB, then="FREE", day=438),
    s(REG, "BalanceOf", BOB, then=2),
    s(BANK, "ProposeLien", B, LOAN1, then="PROPOSED", day=439),
    s(BANK, "WithdrawLien", B, then="FREE", day=439),
    s(BANK, "ProposeLien", A, LOAN1, then="PROPOSED", day=439),
    s(REG, "ConsentLien", A, LOAN1, then="PROPOSED", day=439),
    s(FUND, "ConsentLien", A, LOAN1, then="PLEDGED", day=439),
    s(BANK, "ReleaseLien", A, then="FREE", day=440),
]


@pytest.mark.parametrize("engine", ENGINES)
def test_scenario(engine: str, tmp_path: Path) -> None:
    submit = ENGINES[engine](tmp_path)
    assert len(SCENARIO) >= 20
    for number, step in enumerate(SCENARIO, 1):
        call = Call(step.function, step.args, *step.who, int(step.day * DAY_MS))
        if isinstance(step.then, type):
            with pytest.raises(Refused) as caught:
                submit(call)
            assert caught.type is step.then, f"step {number} {step}: {caught.value}"
            continue
        answer = json.loads(submit(call))
        got = answer["state"] if isinstance(answer, dict) else answer
        assert got == step.then, f"step {number} {step}"


def test_engines_agree_on_every_byte(tmp_path: Path) -> None:
    one, other = memory_engine(), sqlite_engine(tmp_path)
    for step in SCENARIO:
        call = Call(step.function, step.args, *step.who, int(step.day * DAY_MS))
        results = []
        for submit in (one, other):
            try:
                results.append(submit(call))
            except Refused as error:
                results.append(f"{type(error).__name__}: {error}".encode())
        assert results[0] == results[1]


@pytest.mark.parametrize(
    ("function", "args", "says"),
    [
        ("Mint", (), "no function"),
        ("__class__", (), "no function"),
        ("MintWithTokenURI", (A, ALICE), "takes 3 arguments"),
        ("OwnerOf", (A, A), "takes 1 arguments"),
        ("OwnerOf", ("LTESTAAA5N0000001",), "64 lower-case hex"),
        ("OwnerOf", (A.upper(),), "64 lower-case hex"),
        ("OwnerOf", (A + "\n",), "64 lower-case hex"),
        ("MintWithTokenURI", (A, "Alice <b>", ""), "owner is 64"),
        ("MintWithTokenURI", (A, ALICE, "x" * 201), "at most 200"),
        ("MintWithTokenURI", (A, ALICE, "übel"), "ASCII"),
        ("MintWithTokenURI", (A, ALICE, "a\nb"), "printable"),
    ],
)
def test_odd_calls_are_refused(function: str, args: tuple[str, ...], says: str) -> None:
    with pytest.raises(Refused, match=says):
        simulate(MemoryState(), Call(function, args, *REG, 0))


@pytest.mark.parametrize("org", ["", "A", "a b", "<img src=x>", "a" * 64, "ä"])
def test_odd_organisations_are_refused(org: str) -> None:
    with pytest.raises(NotAllowed, match="not an organisation"):
        simulate(MemoryState(), Call("MintWithTokenURI", (A, ALICE, ""), org, "registry", 0))


def test_a_uri_with_html_is_only_data() -> None:
    submit = memory_engine()
    submit(Call("MintWithTokenURI", (A, ALICE, '"><script>alert(1)</script>'), *REG, 0))
    assert json.loads(submit(Call("TokenURI", (A,), *REG, 0))) == '"><script>alert(1)</script>'


def test_time_never_goes_back_within_a_title() -> None:
    submit = memory_engine()
    submit(Call("MintWithTokenURI", (A, ALICE, ""), *REG, 1000))
    title = json.loads(submit(Call("ProposeLien", (A, LOAN1), *BANK, 10)))
    assert title["updated_ms"] == title["since_ms"] == title["lien"]["proposed_ms"] == 1000


def test_evidence_of_one_lien_is_bounded() -> None:
    submit = memory_engine()
    pledge(submit)
    for n in range(contract.MAX_EVIDENCE):
        submit(Call("ReportAlert", (A, h(f"e{n}"), "removed_or_opened"), *ORACLE, n))
    with pytest.raises(Refused, match="already holds"):
        submit(Call("ReportAlert", (A, h("one more"), "removed_or_opened"), *ORACLE, 999))


def pledge(submit: Submit) -> None:
    for who, function, args in (
        (REG, "MintWithTokenURI", (A, ALICE, "")),
        (BANK, "ProposeLien", (A, LOAN1)),
        (FUND, "ConsentLien", (A, LOAN1)),
        (REG, "ConsentLien", (A, LOAN1)),
    ):
        submit(Call(function, args, *who, 0))


orgs = st.sampled_from(["registry", "bank", "bank-2", "fund", "collector"])
roles = st.sampled_from(["registry", "lender", "guarantor", "oracle", "admin"])
FITTING = {"registry": [REG], "lender": [BANK, ("bank-2", "lender")], "guarantor": [FUND], "oracle": [ORACLE]}
hashes = {
    "tokenId": st.sampled_from([A, B]), "loan": st.sampled_from([LOAN1, LOAN2]),
    "owner": st.sampled_from([ALICE, BOB]), "from": st.sampled_from([ALICE, BOB]),
    "to": st.sampled_from([ALICE, BOB]), "buyer": st.sampled_from([ALICE, BOB]), "plan": st.just(PLAN),
    "evidence": st.sampled_from([E1, E2, E3]), "cause": st.just("removed_or_opened"), "tokenURI": st.just(""),
}  # fmt: skip


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, tuple[str, ...], tuple[str, str], int]:
    function = draw(st.sampled_from([name for name, f in FUNCTIONS.items() if f.writes]))
    args = tuple(draw(hashes[param]) for param in FUNCTIONS[function].params)
    fitting = [who for role in FUNCTIONS[function].roles or ("registry",) for who in FITTING[role]]
    # Mostly who may, so that sequences come far; sometimes anybody, so that the rules are tried.
    who = draw(st.one_of(*[st.sampled_from(fitting)] * 4, st.tuples(orgs, roles)))
    return function, args, who, draw(st.sampled_from([0, GRACE_MS, CURE_MS]))


@settings(max_examples=150, deadline=None)
@given(st.lists(calls(), min_size=20, max_size=80))
def test_no_sequence_of_calls_breaks_the_pledge(sequence: list[Any]) -> None:
    state = MemoryState()
    now_ms = 0
    minted: set[str] = set()
    for function, args, who, wait_ms in sequence:
        now_ms += wait_ms
        before = {key: json.loads(state.read(key)[0] or b"null") for key in state.keys("title/")}
        try:
            outcome = simulate(state, Call(function, args, *who, now_ms))
        except Refused:
            continue
        state.commit(outcome)
        if function == "MintWithTokenURI":
            assert args[0] not in minted
            minted.add(args[0])
        old = before.get(f"title/{args[0]}")
        if function == "TransferFrom":
            assert old["state"] == "FREE", "a locked or claimed title was transferred"
        if function == "ProposeLien":
            assert old["lien"] is None, "a second lien"
        check_invariants(state, minted)


def check_invariants(state: MemoryState, minted: set[str]) -> None:
    titles_now = [json.loads(state.read(key)[0] or b"null") for key in state.keys("title/")]
    assert {title["token"] for title in titles_now} == minted
    assert len(titles_now) == len(minted)
    loans = [title["lien"]["loan"] for title in titles_now if title["lien"]]
    assert len(loans) == len(set(loans)), "one loan on two vehicles"
    for key in state.keys("loan/"):
        held = state.read(key)[0]
        assert bool(held) is (key.removeprefix("loan/") in loans)
    for title in titles_now:
        lien = title["lien"]
        assert (lien is None) is (title["state"] == "FREE")
        if title["state"] in contract.LOCKED_STATES:
            orgs_of_lien = {lien["lender"], *lien["consents"].values()}
            assert len(orgs_of_lien) == 3, "lender, guarantor and registry must differ"
            assert set(lien["consents"]) == {"guarantor", "registry"}


def test_the_rules_use_nothing_an_endorser_could_differ_in() -> None:
    tree = ast.parse(inspect.getsource(contract))
    imported = {
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported == {
        "__future__", "json", "re", "collections.abc", "dataclasses", "enum", "typing",
        "cloud_sync.ledger.errors",
    }  # fmt: skip
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float | complex)), node.lineno
        assert not isinstance(node, ast.Set | ast.SetComp | ast.Div), node.lineno
        assert not (isinstance(node, ast.Name) and node.id in ("set", "frozenset", "float", "hash", "id")), (
            node.lineno
        )


def test_the_functions_are_the_public_surface() -> None:
    assert sorted(FUNCTIONS) == [
        "ApproveDisposal", "BalanceOf", "ConsentLien", "GetTitle", "MintWithTokenURI", "OwnerOf",
        "ProposeLien", "ReleaseLien", "ReportAlert", "ReportCure", "Tick", "TokenURI", "TotalSupply",
        "TransferFrom", "WithdrawLien", "locked",
    ]  # fmt: skip
