"""What incidents and statements say, a line each: for people, after everything was checked. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cloud_sync.statement import ACCESS, CASE, Statement
from edge.event import Event, Key
from models.verdict import CAUSE_NAMES, Action

NO_TIME: Final = "time unknown"


@dataclass(frozen=True, slots=True)
class IncidentLine:
    """One incident event, as the device said it."""

    run: str
    seq: int
    incident: int
    action: str
    cause: str
    sentence: str
    at: str | None
    """Wall time as the device claims it, ISO 8601; None where it did not know."""


def incident_line(run: bytes, event: Event) -> IncidentLine:
    """What an incident event says."""
    body = event.body
    number, cause, action, sentence = (
        body.get(key) for key in (Key.INCIDENT, Key.CAUSE, Key.ACTION, Key.SENTENCE)
    )
    names = {int(value): value.name.lower() for value in Action}
    causes = {int(value): name for value, name in CAUSE_NAMES.items()}
    return IncidentLine(
        run.hex(), event.seq, number if isinstance(number, int) else 0,
        names.get(action, "unknown") if isinstance(action, int) else "unknown",
        causes.get(cause, "unknown") if isinstance(cause, int) else "unknown",
        sentence if isinstance(sentence, str) else "",
        _iso(None if event.stamp.wall_ns is None else event.stamp.wall_ns // 1_000_000),
    )  # fmt: skip


def statement_line(made: Statement) -> str:
    """What a statement of the cloud says, after its time or NO_TIME."""
    words = [value for value in made.body.values() if isinstance(value, str)]
    if made.type in (CASE, ACCESS):  # what people typed stands in lists
        for value in made.body.values():
            if isinstance(value, list):
                words += [" ".join(text.split()) for text in value if isinstance(text, str) and text]
    return f"{_iso(made.wall_ms) or NO_TIME} {made.type}: {', '.join(words)}"


def _iso(wall_ms: int | None) -> str | None:
    if wall_ms is None or not 0 <= wall_ms < 253_402_300_800_000:
        return None
    return (
        datetime.fromtimestamp(wall_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
