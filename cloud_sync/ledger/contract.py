"""The vehicle title contract: the rules, and nothing else.

    FREE --ProposeLien (lender)--> PROPOSED --ConsentLien (guarantor and registry)--> PLEDGED   [Locked]
    PROPOSED --WithdrawLien (lender)--> FREE
    PLEDGED --ReportAlert (oracle)--> ALERT --ReportCure (oracle)--> PLEDGED
    ALERT --Tick after GRACE--> DEFAULT --Tick after CURE--> DISPOSAL
    DISPOSAL --ApproveDisposal (lender, guarantor, registry; the same plan)--> FREE             [Unlocked]
    PLEDGED | ALERT | DEFAULT --ReleaseLien (lender)--> FREE                                    [Unlocked]
    FREE --TransferFrom (registry)--> FREE, other owner

Words are those of ERC-721 (MintWithTokenURI, OwnerOf, TransferFrom, Transfer) and ERC-5192 (locked, Locked,
Unlocked). This file reaches the world through `ctx` alone and uses no clock, float, set order or chance, so
that the same text can run on another engine and every endorser computes the same bytes.

Against a double pledge: (1) a token is minted once, ever; (2) a title has one lien slot, and any state but
FREE refuses a new lien; (3) a reverse key loan -> token, so that one loan cannot claim two vehicles; (4) no
transfer while the slot is taken; (5) every write re-reads the title, so that the slower of two calls loses;
(6) lender, guarantor and registry of one lien are three different organisations.

Owners and loans are keyed hashes made by the registry's tools: no name, loan number or VIN stands here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Any, Final, Protocol

from cloud_sync.ledger.errors import NotAllowed, Refused, WrongState

DAY_MS: Final = 86_400_000
GRACE_MS: Final = 3 * DAY_MS
"""ALERT becomes DEFAULT no sooner: a weekend and a day to find a benign reason (range 1 .. 30 days)."""
CURE_MS: Final = 30 * DAY_MS
"""DEFAULT becomes DISPOSAL no sooner: the borrower's time to cure (range 14 .. 90 days)."""
MAX_URI_CHARS: Final = 200
MAX_EVIDENCE: Final = 256
"""Evidence hashes a title keeps for one lien; a detector that reports more than this is at fault."""

_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)


@unique
class State(StrEnum):
    """Where a title stands."""

    FREE = "FREE"
    PROPOSED = "PROPOSED"
    PLEDGED = "PLEDGED"
    ALERT = "ALERT"
    DEFAULT = "DEFAULT"
    DISPOSAL = "DISPOSAL"


@unique
class Role(StrEnum):
    """What an organisation's identity may act as."""

    REGISTRY = "registry"
    LENDER = "lender"
    GUARANTOR = "guarantor"
    ORACLE = "oracle"
    """The collector that verified the device's signed segments."""


LOCKED_STATES: Final = (State.PLEDGED, State.ALERT, State.DEFAULT, State.DISPOSAL)
"""ERC-5192 `locked` is true in these."""
PARTIES: Final = (Role.LENDER, Role.GUARANTOR, Role.REGISTRY)

Title = dict[str, Any]
"""JSON object: token, uri, owner, registry, state, since_ms, updated_ms, number, lien (object or null)."""


class Ctx(Protocol):
    """What an engine gives a call: who calls, when, and a state of its own to read and write."""

    @property
    def org(self) -> str:
        """Organisation of the caller, proven by the engine."""
        ...

    @property
    def role(self) -> str:
        """A value of Role, proven by the engine."""
        ...

    @property
    def time_ms(self) -> int:
        """Time of the transaction, milliseconds since 1970; the engine bounds how far it may be off."""
        ...

    def get(self, key: str) -> bytes | None:
        """Value of `key` before this call, or as this call has put it."""
        ...

    def put(self, key: str, value: bytes) -> None:
        """Set `key` when the call is committed."""
        ...

    def keys(self, prefix: str) -> Sequence[str]:
        """Committed keys that begin with `prefix`, sorted; for questions only."""
        ...

    def emit(self, name: str, payload: Mapping[str, str]) -> None:
        """Announce an event when the call is committed."""
        ...


