"""What a node says of itself over facts.sock (one JSON object, no track), and what of it is wrong.

`as_json` is the daemon's answer. `judge` reads such an answer and says what a person should do; `holdfast
status` and `holdfast doctor` both use it, so that they cannot disagree.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum, unique
from typing import Any, Final

from edge.config import Config
from edge.pipeline import Pipeline
from firmware_bridge.wire.stamp import NS
from models.verdict import CAUSE_NAMES, Verdict

OK, FAILURE, USAGE, NO_DEVICE, AMBIGUOUS, BUSY, PERMISSION, PENDING, UNVERIFIED = (
    0, 1, 2, 10, 11, 12, 13, 31, 40,
)  # fmt: skip
ORDER: Final = (USAGE, PERMISSION, BUSY, NO_DEVICE, AMBIGUOUS, UNVERIFIED, PENDING, FAILURE)
"""Of several errors the exit code names the one to mend first: those behind it may be its consequences."""
RECEIPT_OLD_S: Final = 3600
"""A receipt older than this while segments wait: longer than a tunnel or a ferry."""
SILENT_S: Final = 180
"""A parked vehicle is heard every 60 s; three times that is not."""


@unique
class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"
    """Nothing is wrong; worth knowing."""
    WARNING = "warning"
    """It works, and will not for ever."""
    ERROR = "error"
    """Something does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """Stable name for programs: ports, disk, broker ..."""
    level: Level
    text: str
    next: str = ""
    """What to do; "" only where nothing is to be done."""
    code: int = FAILURE
    """Exit code of an error."""

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "check": self.check, "level": str(self.level), "text": self.text, "next": self.next or None,
            "code": self.code if self.level is Level.ERROR else 0,
        }  # fmt: skip


def exit_code(findings: Iterable[Finding]) -> int:
    """0 without an error, else the code of the one to mend first."""
    codes = {one.code for one in findings if one.level is Level.ERROR}
    return next((code for code in ORDER if code in codes), FAILURE if codes else OK)


@dataclass(frozen=True, slots=True)
class Work:
    """Counters of the daemon around the pipeline, since its start."""

    run: str
    events: int
    """Accepted: committed to the outbox."""
    segments: int
    """Sealed."""
    receipts: int
    """Verified."""
    pending: int
    """Read, not yet accepted."""
    unsealed: int
    """Accepted, not yet in a segment."""
    outbox_segments: int
    outbox_bytes: int
    refused_full: int
    thinned: int
    """Events in segments dropped by thinning."""
    remembered: int
    """Receipted segments whose rows could not be deleted yet."""
    store: str
    """"ok", or what is the matter with it."""
    rss_mb: float
    faults: Mapping[str, int]
    """Errors that were caught at the top and survived, by task."""
    now_ns: int
    """Monotonic time of the answer."""
    last_receipt_ns: int | None = None
    """Monotonic time of the last verified receipt."""


def as_json(
    node: Mapping[str, str],
    pipeline: Pipeline,
    work: Work,
    loss_window_ms: int,
    more: Mapping[str, object] | None = None,
) -> str:
    """The answer to the verb `status`; `more` is what the daemon knows of itself."""
    continuity = pipeline.continuity
    status: dict[str, Any] = {
        **node,
        "clock": pipeline.clock.name.lower(),
        "last_fix_age_s": _age_s(pipeline.last_fix_ns, work.now_ns),
        "last_receipt_age_s": _age_s(work.last_receipt_ns, work.now_ns),
        "run": work.run,
        "readings": dict(sorted(continuity.readings.items())),
        "position_valid": continuity.position_valid,
        "position_estimated": continuity.position_estimated,
        "position_void": continuity.position_void,
        "gaps_s": continuity.gaps_s,
        "fix_gaps_s": continuity.fix_gaps_s,
        "refused": dict(sorted(continuity.refused.items())),
        "bytes": pipeline.bytes,
        "port_bytes": {name: link.bytes for name, link in pipeline.links.items()},
        "events": work.events,
        "segments": work.segments,
        "receipts": work.receipts,
        "outbox": {
            "segments": work.outbox_segments,
            "bytes": work.outbox_bytes,
            "events_unsealed": work.unsealed + work.pending,
            "remembered": work.remembered,
        },
        "pending": work.pending,
        "refused_full": work.refused_full,
        "thinned": work.thinned,
        "store": work.store,
        "open_incidents": [_incident(one, work.now_ns) for one in pipeline.open_incidents.values()],
        "verdicts": [_incident(one, work.now_ns) for one in pipeline.decided],
        "incidents": pipeline.incidents,
        "facts": {source: text for source, (text, _) in pipeline.facts.items()},
        "facts_at": {source: _utc(stamp.wall_ns) for source, (_, stamp) in pipeline.facts.items()},
        "ports": {name: str(link.condition) for name, link in pipeline.links.items()},
        "port_detail": {name: link.detail for name, link in pipeline.links.items()},
        "port_figures": _port_figures(pipeline, work.now_ns),
        "rss_mb": work.rss_mb,
        "loss_window_ms": loss_window_ms,
        "faults": dict(work.faults),
        **(more or {}),
    }
    return json.dumps(status, ensure_ascii=False)


def ports_of(config: Config) -> dict[str, dict[str, object]]:
    """Where the ports lead, for `more` of `as_json`."""
    return {
        port.name: {"path": port.path, "protocol": port.protocol, "baud": port.baud} for port in config.ports
    }


def _port_figures(pipeline: Pipeline, now_ns: int) -> dict[str, dict[str, object]]:
    return {
        name: {
            "bytes": pipeline.links[name].bytes,
            "readings": one.readings,
            "per_second": round(one.per_second(now_ns), 1),
            "last_reading_age_s": _age_s(one.last_ns, now_ns),
            "refused": dict(sorted(one.refused.items())),
        }
        for name, one in pipeline.ports.items()
    }


