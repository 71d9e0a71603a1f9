"""The life of an incident in people's hands: states, verbs, who needs what, and how grave it is. Pure.

A device opens an incident and may close it; everything between is the work of people. Each step is one act,
a signed statement of the log (`CaseKey`), numbered from 1 within its incident. The state of a case is a fold
over the *set* of its acts and over whether the device itself has closed the incident; nothing else is kept.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum, unique
from typing import Final

from cloud_sync.errors import BadRequest, NotFound
from firmware_bridge.wire import cbor
from models.verdict import Cause

MAX_NOTE_CHARS: Final = 2000
"""A paragraph or two; 8 kB of UTF-8 at most, half of what a statement may hold."""
MAX_NAME_CHARS: Final = 80
"""Name of an account."""
MAX_ACTS: Final = 1000
"""Acts of one incident. Hundreds of notes belong into another tool; the loop of a client ends here."""
RULE: Final = "rule"
"""Author of an escalation that no person made. No account may have this name."""
DEVICE: Final = "device"
"""Author of what the device's own segments say. No account may have this name."""

_ID = re.compile(r"([a-z0-9][a-z0-9-]{0,62})\.([0-9a-f]{32})\.(0|[1-9][0-9]{0,9})", re.ASCII)
_MAX_NUMBER: Final = (1 << 31) - 1


@unique
class State(StrEnum):
    """Where a case stands."""

    OPEN = "open"
    """Nobody has looked at it."""
    ESCALATED = "escalated"
    """It needs somebody else, or nobody came in time."""
    ACKNOWLEDGED = "acknowledged"
    """Somebody has seen it."""
    ASSIGNED = "assigned"
    """Somebody has it in hand."""
    CONFIRMED = "confirmed"
    """A person says that it is true; the work may go on."""
    REFUTED = "refuted"
    """A person says that it is not."""
    CLOSED = "closed"
    """Nothing is left to do."""


@unique
class Verb(StrEnum):
    """What a person can do about an incident."""

    ACKNOWLEDGE = "acknowledge"
    ASSIGN = "assign"
    ESCALATE = "escalate"
    NOTE = "note"
    CONFIRM = "confirm"
    REFUTE = "refute"
    CLOSE = "close"
    REOPEN = "reopen"


OVER: Final = frozenset({State.REFUTED, State.CLOSED})
"""States in which the vehicle is out of danger. A confirmed incident is not: its car may be on a lorry."""
WAITING: Final = frozenset({State.OPEN, State.ESCALATED})
"""States in which nobody has it in hand."""

_A, _S, _E, _N = Verb.ACKNOWLEDGE, Verb.ASSIGN, Verb.ESCALATE, Verb.NOTE
_C, _R, _X, _O = Verb.CONFIRM, Verb.REFUTE, Verb.CLOSE, Verb.REOPEN

ALLOWED: Final[dict[State, tuple[Verb, ...]]] = {
    State.OPEN: (_A, _S, _E, _N, _C, _R),
    State.ESCALATED: (_A, _S, _N, _C, _R),
    State.ACKNOWLEDGED: (_S, _E, _N, _C, _R),
    State.ASSIGNED: (_S, _E, _N, _C, _R),
    State.CONFIRMED: (_S, _N, _R, _X),
    State.REFUTED: (_N, _C, _X),
    State.CLOSED: (_N, _O),
}
"""Verbs by state, the likeliest first. Beyond the table: where the device has closed the incident, `close`
is allowed in every state but closed; and a closed case on which nobody gave a verdict takes one still."""

NEEDS_NOTE: Final = frozenset({Verb.ESCALATE, Verb.NOTE, Verb.CONFIRM, Verb.REFUTE, Verb.CLOSE, Verb.REOPEN})
"""Verbs without sense if nobody says why."""

AFTER: Final[dict[Verb, State]] = {
    Verb.ACKNOWLEDGE: State.ACKNOWLEDGED,
    Verb.ASSIGN: State.ASSIGNED,
    Verb.ESCALATE: State.ESCALATED,
    Verb.CONFIRM: State.CONFIRMED,
    Verb.REFUTE: State.REFUTED,
    Verb.CLOSE: State.CLOSED,
    Verb.REOPEN: State.OPEN,
}
"""State after a verb. A note changes none; `assign` leaves a confirmed case confirmed."""

