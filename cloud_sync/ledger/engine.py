"""The embedded engine: runs the contract on a versioned state, optimistically.

`simulate` runs one call against a snapshot and returns what it read (with versions) and what it would
write; nothing has happened yet. `State.commit` applies it if every version read is still the present one,
else raises Conflict and the caller reads again. Of two calls that read the same title, one wins.

Each committed transition becomes one signed statement, which stands in the transparency log; the engine
itself signs nothing and keeps no clock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, unique
from typing import Final, Protocol

from cloud_sync.ledger import contract
from cloud_sync.ledger.errors import Conflict, Refused
from firmware_bridge.wire import cbor

ABSENT: Final = -1
"""Version of a key that is not there; a key that was put once has version 0."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one organisation. The engine's host has proven `org` and `role`."""

    function: str
    args: tuple[str, ...]
    org: str
    role: str
    time_ms: int


@dataclass(frozen=True, slots=True)
class Event:
    """What a call announces."""

    name: str
    payload: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A call as simulated: what it read, and what it would write."""

    call: Call
    answer: bytes
    """JSON."""
    reads: Mapping[str, int]
    """Key -> version that was read, ABSENT where there was none."""
    writes: Mapping[str, bytes]
    before: Mapping[str, bytes | None]
    """Values read, for saying what changed."""
    events: tuple[Event, ...]


class View(Protocol):
    """A state that can be read."""

    def read(self, key: str) -> tuple[bytes | None, int]:
        """Value and version of `key`; (None, ABSENT) where it is not there."""
        ...

    def keys(self, prefix: str) -> Sequence[str]:
        """Keys that begin with `prefix`, sorted."""
        ...


class MemoryState:
    """A state in memory; `commit` is atomic only within one thread."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[bytes, int]] = {}

    def read(self, key: str) -> tuple[bytes | None, int]:
        return self._rows.get(key, (None, ABSENT))

    def keys(self, prefix: str) -> Sequence[str]:
        return sorted(key for key in self._rows if key.startswith(prefix))

    def commit(self, outcome: Outcome) -> None:
        """Apply `outcome`. Raises Conflict, having written nothing, when something it read has changed."""
        check_versions(self, outcome)
        for key, value in outcome.writes.items():
            self._rows[key] = (value, self.read(key)[1] + 1)


@dataclass(slots=True)
class _Context:
    """The contract's `ctx` for one call on one view."""

    org: str
    role: str
    time_ms: int
    view: View
    reads: dict[str, int] = field(default_factory=dict)
    before: dict[str, bytes | None] = field(default_factory=dict)
    writes: dict[str, bytes] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def get(self, key: str) -> bytes | None:
        if key in self.writes:
            return self.writes[key]
        if key not in self.reads:
            self.before[key], self.reads[key] = self.view.read(key)
        return self.before[key]

    def put(self, key: str, value: bytes) -> None:
        self.get(key)  # a blind write would escape the version check
        self.writes[key] = value

    def keys(self, prefix: str) -> Sequence[str]:
        return self.view.keys(prefix)

    def emit(self, name: str, payload: Mapping[str, str]) -> None:
        self.events.append(Event(name, dict(payload)))


def simulate(view: View, call: Call) -> Outcome:
    """Run `call` against `view` without changing it. Raises Refused as the contract does."""
    ctx = _Context(call.org, call.role, call.time_ms, view)
    answer = contract.invoke(ctx, call.function, call.args)
    if ctx.writes and not contract.FUNCTIONS[call.function].writes:
        raise Refused(f"{call.function} is a question and must not write")
    return Outcome(call, answer, ctx.reads, ctx.writes, ctx.before, tuple(ctx.events))


def check_versions(view: View, outcome: Outcome) -> None:
    """Raise Conflict when a key that `outcome` read has another version in `view`."""
    for key, version in outcome.reads.items():
        now = view.read(key)[1]
        if now != version:
            raise Conflict(
                f"{key.split('/')[0]} was changed by another call meanwhile: read it again and decide"
            )


@unique
class TitleKey(IntEnum):
    """Keys of the body of a `title` statement. Numbers are never reused."""

    TOKEN = 1
    """32 bytes."""
    NUMBER = 2
    """Transition of this title, from 0 (its minting) without gaps."""
    FUNCTION = 3
    FROM = 4
    """State before; null when minted."""
    TO = 5
    ORG = 6
    ROLE = 7
    ARGS = 8
    """32-byte hashes among the arguments after the token: owner, loan, evidence, plan; in order."""
    EVENTS = 9
    """Names of the events announced, in order."""
    BEFORE = 10
    """SHA-256 of the title's JSON before; null when minted. Chains a title's transitions."""
    AFTER = 11
    """SHA-256 of the title's JSON after."""
    CAUSE = 12
    """ReportAlert: the cause's name."""


def title_of(outcome: Outcome) -> dict[str, object] | None:
    """The title that `outcome` writes, as a JSON object; None when it writes none."""
    for key, value in outcome.writes.items():
        if key.startswith("title/"):
            title: dict[str, object] = json.loads(value)
            return title
    return None


def statement_body(outcome: Outcome) -> dict[int, cbor.Value]:
    """The body of the statement that tells of `outcome`, which must write a title."""
    call = outcome.call
    key = contract.title_key(call.args[0])
    before, after = outcome.before[key], outcome.writes[key]
    new = json.loads(after)
    named = dict(zip(contract.FUNCTIONS[call.function].params[1:], call.args[1:], strict=True))
    body: dict[int, cbor.Value] = {
        TitleKey.TOKEN: bytes.fromhex(new["token"]),
        TitleKey.NUMBER: new["number"],
        TitleKey.FUNCTION: call.function,
        TitleKey.FROM: None if before is None else json.loads(before)["state"],
        TitleKey.TO: new["state"],
        TitleKey.ORG: call.org,
        TitleKey.ROLE: call.role,
        TitleKey.ARGS: [bytes.fromhex(v) for name, v in named.items() if name not in ("tokenURI", "cause")],
        TitleKey.EVENTS: [event.name for event in outcome.events],
        TitleKey.BEFORE: None if before is None else hashlib.sha256(before).digest(),
        TitleKey.AFTER: hashlib.sha256(after).digest(),
    }
    if "cause" in named:
        body[TitleKey.CAUSE] = named["cause"]
    return {int(name): value for name, value in body.items()}