@dataclass(frozen=True, slots=True)
class Function:
    """One entry of FUNCTIONS."""

    params: tuple[str, ...]
    roles: tuple[Role, ...]
    """Who may call it; empty: anyone (questions, and Tick, which time alone decides)."""
    writes: bool
    call: Callable[[Ctx, Sequence[str]], Any]


def invoke(ctx: Ctx, name: str, args: Sequence[str]) -> bytes:
    """Call the function `name` and return its JSON answer.

    Raises NotAllowed, WrongState or Refused when the rules say no; the engine then writes nothing.
    """
    function = FUNCTIONS.get(name)
    if function is None:
        raise Refused(f"the contract has no function {name!r:.60}")
    if len(args) != len(function.params):
        raise Refused(
            f"{name} takes {len(function.params)} arguments: {', '.join(function.params) or 'none'}"
        )
    if function.roles and ctx.role not in function.roles:
        raise NotAllowed(f"{name} is for {' or '.join(function.roles)}, not for {ctx.role!r:.40}")
    if not _NAME.fullmatch(ctx.org):
        raise NotAllowed(
            f"{ctx.org!r:.60} is not an organisation's name (lower-case letters, digits, hyphens)"
        )
    for param, value in zip(function.params, args, strict=True):
        _check_argument(param, value)
    return canonical(function.call(ctx, args))