BASE_SEVERITY: Final[dict[Cause, int]] = {
    Cause.MOVED_WITHOUT_WHEELS: 800,
    Cause.REMOVED_OR_OPENED: 750,
    Cause.LEFT_REGION: 500,
    Cause.JAMMED: 400,
    Cause.SILENT: 250,
}
"""Towed away or its tracker torn off: the collateral itself is in danger, minutes count. Out of its region:
a breach, but the car still reports. Jammed: often the prelude of a theft, often a lorry driver. Silent:
mostly a flat battery or a dead spot."""
PLEDGED_SEVERITY: Final = 200
"""What a pledged title adds: the fund's money hangs on it. 800 + 200 is the end of the scale."""


@dataclass(frozen=True, slots=True)
class Ref:
    """Names an incident within a tenant."""

    device: str
    run: bytes
    incident: int

    def __str__(self) -> str:
        return f"{self.device}.{self.run.hex()}.{self.incident}"


@dataclass(frozen=True, slots=True)
class Act:
    """One step."""

    number: int
    """From 1, without gaps, within its incident."""
    action: Verb
    author: str
    wall_ms: int
    """Milliseconds since 1970 by the collector's clock."""
    assignee: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """An incident as its acts leave it."""

    state: State
    assignee: str | None
    version: int
    """Number of acts; the next one must name it."""
    verdict: bool | None
    """True: confirmed; False: refuted; None: nobody said, or it was reopened since."""
    device_closed: bool


@unique
class CaseKey(IntEnum):
    """Keys of the body of a `case` statement. Numbers are never reused.

    All texts but DEVICE stand in lists, so that no other top-level value can equal a device's name: by that
    value a bundle of evidence finds its statements.
    """

    DEVICE = 1
    RUN = 2
    """16 bytes."""
    INCIDENT = 3
    """Number within the run."""
    NUMBER = 4
    """Of the act, from 1."""
    ACTION = 5
    """[Verb, State after it]."""
    AUTHOR = 6
    """[account, role]; ['rule', name of the rule] for an escalation that no person made."""
    ASSIGNEE = 7
    """[account]; `assign` only."""
    NOTE = 8
    """[text]; absent where there is none."""
    CAUSE = 9
    """Number of the incident's cause (models.verdict.Cause): with `confirm` and `refute`, a label."""
    SEGMENT = 10
    """SHA-256 of the segment that opened the incident, as far as it was known."""


def parse_id(text: str) -> Ref:
    """The incident that `text` (<device>.<run, 32 hexadecimal digits>.<number>) names. Raises NotFound."""
    match = _ID.fullmatch(text)
    if match is None or int(match[3]) > _MAX_NUMBER:
        raise NotFound("there is no such incident: its id has the form device.run.number")
    return Ref(match[1], bytes.fromhex(match[2]), int(match[3]))


def fold(acts: Iterable[Act], *, device_closed: bool = False) -> Case:
    """The case that `acts` (of one incident, in any order, repeated or not) make.

    Where nobody has done more than write notes, an incident that its device closed is closed.
    """
    ordered = sorted({act.number: act for act in acts}.values(), key=lambda act: act.number)
    state = State.CLOSED if device_closed else State.OPEN
    assignee: str | None = None
    verdict: bool | None = None
    for act in ordered:
        if act.action is Verb.NOTE:
            continue
        if act.action is Verb.ASSIGN:
            assignee = act.assignee
            if state is State.CONFIRMED:
                continue
        elif act.action is Verb.REOPEN:
            assignee, verdict = None, None
        elif act.action in (Verb.CONFIRM, Verb.REFUTE):
            verdict = act.action is Verb.CONFIRM
        state = AFTER[act.action]
    return Case(state, assignee, len(ordered), verdict, device_closed)


