"""What a line of the log is: kinds with stable ids, fields with stable names, bounds, and what is withheld.

A daemon says a kind and fields; the kind's own text makes the message: what happened, and what to do.
Here a line gets its forms: one readable line, a JSON object, or a datagram of journald's native protocol
(https://systemd.io/JOURNAL_NATIVE_PROTOCOL/). Lines of one kind are limited by a token bucket.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

PRIORITIES: Final[dict[str, int]] = {"debug": 7, "info": 6, "warning": 4, "error": 3}
"""Levels and their syslog priorities (RFC 5424, 6.2.1)."""
BURST: Final = 5
"""Lines of one kind at once: a broken disk fails at each commit and must not fill the journal."""
PER_MINUTE: Final = 5.0
"""Lines of one kind a minute after a burst."""
MAX_TEXT: Final = 2000
"""Characters of a message; a longer one is cut, so that a datagram is never too large for journald."""
MAX_VALUE: Final = 1000
"""Characters of a field's value."""
MAX_TRACE: Final = 6000
"""Characters of an exception's trace: its end, where the fault stands."""
MAX_PARTS: Final = 256
"""Limits that are kept: kinds are ours and few, but names of libraries are not."""
MAX_FIELDS: Final = 24
"""Fields of one line."""
LIBRARY: Final = "library"
"""The kind of what a library of others says."""
WITHHELD: Final = "(withheld)"
"""In place of what must not stand in a log."""

FIELDS: Final[dict[str, str]] = {
    "action": "what was asked for: an audit entry, a right at the broker",
    "alarms": "alarms raised by the collector",
    "broker": "host:port of the broker",
    "client": "MQTT client id",
    "count": "how many",
    "detail": "more about it, bounded",
    "device": "device name, as in its certificate",
    "error": "what the system or a library said",
    "events": "events concerned",
    "method": "HTTP method",
    "not_after": "end of a certificate, UTC",
    "number": "of a message or an incident report",
    "origin": "name of the log",
    "path": "file or folder",
    "peer": "address of the other side",
    "pending": "readings that wait",
    "port": "name of a port of the node, or a TCP port",
    "ports": "names of ports of the node",
    "purpose": "tls or event: which certificate",
    "reason": "why, as a stable word",
    "receipts": "receipts concerned",
    "remedy": "what the other side was told to do",
    "repeated": "the same certificate was given again",
    "route": "pattern of the address, never what stood in its place",
    "run": "run id of a node, hex",
    "segments": "segments concerned",
    "serial": "serial number of a certificate, hex",
    "set_aside": "file that a damaged store was moved to",
    "size": "entries in the log",
    "spent_ms": "milliseconds of work",
    "status": "HTTP status",
    "task": "part of a daemon",
    "tenant": "tenant",
    "topic": "MQTT topic",
    "uid": "user id of the other side",
    "wait_s": "seconds until the next attempt",
    "where": "file and line",
}
"""Every field there is: `HOLDFAST_` and its name in capitals in the journal, its name in JSON."""

_SECRET_NAMES: Final = frozenset(
    {
        "authorization", "claim", "code", "cookie", "key", "lat", "latitude", "link", "lon", "longitude",
        "passphrase", "password", "pin", "position", "secret", "session", "token", "vin",
    }
)  # fmt: skip
_PATTERNS: Final = tuple(
    re.compile(pattern, flags)
    for pattern, flags in (
        (r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)", re.S),
        (r"\bHF1:[^\s\"']+", 0),  # the label's text, with its claim code
        (r"\b(?:[0-9A-Za-z]{5}-){3}[0-9A-Za-z]{5}\b", 0),  # a claim code in groups
        (r"\b(?=[A-Z]*\d)(?=\d*[A-Z])[0-9A-HJKMNP-TV-Z]{20}\b", 0),  # the same without hyphens
        (r"(?i)\b(?:bearer|basic) +[A-Za-z0-9+/._~=-]{8,}", 0),
        (r"(?i)\bclaim:[0-9A-Za-z-]{8,}", 0),
        (r"(?<=/enter/)[\w-]{8,}", 0),  # a one-time link of the page
        (r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)", 0),
        (r"\b(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-HJ-NPR-Za-hj-npr-z0-9]{17}\b", 0),  # a VIN (ISO 3779)
        (r"(?<![\d.])-?\d{1,3}\.\d{3,}[°NSEW]?\s*[,;/ ]\s*-?\d{1,3}\.\d{3,}", 0),  # a position in degrees
        (r"(?i)\b(?:lat|lon|latitude|longitude)\w*[\"']?\s*[=:]\s*-?\d+(?:\.\d+)?", 0),
        (r"\b\d{4}\.\d{2,},[NS],\d{5}\.\d{2,},[EW]", 0),  # a position in an NMEA sentence
    )
)