def _incident(verdict: Verdict, now_ns: int) -> dict[str, object]:
    return {
        "incident": verdict.incident,
        "cause": CAUSE_NAMES[verdict.cause],
        "stage": verdict.action.name.lower(),
        "confidence": verdict.confidence,
        "since_s": _age_s(verdict.since_ns, now_ns),
        "age_s": _age_s(verdict.t_ns, now_ns),
        "sentence": verdict.sentence,
    }


def _age_s(then_ns: int | None, now_ns: int) -> int | None:
    """Whole seconds of the clock's own time since then."""
    return None if then_ns is None else max(now_ns - then_ns, 0) // NS


def _utc(wall_ns: int | None) -> str | None:
    """ISO 8601 to the second; None where the node did not know the time."""
    return None if wall_ns is None else f"{datetime.fromtimestamp(wall_ns // NS, UTC):%Y-%m-%dT%H:%M:%SZ}"


# ---- what is wrong ----------------------------------------------------------------------------------

_PORT_CODES: Final = (
    ("no permission", PERMISSION), ("in use by another", BUSY), ("is not there", NO_DEVICE),
    ("went away", NO_DEVICE),
)  # fmt: skip


def judge(told: Mapping[str, Any]) -> list[Finding]:
    """What of a running edge's answer is not as it should be, with what to do. Nothing: all is well."""
    found = [*_judge_ports(told), *_judge_store(told), *_judge_cloud(told)]
    if told.get("clock") != "live":
        text = f"this node's clock is {told.get('clock')}: what it says is of a scenario, not of now"
        found.append(Finding("clock", Level.NOTE, text))
    if told["faults"]:
        named = ", ".join(f"{name} {count}" for name, count in told["faults"].items())
        found.append(
            Finding(
                "faults",
                Level.WARNING,
                f"faults were survived: {named}",
                f"see `journalctl -u {unit_of(told)}`",
            )
        )
    reload = told.get("reload")
    if reload is not None and not reload["ok"]:
        found.append(
            Finding("config", Level.WARNING, f"the last reload: {reload['text']}",
                    f"correct it, then `systemctl reload {unit_of(told)}`")
        )  # fmt: skip
    return found


def unit_of(told: Mapping[str, Any]) -> str:
    """The systemd unit of the node that answered."""
    return "holdfast-roadside" if told.get("kind") == "roadside" else "holdfast-edge"


def _judge_ports(told: Mapping[str, Any]) -> list[Finding]:
    found = []
    for name, condition in told["ports"].items():
        detail = told["port_detail"][name]
        if condition == "absent" and detail != "not opened yet":
            code = next((code for words, code in _PORT_CODES if words in detail), FAILURE)
            found.append(Finding("ports", Level.ERROR, f"port {name}: {_what(detail)}", _do(detail), code))
        elif condition not in ("ok", "absent"):
            found.append(Finding("ports", Level.WARNING, f"port {name}: {_what(detail)}", _do(detail)))
        elif (figures := told.get("port_figures", {}).get(name)) is not None and condition == "ok":
            age = figures["last_reading_age_s"]
            if age is not None and age > SILENT_S:
                text = f"port {name}: no reading for {span(age)}"
                found.append(
                    Finding("ports", Level.WARNING, text, "check the device's power, aerial and cable")
                )
    if not told["ports"]:
        found.append(
            Finding("ports", Level.WARNING, "no port is configured: this node sees nothing",
                    "add a [[port]] to node.toml; `holdfast doctor` lists the devices", NO_DEVICE)
        )  # fmt: skip
    return found


def _what(detail: str) -> str:
    return detail.partition(": ")[0]


def _do(detail: str) -> str:
    return detail.partition(": ")[2] or "check the device and its cable"


def _judge_store(told: Mapping[str, Any]) -> list[Finding]:
    found = []
    if told["store"] != "ok":
        text = f"nothing is accepted: {told['store']}"
        found.append(
            Finding("store", Level.ERROR, text, "see to the state folder's disk; nothing needs a restart")
        )
    if told["refused_full"]:
        text = f"{told['refused_full']:,} events could not be stored; the chain says so"
        found.append(Finding("store", Level.WARNING, text, "free space in the state folder"))
    if told["thinned"]:
        text = f"{told['thinned']:,} old telemetry events were dropped to keep the outbox in its bounds"
        found.append(
            Finding("store", Level.WARNING, text, "bring the node online, or raise [outbox] max_bytes")
        )
    return found


def _judge_cloud(told: Mapping[str, Any]) -> list[Finding]:
    found = []
    waiting, age = told["outbox"]["segments"], told["last_receipt_age_s"]
    if waiting and not told["receipts"]:
        text = f"{waiting:,} segments wait and no receipt came since the start"
        found.append(
            Finding(
                "uplink",
                Level.WARNING,
                text,
                "is `holdfast uplink` running? `holdfast doctor` tries the broker",
            )
        )
    elif waiting and age is not None and age > RECEIPT_OLD_S:
        text = f"{waiting:,} segments wait and the last receipt came {span(age)} ago"
        found.append(
            Finding("uplink", Level.WARNING, text, "`holdfast doctor` tries the broker; see the uplink's log")
        )
    said = told["facts"].get("uplink")
    if said and said != "all well again":
        found.append(
            Finding("uplink", Level.WARNING, f"the uplink says: {said}", "see there, then the broker's log")
        )
    return found


def span(seconds: float) -> str:
    """A length of time in its largest fitting unit."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def worst(findings: Sequence[Finding]) -> Level:
    """The gravest level among them."""
    order = list(Level)
    return max((one.level for one in findings), key=order.index, default=Level.OK)