def allowed(case: Case) -> tuple[Verb, ...]:
    """What may be done about `case` now, the likeliest first; nothing more after MAX_ACTS."""
    if case.version >= MAX_ACTS:
        return ()
    verbs = ALLOWED[case.state]
    if case.state is State.CLOSED and case.verdict is None:
        verbs = (*verbs, Verb.CONFIRM, Verb.REFUTE)
    elif case.device_closed and Verb.CLOSE not in verbs:
        verbs = (*verbs, Verb.CLOSE)
    return verbs


def check(
    case: Case, action: str, *, note: str, assignee: str | None, accounts: Collection[str]
) -> tuple[Verb, str, str | None]:
    """(verb, note, assignee) as they will stand in the act. Raises BadRequest that says what is amiss."""
    verb = _verb(action)
    may = allowed(case)
    if verb not in may:
        if not may:
            raise BadRequest(
                f"this incident has {case.version} entries, the most it takes: open a file elsewhere"
            )
        hint = ""
        if verb is Verb.CLOSE and case.state is not State.CLOSED:
            hint = ": confirm or refute it first"
        elif case.state is State.CLOSED:
            hint = ": reopen it first"
        raise BadRequest(
            f"an incident that is {case.state} cannot take '{verb}'{hint}. It takes {', '.join(may)}"
        )
    text = note.strip()
    if verb in NEEDS_NOTE and not text:
        raise BadRequest(f"'{verb}' needs a note that says why")
    if len(text) > MAX_NOTE_CHARS:
        raise BadRequest(f"the note has {len(text)} characters, at most {MAX_NOTE_CHARS}: shorten it")
    if any(not c.isprintable() and c not in "\n\t" for c in text):
        raise BadRequest("the note holds control characters: write plain text")
    if verb is not Verb.ASSIGN:
        if assignee is not None:
            raise BadRequest(f"'{verb}' names nobody; use 'assign' to give the incident to somebody")
        return verb, text, None
    if not assignee:
        raise BadRequest("'assign' needs the account that takes the incident")
    if assignee not in accounts:
        raise BadRequest(
            f"{assignee!r:.90} cannot take this incident: name an operator's account of this branch"
        )
    return verb, text, assignee


def body(
    ref: Ref, act: Act, *, role: str, cause: Cause, segment: bytes, state: State
) -> dict[int, cbor.Value]:
    """The body of the `case` statement that tells of `act` (CaseKey)."""
    out: dict[int, cbor.Value] = {
        CaseKey.DEVICE: ref.device,
        CaseKey.RUN: ref.run,
        CaseKey.INCIDENT: ref.incident,
        CaseKey.NUMBER: act.number,
        CaseKey.ACTION: [str(act.action), str(state)],
        CaseKey.AUTHOR: [act.author, role],
        CaseKey.CAUSE: int(cause),
        CaseKey.SEGMENT: segment,
    }
    if act.assignee is not None:
        out[CaseKey.ASSIGNEE] = [act.assignee]
    if act.note:
        out[CaseKey.NOTE] = [act.note]
    return {int(key): value for key, value in out.items()}


def severity(cause: Cause, confidence: float, *, pledged: bool = False) -> int:
    """How grave an incident is, 0 .. 1000: the order of 'worst first'.

    `BASE_SEVERITY[cause]`, of which confidence (0 .. 1) takes away up to half (a doubtful tow still comes
    before a certain silence of the same car), plus PLEDGED_SEVERITY for a pledged title.

        cause                  confidence 0.5   1.0   pledged, 1.0
        moved_without_wheels              600   800           1000
        removed_or_opened                 562   750            950
        left_region                       375   500            700
        jammed                            300   400            600
        silent                            188   250            450
    """
    sure = min(1.0, max(0.0, confidence))
    grave = round(BASE_SEVERITY[cause] * (0.5 + sure / 2))
    return min(1000, grave + (PLEDGED_SEVERITY if pledged else 0))


def _verb(action: str) -> Verb:
    if action not in Verb._value2member_map_:
        raise BadRequest(f"{action!r:.40} is not an action; there are {', '.join(Verb)}")
    return Verb(action)