@dataclass(frozen=True, slots=True)
class Kind:
    """One thing that a daemon may say. `text` and `remedy` are templates over its fields."""

    name: str
    level: str
    text: str
    remedy: str = ""
    """What to do; empty where nothing is to be done."""
    burst: int = BURST
    per_minute: float = PER_MINUTE
    by: str = ""
    """A field of few values; each value has a limit of its own."""

    @property
    def message_id(self) -> str:
        """The journal's MESSAGE_ID: 32 hex digits, a UUID of version 8 (RFC 9562, 5.8) made of the name."""
        raw = bytearray(hashlib.sha256(b"holdfast log kind:" + self.name.encode()).digest()[:16])
        raw[6] = raw[6] & 0x0F | 0x80
        raw[8] = raw[8] & 0x3F | 0x80
        return raw.hex()


def table(*kinds: Kind) -> dict[str, Kind]:
    """Kinds by name. Raises ValueError for a name that stands twice or a level that is none."""
    found = {kind.name: kind for kind in kinds}
    if len(found) != len(kinds) or any(kind.level not in PRIORITIES for kind in kinds):
        raise ValueError("each kind once, with a level of " + ", ".join(PRIORITIES))
    return found


OWN_KINDS: Final = table(
    Kind(LIBRARY, "warning", "{detail}", by="task"),
    Kind(
        "log_lost", "warning", "{count} lines were not taken by the journal",
        "See that systemd-journald runs and its disk has space",
    ),
)  # fmt: skip
"""Kinds that every daemon has."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line, before it has a form. `fields` are bounded texts and numbers."""

    time: str
    """UTC, ISO 8601 to the second."""
    level: str
    source: str
    """The daemon, or the library."""
    kind: Kind
    text: str
    fields: Mapping[str, str | int | float]
    suppressed: int = 0
    """Lines of this kind that were not written since the last one."""
    trace: str = ""

    @property
    def message(self) -> str:
        """The text, with what was left out before it."""
        if not self.suppressed:
            return self.text
        return f"{self.text} ({self.suppressed} more of this kind were not written)"


def clean(text: str, limit: int, *, lines: bool = False) -> str:
    """`text` on one line (or with its `lines`), printable, bounded, without what a log must not hold."""
    text = text[: 4 * limit]
    for pattern in _PATTERNS:
        text = pattern.sub(WITHHELD, text)
    kept = "\n" if lines else ""
    shown = "".join(
        char if char.isprintable() or char in kept else f"\\x{ord(char):02x}" for char in text[: limit + 1]
    )
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def value_of(name: str, value: object) -> str | int | float:
    """A field's value as it may be written; a name that promises a secret or a position has none."""
    if name in _SECRET_NAMES:
        return WITHHELD
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return round(value, 3)
    return clean(str(value), MAX_VALUE)


def make(
    kind: Kind,
    fields: Mapping[str, object],
    *,
    time: str,
    source: str,
    level: str | None = None,
    trace: str = "",
) -> Line:
    """The line of `kind`. A field that its text names and nobody gave stands as "?"."""
    given = {name: value_of(name, value) for name, value in list(fields.items())[:MAX_FIELDS]}
    text = _filled(kind.text, given)
    if kind.remedy:
        text = f"{text}. {_filled(kind.remedy, given)}"
    return Line(
        time, level or kind.level, source, kind, clean(text, MAX_TEXT), given,
        trace=clean(trace[-MAX_TRACE:], MAX_TRACE, lines=True),
    )  # fmt: skip


class _Given(dict[str, object]):
    def __missing__(self, key: str) -> str:
        return "?"


def _filled(template: str, fields: Mapping[str, object]) -> str:
    return template.format_map(_Given(fields))


def as_text(line: Line) -> str:
    """One line for a person: time, level, kind, message, and the fields that the message does not show."""
    fields = {name: str(value) for name, value in line.fields.items()}
    more = [f"{name}={value}" for name, value in fields.items() if value and value not in line.text]
    shown = f" [{' '.join(more)}]" if more else ""
    trace = "".join(f"\n  {part}" for part in line.trace.splitlines())
    return f"{line.time} {line.level:<7} {line.source} {line.kind.name}: {line.message}{shown}{trace}"


