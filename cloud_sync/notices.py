"""Who is told of an incident, when, and in which words. Pure.

A rule may also tell of vehicles that are overdue, each once for each time at which it was due; what is said
below of incidents goes for them too, but nobody acts upon them and nothing escalates.

A rule tells of an incident when it opens and when it is escalated (mail and webhooks), and of every later
change of one that it has told (webhooks alone, so that a receiver can close its own ticket). Two things hold
a message back: quiet hours, in which only severe incidents pass, and a storm, when a rule has told
`digest_after` messages within `digest_s`. What is held comes as one digest, the worst first, at the end of
the quiet hours or of the window, unless somebody has acted upon the incident by then.

What a rule knows of an incident is a `Notice`; `decide`, `due` and `escalations` read it, the caller
keeps it. Times are milliseconds since 1970 by the collector's clock.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from cloud_sync.words import Words

Offset = Callable[[int], int]
"""Milliseconds since 1970 to seconds east of UTC in a rule's zone; the runtime asks the zone database."""
Row = Mapping[str, Any]
"""An incident as `IncidentRow` of the API tells it."""
Kind = Literal["alert", "change", "digest", "test"]

OVERDUE: Final = "overdue"
"""Cause and state of a vehicle that was not heard when it was due, and has no incident that says more."""
OVERDUE_SEVERITY: Final = 250
"""Of an overdue vehicle, in the order of severities: a certain silence of a vehicle that is not pledged."""
ALERTING: Final = frozenset({"open", "escalated", OVERDUE})
"""States in which nobody has taken the incident on: only these wake anybody."""
MINUTES_A_DAY: Final = 24 * 60
BACKWARDS_MS: Final = 60_000
"""A clock that went back by more was set (a scenario began anew): what waited for it is due."""
MAX_DIGEST_LINES: Final = 50
"""Incidents that a digest's text names; more is not read in a mail. The others are counted, and their ids
stand in the data."""
MAX_DIGEST_ROWS: Final = 100
"""Incidents whose whole row stands in a digest's data: about 100 kB."""
MAX_SUBJECT_CHARS: Final = 160
MAX_LINE_CHARS: Final = 700
"""A sentence of a device has at most 600 characters."""
TYPE_PREFIX: Final = "net.holdfast.incident"
"""CloudEvents type: <prefix>.<state>.v1, or <prefix>.digest.v1; `net.holdfast.test.v1` for a test."""
OVERDUE_TYPE: Final = "net.holdfast.vehicle.overdue.v1"
OVERDUE_DIGEST_TYPE: Final = "net.holdfast.vehicle.overdue-digest.v1"
TEST_TYPE: Final = "net.holdfast.test.v1"

_SURE: Final = ((0.9, "very"), (0.75, "quite"), (0.6, "fairly"), (0.4, "little"), (0.0, "hardly"))
_UTC_OFFSET_S: Final = 0


@dataclass(frozen=True, slots=True)
class QuietHours:
    """Local hours within which only severe incidents are told at once."""

    start_min: int
    """Minute of the day, 0 .. 1439."""
    end_min: int
    """Exclusive; before the start: on the next day; the same: a whole day."""
    days: frozenset[int]
    """Weekdays on which the hours begin; Monday is 0."""
    except_severity: int
    zone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Rule:
    """Who is told of what."""

    id: int
    tenant: str
    name: str
    branches: frozenset[str] = frozenset()
    causes: frozenset[str] = frozenset()
    min_severity: int = 0
    emails: tuple[str, ...] = ()
    webhooks: tuple[int, ...] = ()
    language: str = "en"
    quiet: QuietHours | None = None
    escalate_after_s: int | None = None
    escalate_to: tuple[str, ...] = ()
    digest_after: int = 5
    digest_s: int = 300
    enabled: bool = True
    overdue: bool = False
    """Tells of overdue vehicles too, whatever `causes` and `min_severity` say of incidents."""
    since_feed: int = 0
    """Feed id at which the rule was made: what happened before is not told."""


@dataclass(frozen=True, slots=True)
class Matter:
    """What the decisions look at in an incident."""

    id: str
    branch: str | None
    cause: str
    state: str
    severity: int
    acted: bool = False
    """A person or a rule has acted upon it; without that, what is closed was closed by the device itself."""

    @property
    def alerts(self) -> bool:
        """Whether somebody must hear of it: nobody has taken it on, or it passed and nobody looked."""
        return self.state in ALERTING or (self.state == "closed" and not self.acted)