def canonical(value: Any) -> bytes:
    """`value` as the one JSON text that every engine writes: sorted keys, no blanks, ASCII."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()


def title_key(token: str) -> str:
    """State key of a title."""
    return f"title/{token}"


def loan_key(loan: str) -> str:
    """State key of the reverse entry of a loan."""
    return f"loan/{loan}"


# --- questions ---


def _owner_of(ctx: Ctx, args: Sequence[str]) -> str:
    return str(_title(ctx, args[0])["owner"])


def _locked(ctx: Ctx, args: Sequence[str]) -> bool:
    return _title(ctx, args[0])["state"] in LOCKED_STATES


def _token_uri(ctx: Ctx, args: Sequence[str]) -> str:
    return str(_title(ctx, args[0])["uri"])


def _get_title(ctx: Ctx, args: Sequence[str]) -> Title:
    return _title(ctx, args[0])


def _total_supply(ctx: Ctx, args: Sequence[str]) -> int:
    return len(ctx.keys("title/"))


def _balance_of(ctx: Ctx, args: Sequence[str]) -> int:
    titles = (_load(ctx, key) for key in ctx.keys("title/"))
    return sum(1 for title in titles if title is not None and title["owner"] == args[0])


# --- transitions ---


def _mint(ctx: Ctx, args: Sequence[str]) -> Title:
    token, owner, uri = args
    if ctx.get(title_key(token)) is not None:
        raise WrongState("this vehicle already has a title: one VIN, one token")
    title: Title = {
        "token": token, "uri": uri, "owner": owner, "registry": ctx.org, "state": State.FREE,
        "since_ms": ctx.time_ms, "updated_ms": ctx.time_ms, "number": -1, "lien": None,
    }  # fmt: skip
    ctx.emit("Transfer", {"from": "", "to": owner, "tokenId": token})
    return _save(ctx, title)


def _transfer(ctx: Ctx, args: Sequence[str]) -> Title:
    token, sender, receiver = args
    title = _title(ctx, token)
    if title["lien"] is not None:
        raise WrongState(
            f"the title is {title['state']}: no transfer before the lien is released or withdrawn"
        )
    _is_registry(ctx, title)
    if title["owner"] != sender:
        raise Refused("the title does not belong to the owner named")
    if sender == receiver:
        raise Refused("the title already belongs to that owner")
    title["owner"] = receiver
    ctx.emit("Transfer", {"from": sender, "to": receiver, "tokenId": token})
    return _save(ctx, title)


def _propose(ctx: Ctx, args: Sequence[str]) -> Title:
    token, loan = args
    title = _title(ctx, token)
    _in_state(title, State.FREE)
    if ctx.org == title["registry"]:
        raise NotAllowed("the registry of a title cannot be its lender: three different organisations")
    held = ctx.get(loan_key(loan))
    if held not in (None, b""):
        raise WrongState("this loan already claims a vehicle: release that lien first")
    ctx.put(loan_key(loan), token.encode())
    title["lien"] = {
        "loan": loan, "lender": ctx.org, "proposed_ms": _now(ctx, title), "consents": {}, "evidence": [],
        "plans": {},
    }  # fmt: skip
    return _move(ctx, title, State.PROPOSED)


def _consent(ctx: Ctx, args: Sequence[str]) -> Title:
    title = _title(ctx, args[0])
    _in_state(title, State.PROPOSED)
    lien = title["lien"]
    if lien["loan"] != args[1]:
        raise Refused("the proposal is for another loan: read the title again before you consent")
    consents = lien["consents"]
    if ctx.role in consents:
        raise WrongState(f"the {ctx.role} has already consented")
    if ctx.role == Role.REGISTRY:
        _is_registry(ctx, title)
    elif ctx.org in (lien["lender"], title["registry"]):
        raise NotAllowed("lender, guarantor and registry of a lien are three different organisations")
    consents[ctx.role] = ctx.org
    if len(consents) < 2:
        return _save(ctx, title)
    ctx.emit("Locked", {"tokenId": title["token"]})
    return _move(ctx, title, State.PLEDGED)


def _withdraw(ctx: Ctx, args: Sequence[str]) -> Title:
    title = _title(ctx, args[0])
    _in_state(title, State.PROPOSED)
    _is_lender(ctx, title)
    return _free(ctx, title)


def _release(ctx: Ctx, args: Sequence[str]) -> Title:
    title = _title(ctx, args[0])
    _in_state(title, State.PLEDGED, State.ALERT, State.DEFAULT)
    _is_lender(ctx, title)
    ctx.emit("Unlocked", {"tokenId": title["token"]})
    return _free(ctx, title)


def _alert(ctx: Ctx, args: Sequence[str]) -> Title:
    token, evidence, cause = args
    title = _title(ctx, token)
    _in_state(title, State.PLEDGED, State.ALERT)
    _add_evidence(title, evidence)
    ctx.emit("Alert", {"tokenId": token, "evidence": evidence, "cause": cause})
    return _save(ctx, title) if title["state"] == State.ALERT else _move(ctx, title, State.ALERT)


def _cure(ctx: Ctx, args: Sequence[str]) -> Title:
    token, evidence = args
    title = _title(ctx, token)
    _in_state(title, State.ALERT)
    _add_evidence(title, evidence)
    ctx.emit("Cure", {"tokenId": token, "evidence": evidence})
    return _move(ctx, title, State.PLEDGED)


def _tick(ctx: Ctx, args: Sequence[str]) -> Title:
    title = _title(ctx, args[0])
    _in_state(title, State.ALERT, State.DEFAULT)
    wait_ms, target = (
        (GRACE_MS, State.DEFAULT) if title["state"] == State.ALERT else (CURE_MS, State.DISPOSAL)
    )
    left_ms = int(title["since_ms"]) + wait_ms - _now(ctx, title)
    if left_ms > 0:
        raise WrongState(f"the title stays {title['state']} for another {-(-left_ms // 3_600_000)} h")
    ctx.emit(target.title(), {"tokenId": title["token"]})
    return _move(ctx, title, target)


def _approve(ctx: Ctx, args: Sequence[str]) -> Title:
    token, plan, buyer = args
    title = _title(ctx, token)
    _in_state(title, State.DISPOSAL)
    lien = title["lien"]
    parties = {Role.LENDER: lien["lender"], Role.REGISTRY: title["registry"]} | lien["consents"]
    if parties.get(ctx.role) != ctx.org:
        raise NotAllowed(f"{ctx.org} is not the {ctx.role} of this lien")
    lien["plans"][ctx.role] = [plan, buyer]
    if any(lien["plans"].get(role) != [plan, buyer] for role in PARTIES):
        return _save(ctx, title)
    ctx.emit("Transfer", {"from": str(title["owner"]), "to": buyer, "tokenId": token})
    ctx.emit("Unlocked", {"tokenId": token})
    title["owner"] = buyer
    return _free(ctx, title)


# --- what they share ---


def _check_argument(param: str, value: str) -> None:
    if param == "tokenURI":
        if len(value) > MAX_URI_CHARS or not value.isascii() or not value.isprintable():
            raise Refused(f"{param} is at most {MAX_URI_CHARS} printable ASCII characters")
    elif param == "cause":
        if not _NAME.fullmatch(value):
            raise Refused(f"{param} {value!r:.60} is not a snake_case word")
    elif not _HASH.fullmatch(value):
        raise Refused(f"{param} is 64 lower-case hexadecimal digits, not {value!r:.80}")


def _load(ctx: Ctx, key: str) -> Title | None:
    data = ctx.get(key)
    if data is None:
        return None
    title: Title = json.loads(data)
    return title


def _title(ctx: Ctx, token: str) -> Title:
    title = _load(ctx, title_key(token))
    if title is None:
        raise WrongState("this vehicle has no title: mint it first")
    return title


def _now(ctx: Ctx, title: Title) -> int:
    """Time of the call; within a title it never goes back, whatever a clock does."""
    return max(ctx.time_ms, int(title["updated_ms"]))


def _in_state(title: Title, *allowed: State) -> None:
    if title["state"] not in allowed:
        raise WrongState(f"the title is {title['state']}; this needs {' or '.join(allowed)}")


def _is_registry(ctx: Ctx, title: Title) -> None:
    if ctx.org != title["registry"]:
        raise NotAllowed(f"{ctx.org} is not the registry of this title")


def _is_lender(ctx: Ctx, title: Title) -> None:
    if ctx.org != title["lien"]["lender"]:
        raise NotAllowed(f"{ctx.org} is not the lender of this lien")


def _add_evidence(title: Title, evidence: str) -> None:
    known = title["lien"]["evidence"]
    if evidence in known:
        raise WrongState("this evidence has already been reported")
    if len(known) >= MAX_EVIDENCE:
        raise Refused(f"the lien already holds {MAX_EVIDENCE} pieces of evidence: cure or release it")
    known.append(evidence)


def _move(ctx: Ctx, title: Title, state: State) -> Title:
    title["since_ms"] = _now(ctx, title)
    title["state"] = state
    return _save(ctx, title)


def _free(ctx: Ctx, title: Title) -> Title:
    ctx.put(loan_key(title["lien"]["loan"]), b"")
    title["lien"] = None
    return _move(ctx, title, State.FREE)


def _save(ctx: Ctx, title: Title) -> Title:
    title["updated_ms"] = _now(ctx, title)
    title["number"] += 1
    ctx.put(title_key(title["token"]), canonical(title))
    return title


FUNCTIONS: Final[Mapping[str, Function]] = {
    "OwnerOf": Function(("tokenId",), (), False, _owner_of),
    "locked": Function(("tokenId",), (), False, _locked),
    "TokenURI": Function(("tokenId",), (), False, _token_uri),
    "TotalSupply": Function((), (), False, _total_supply),
    "BalanceOf": Function(("owner",), (), False, _balance_of),
    "GetTitle": Function(("tokenId",), (), False, _get_title),
    "MintWithTokenURI": Function(("tokenId", "owner", "tokenURI"), (Role.REGISTRY,), True, _mint),
    "TransferFrom": Function(("tokenId", "from", "to"), (Role.REGISTRY,), True, _transfer),
    "ProposeLien": Function(("tokenId", "loan"), (Role.LENDER,), True, _propose),
    "ConsentLien": Function(("tokenId", "loan"), (Role.GUARANTOR, Role.REGISTRY), True, _consent),
    "WithdrawLien": Function(("tokenId",), (Role.LENDER,), True, _withdraw),
    "ReleaseLien": Function(("tokenId",), (Role.LENDER,), True, _release),
    "ReportAlert": Function(("tokenId", "evidence", "cause"), (Role.ORACLE,), True, _alert),
    "ReportCure": Function(("tokenId", "evidence"), (Role.ORACLE,), True, _cure),
    "Tick": Function(("tokenId",), (), True, _tick),
    "ApproveDisposal": Function(("tokenId", "plan", "buyer"), PARTIES, True, _approve),
}
"""Everything that can be called, by its name on every engine."""