def as_json(line: Line) -> str:
    """One JSON object: time, level, from, kind, text, and the fields."""
    value: dict[str, object] = {
        "time": line.time, "level": line.level, "from": line.source, "kind": line.kind.name,
        "text": line.message, **line.fields,
    }  # fmt: skip
    if line.suppressed:
        value["suppressed"] = line.suppressed
    if line.trace:
        value["trace"] = line.trace
    return json.dumps(value, ensure_ascii=True)


def as_datagram(line: Line) -> bytes:
    """The bytes that journald takes on /run/systemd/journal/socket."""
    out = bytearray()
    for name, value in _journal_fields(line):
        data = value.encode("utf-8", "replace")
        if b"\n" in data:
            out += name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
        else:
            out += name.encode() + b"=" + data + b"\n"
    return bytes(out)


def _journal_fields(line: Line) -> list[tuple[str, str]]:
    found = [
        ("MESSAGE", line.message),
        ("PRIORITY", str(PRIORITIES[line.level])),
        ("SYSLOG_IDENTIFIER", line.source),
        ("MESSAGE_ID", line.kind.message_id),
        ("HOLDFAST_KIND", line.kind.name),
    ]
    found += [(f"HOLDFAST_{name.upper()}", str(value)) for name, value in line.fields.items()]
    if line.suppressed:
        found.append(("HOLDFAST_SUPPRESSED", str(line.suppressed)))
    if line.trace:
        found.append(("HOLDFAST_TRACE", line.trace))
    return found


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float
    suppressed: int = 0


@dataclass(slots=True)
class Rates:
    """A token bucket a kind, or a value of its field `by`."""

    _buckets: dict[tuple[Kind, str], _Bucket] = field(default_factory=dict)

    def admit(self, kind: Kind, now_s: float, part: str = "") -> int | None:
        """None when a line of `kind` must not be written now, else how many were not since the last one.

        `part` is the value of the field `kind.by`; above MAX_PARTS values in all, new ones share a limit.
        """
        if (kind, part) not in self._buckets and len(self._buckets) >= MAX_PARTS:
            part = ""
        bucket = self._filled(kind, part, now_s)
        if bucket.tokens < 1:
            bucket.suppressed += 1
            return None
        bucket.tokens -= 1
        count, bucket.suppressed = bucket.suppressed, 0
        return count

    def owed(self, now_s: float, *, all_: bool = False) -> list[tuple[Kind, str, int]]:
        """(kind, part, count) of what may be written again and still owes its count; with `all_` of all."""
        found = []
        for (kind, part), bucket in self._buckets.items():
            if bucket.suppressed and (all_ or self._filled(kind, part, now_s).tokens >= 1):
                bucket.tokens = max(bucket.tokens - 1, 0.0)
                found.append((kind, part, bucket.suppressed))
                bucket.suppressed = 0
        return found

    def _filled(self, kind: Kind, part: str, now_s: float) -> _Bucket:
        bucket = self._buckets.get((kind, part))
        if bucket is None:
            bucket = self._buckets[kind, part] = _Bucket(float(kind.burst), now_s)
        gained = max(now_s - bucket.at_s, 0.0) * kind.per_minute / 60
        bucket.tokens, bucket.at_s = min(bucket.tokens + gained, float(kind.burst)), now_s
        return bucket


def markdown(kinds: Iterable[Kind]) -> list[str]:
    """Rows of the page's table of kinds, heading first; a field stands in italics."""
    rows = ["| kind | level | message | what to do | lines | MESSAGE_ID |", "|---|---|---|---|---|---|"]
    for kind in kinds:
        text, remedy = (re.sub(r"\{(\w+)\}", r"*\1*", part) for part in (kind.text, kind.remedy))
        usual = (kind.burst, kind.per_minute) == (BURST, PER_MINUTE)
        lines = "" if usual else f"{kind.burst}, then {kind.per_minute:g} a minute"
        lines = ", ".join(part for part in (lines, kind.by and f"by {kind.by}") if part)
        cells = (f"`{kind.name}`", kind.level, text, remedy or "-", lines or "-", f"`{kind.message_id}`")
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def fields_markdown() -> list[str]:
    """Rows of the page's table of fields, heading first."""
    rows = [f"| `HOLDFAST_{name.upper()}` | {meaning} |" for name, meaning in FIELDS.items()]
    return ["| field | what it is |", "|---|---|", *rows]