@dataclass(frozen=True, slots=True)
class Notice:
    """What a rule has done about an incident."""

    incident: str
    status: Literal["told", "held", "dropped"]
    state: str
    """State of the incident that was told, held or dropped last."""
    severity: int
    at_ms: int
    """When this was decided."""
    why: Literal["", "quiet", "storm"] = ""
    due_ms: int | None = None
    """End of the storm's window; None for quiet hours, which are asked anew."""
    told_ms: int | None = None
    """When the rule first told of the incident; counts for escalation."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now: tell (`kind`), and what to remember (`notice`, None: nothing changes)."""

    notice: Notice | None = None
    kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """An incident with its next steps, for a message."""

    row: Row
    next: Sequence[tuple[str, Mapping[str, Any]]] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """Subject and text for people, type and data for machines."""

    subject: str
    text: str
    type: str
    source: str
    about: str
    """CloudEvents subject: the incident's id, or the rule's number of a digest."""
    time: str
    data: dict[str, Any]


def matter_of(row: Row) -> Matter:
    """What decisions need of `row`."""
    return Matter(
        row["id"], row["branch"], row["cause"], row["state"], int(row["severity"]), int(row["version"]) > 0
    )


def is_quiet(quiet: QuietHours | None, severity: int, now_ms: int, offset: Offset) -> bool:
    """Whether quiet hours hold a message of `severity` back at `now_ms`. They go by the local wall clock:
    hours that a change of time leaves out are left out, hours that come twice are quiet twice."""
    if quiet is None or severity >= quiet.except_severity:
        return False
    local_min = (now_ms // 1000 + offset(now_ms)) // 60
    minute, weekday = (
        local_min % MINUTES_A_DAY,
        (local_min // MINUTES_A_DAY + 3) % 7,
    )  # 1970-01-01: a Thursday
    if quiet.start_min < quiet.end_min:
        return quiet.start_min <= minute < quiet.end_min and weekday in quiet.days
    if minute >= quiet.start_min:
        return weekday in quiet.days
    return minute < quiet.end_min and (weekday - 1) % 7 in quiet.days


def belongs(rule: Rule, matter: Matter) -> bool:
    """Whether an incident of this branch and cause is the rule's business at all."""
    meant = rule.overdue if matter.cause == OVERDUE else not rule.causes or matter.cause in rule.causes
    return rule.enabled and meant and (not rule.branches or matter.branch in rule.branches)


def decide(
    rule: Rule, matter: Matter, known: Notice | None, recent: Sequence[int], now_ms: int, offset: Offset
) -> Decision:
    """What `rule` does about `matter` as it is now. `recent`: times of the rule's last messages of alerts."""
    if not belongs(rule, matter):
        return Decision()
    told_ms = known.told_ms if known else None
    if not matter.alerts or (matter.state == "closed" and told_ms is not None):
        return _acted(matter, known, now_ms)
    if known is not None and known.status == "dropped" and known.state == matter.state:
        return Decision()
    if known is None or known.status == "dropped":
        if matter.severity < rule.min_severity and matter.cause != OVERDUE:
            return Decision()
    elif known.status == "told" and known.state == matter.state:
        return Decision()
    elif known.status == "held" and known.why == "storm":
        if (known.state, known.severity) == (matter.state, matter.severity):
            return Decision()
        return Decision(replace(known, state=matter.state, severity=matter.severity))
    notice = _gate(rule, matter, recent, now_ms, offset)
    if notice.status == "told":
        return Decision(told(replace(notice, told_ms=told_ms), now_ms), "alert")
    if known and known.status == "held" and (known.state, known.severity) == (matter.state, matter.severity):
        return Decision()
    return Decision(replace(notice, told_ms=told_ms))


def due(rule: Rule, held: Sequence[Notice], now_ms: int, offset: Offset) -> list[Notice]:
    """Those of `held` that are to be told now, as one message, the worst first."""
    found = []
    for notice in held if rule.enabled else ():
        if is_quiet(rule.quiet, notice.severity, now_ms, offset):
            continue
        if notice.why == "storm" and notice.due_ms is not None:
            left_ms = notice.due_ms - now_ms
            if 0 < left_ms <= rule.digest_s * 1000 + BACKWARDS_MS:
                continue
        found.append(notice)
    return sorted(found, key=lambda notice: (-notice.severity, notice.at_ms, notice.incident))


def told(notice: Notice, now_ms: int) -> Notice:
    """`notice` after its message was made. One that opens, or opens again, waits for somebody from now on."""
    first_ms = now_ms if notice.told_ms is None or notice.state == "open" else notice.told_ms
    return replace(notice, status="told", why="", due_ms=None, at_ms=now_ms, told_ms=first_ms)


def addressees(rule: Rule, before: Notice | None, state: str) -> tuple[str, ...]:
    """Mail addresses that hear of an alert in `state`, `before` being what the rule had done until then.
    An escalation goes to `escalate_to`, and to the others as well where they know nothing yet or nobody else
    is named."""
    if state != "escalated" or not rule.escalate_to:
        return rule.emails
    known = before is not None and before.told_ms is not None
    return tuple(dict.fromkeys(rule.escalate_to if known else (*rule.emails, *rule.escalate_to)))


def escalations(rule: Rule, notices: Sequence[Notice], now_ms: int, offset: Offset) -> list[str]:
    """Ids of the incidents that were told, that nobody acknowledged in time and that are not escalated yet.
    In quiet hours only severe ones are escalated: the others wait for their end."""
    if rule.escalate_after_s is None or not rule.enabled:
        return []
    found = []
    for notice in notices:
        if notice.status != "told" or notice.state != "open" or notice.told_ms is None:
            continue
        age_ms = now_ms - notice.told_ms
        waited = age_ms >= rule.escalate_after_s * 1000 or age_ms < -BACKWARDS_MS
        if waited and not is_quiet(rule.quiet, notice.severity, now_ms, offset):
            found.append(notice.incident)
    return found


def message_id(tenant: str, target: str, items: Sequence[Item], kind: str) -> str:
    """The id of one message to one target: the same whenever it is made again of the same state, so that a
    second rule, or a crash, does not tell anybody the same thing twice."""
    parts = [tenant, target, "digest" if kind == "digest" else ""]
    for item in items:
        row = item.row
        parts += [str(row["id"]), str(row["state"]), str(row["version"]), str(row["updated_at"])]
    return "msg_" + hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]


def clean(text: object, limit: int = MAX_LINE_CHARS) -> str:
    """One line of at most `limit` characters: control and format characters and line ends become spaces, so
    that no name can begin a header, a line or another direction of writing."""
    spaced = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in str(text))
    line = " ".join(spaced.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def compose(rule: Rule, item: Item, words: Words, base_url: str, offset: Offset) -> Message:
    """The message about one incident."""
    row = item.row
    state, link = str(row["state"]), link_to(base_url, row)
    subject = words.say(f"notice.subject.{state}", _names(row, words))
    lead = "passed" if state == "closed" and matter_of(row).alerts else state
    parts = [*_marks([item], words), words.say(f"notice.lead.{lead}"), "", _sentence(row, words, offset), ""]
    parts += _facts(row, words, offset)
    if item.next and lead not in ("closed", "refuted"):
        parts += ["", words.say("notice.do")]
        parts += [f"{n}. {_said(step, words)}" for n, step in enumerate(item.next, 1)]
    late = row["cause"] == OVERDUE
    told = words.say("notice.card" if late else "notice.story", {"link": link})
    parts += ["", told, "", *_foot(rule, words)]
    return Message(
        _subject(subject, [item], words),
        "\n".join(parts) + "\n",
        OVERDUE_TYPE if late else f"{TYPE_PREFIX}.{state}.v1",
        f"urn:holdfast:{rule.tenant}:{row['device']}",
        str(row["device"] if late else row["id"]),
        str(row["updated_at"]),
        {"vehicle" if late else "incident": dict(row), "link": link},
    )


def compose_digest(
    rule: Rule, items: Sequence[Item], words: Words, base_url: str, now_ms: int, offset: Offset
) -> Message:
    """One message about several incidents, or about several overdue vehicles, the worst first."""
    ordered = sorted(items, key=lambda item: (-int(item.row["severity"]), str(item.row["id"])))
    late = ordered[0].row["cause"] == OVERDUE
    which = ".overdue" if late else ""
    count, link = len(ordered), f"{base_url.rstrip('/')}/#/{'fleet?state=overdue' if late else 'incidents'}"
    worst = words.say(f"notice.cause.{ordered[0].row['cause']}")
    subject = words.say(f"notice.subject.digest{which}", {"n": count, "cause": worst})
    parts = [*_marks(ordered, words), words.say(f"notice.lead.digest{which}", {"n": count}), ""]
    for number, item in enumerate(ordered[:MAX_DIGEST_LINES], 1):
        row = item.row
        place = _place(row, words)
        parts += [
            f"{number}. {_mark(row, words)}{words.say('notice.line', _names(row, words))}",
            f"   {_sentence(row, words, offset)}",
            f"   {'; '.join((_when(row, words, offset), place, *_surely(row, words)))}",
            f"   {link_to(base_url, row)}",
        ]
    if count > MAX_DIGEST_LINES:
        parts.append(words.say("notice.more", {"n": count - MAX_DIGEST_LINES}))
    parts += ["", words.say("notice.do"), words.say(f"notice.do.digest{which}"), ""]
    parts += [words.say(f"notice.all{which}", {"link": link}), "", *_foot(rule, words)]
    return Message(
        _subject(subject, ordered, words),
        "\n".join(parts) + "\n",
        OVERDUE_DIGEST_TYPE if late else f"{TYPE_PREFIX}.digest.v1",
        f"urn:holdfast:{rule.tenant}",
        f"rule-{rule.id}",
        _iso(now_ms),
        {
            "vehicles" if late else "incidents": [
                {"vehicle" if late else "incident": dict(item.row), "link": link_to(base_url, item.row)}
                for item in ordered[:MAX_DIGEST_ROWS]
            ],
            "others": [str(item.row["id"]) for item in ordered[MAX_DIGEST_ROWS:]],
            "count": count,
            "link": link,
        },
    )


def compose_test(tenant: str, name: str, words: Words, base_url: str, now_ms: int) -> Message:
    """A message that tells of nothing, for trying out the target `name`."""
    text = words.say("notice.test", {"name": clean(name, 80)})
    return Message(
        words.say("notice.subject.test"),
        f"{text}\n",
        TEST_TYPE,
        f"urn:holdfast:{tenant}",
        "test",
        _iso(now_ms),
        {"text": text, "link": f"{base_url.rstrip('/')}/#/admin/webhooks"},
    )


def cloud_event(message: Message, identity: str) -> dict[str, Any]:
    """`message` as CloudEvents 1.0 in JSON (CloudEvents JSON format 1.0, section 3)."""
    return {
        "specversion": "1.0",
        "id": identity,
        "source": message.source,
        "type": message.type,
        "subject": message.about,
        "time": message.time,
        "datacontenttype": "application/json",
        "data": message.data,
    }


def link_to(base_url: str, row: Row) -> str:
    """The address of an incident's story, or of an overdue vehicle."""
    where = f"vehicle/{row['device']}" if row["cause"] == OVERDUE else f"incident/{row['id']}"
    return f"{base_url.rstrip('/')}/#/{where}"


def _acted(matter: Matter, known: Notice | None, now_ms: int) -> Decision:
    """Somebody, or the device, has ended the alarm: what was told is told on, what was held is dropped."""
    if known is None or known.status == "dropped" or known.state == matter.state:
        return Decision()
    changed = Notice(
        matter.id, "told", matter.state, matter.severity, now_ms, told_ms=known.told_ms,
    )  # fmt: skip
    if known.told_ms is None:
        return Decision(replace(changed, status="dropped"))
    return Decision(changed, "change")


def _gate(rule: Rule, matter: Matter, recent: Sequence[int], now_ms: int, offset: Offset) -> Notice:
    passed = Notice(matter.id, "told", matter.state, matter.severity, now_ms)
    if is_quiet(rule.quiet, matter.severity, now_ms, offset):
        return replace(passed, status="held", why="quiet")
    window_ms = rule.digest_s * 1000
    within = [at_ms for at_ms in recent if 0 <= now_ms - at_ms < window_ms]
    if len(within) >= rule.digest_after:
        return replace(passed, status="held", why="storm", due_ms=min(within) + window_ms)
    return passed


def _names(row: Row, words: Words) -> dict[str, str | int]:
    branch = row["branch"]
    return {
        "name": clean(row["name"] or row["device"], 80),
        "device": clean(row["device"], 80),
        "branch": words.say("notice.no_branch") if branch is None else clean(branch, 80),
        "cause": words.say(f"notice.cause.{row['cause']}"),
        "state": words.say(f"notice.state.{row['state']}"),
    }


def _said(step: tuple[str, Mapping[str, Any]], words: Words) -> str:
    return clean(words.say(step[0], step[1]))


def _sentence(row: Row, words: Words, offset: Offset) -> str:
    if row["cause"] == OVERDUE:
        heard = row["last_heard"]
        return words.say(
            "notice.overdue",
            {
                "due": _local(str(row["opened"]["at"]), offset),
                "heard": None if heard is None else _local(str(heard), offset),
            },
        )
    chinese = words.language == "zh" and row.get("sentence_zh")
    return clean(row["sentence_zh"] if chinese else row["sentence"])


def _facts(row: Row, words: Words, offset: Offset) -> list[str]:
    names = _names(row, words)
    lines = [
        words.say("notice.vehicle", names),
        words.say("notice.when", {"when": _when(row, words, offset)}),
        words.say("notice.where", {"where": _place(row, words)}),
        *(words.say("notice.sure", {"sure": sure}) for sure in _surely(row, words)),
        words.say("notice.is", names),
    ]
    if row.get("assignee"):
        lines.append(words.say("notice.assignee", {"name": clean(row["assignee"], 80)}))
    return lines


def _when(row: Row, words: Words, offset: Offset) -> str:
    moment = row["opened"]
    at = _local(str(moment["at"]), offset)
    unc_ms = moment.get("unc_ms")
    if row["cause"] == OVERDUE:
        return at
    source = words.say(f"notice.source.{moment.get('source') or 'received'}")
    if unc_ms is None:
        return words.say("notice.time_received", {"at": at, "source": source})
    return words.say("notice.time", {"at": at, "unc": f"{max(unc_ms, 100) / 1000:.1f}", "source": source})


def _place(row: Row, words: Words) -> str:
    place = row.get("place")
    if not place:
        return words.say("notice.nowhere")
    grid = f"{place['lat']:.2f}, {place['lon']:.2f}"
    if not place.get("name"):
        return words.say("notice.grid", {"grid": grid})
    params: dict[str, str | int] = {"name": clean(place["name"], 80), "grid": grid}
    if place.get("distance_m") is None:
        return words.say("notice.at", params)
    return words.say("notice.near", params | {"km": f"{place['distance_m'] / 1000:.1f}"})


def _sure(row: Row, words: Words) -> str:
    confidence = float(row["confidence"])
    word = next(name for least, name in _SURE if confidence >= least or least == 0.0)
    return words.say(f"notice.sure.{word}", {"value": f"{confidence:.2f}"})


def _surely(row: Row, words: Words) -> list[str]:
    """How sure a detector is; of what was not heard there is nothing to be sure of."""
    return [] if row["cause"] == OVERDUE else [_sure(row, words)]


def _mark(row: Row, words: Words) -> str:
    clock = row["clock"]
    return "" if clock == "live" else f"[{words.say(f'notice.clock.{clock}')}] "


def _marks(items: Sequence[Item], words: Words) -> list[str]:
    kinds = sorted({str(item.row["clock"]) for item in items} - {"live"})
    return [line for kind in kinds for line in (words.say(f"notice.warning.{kind}"), "")]


def _subject(text: str, items: Sequence[Item], words: Words) -> str:
    kinds = sorted({str(item.row["clock"]) for item in items} - {"live"})
    marks = "".join(f"[{words.say(f'notice.clock.{kind}')}] " for kind in kinds)
    return clean(f"{marks}{text}", MAX_SUBJECT_CHARS)


def _foot(rule: Rule, words: Words) -> list[str]:
    return ["-- ", words.say("notice.foot", {"rule": clean(rule.name, 80)})]


def _local(at: str, offset: Offset) -> str:
    moment = datetime.fromisoformat(at).astimezone(UTC)
    shift_s = offset(int(moment.timestamp() * 1000))
    text = (moment + timedelta(seconds=shift_s)).strftime("%Y-%m-%d %H:%M:%S")
    if shift_s == _UTC_OFFSET_S:
        return f"{text} UTC"
    sign, minutes = ("+", shift_s // 60) if shift_s > 0 else ("-", -shift_s // 60)
    return f"{text} (UTC{sign}{minutes // 60:02d}:{minutes % 60:02d})"


def _iso(wall_ms: int) -> str:
    moment = datetime.fromtimestamp(wall_ms // 1000, UTC).replace(microsecond=wall_ms % 1000 * 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
