"""What a node says of itself over facts.sock: one JSON object, figures only, no track."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from edge.pipeline import Pipeline
from firmware_bridge.wire.stamp import NS
from models.verdict import CAUSE_NAMES


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


def as_json(node: Mapping[str, str], pipeline: Pipeline, work: Work, loss_window_ms: int) -> str:
    """The answer to the verb `status`."""
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
        "open_incidents": [
            {
                "incident": verdict.incident,
                "cause": CAUSE_NAMES[verdict.cause],
                "confidence": verdict.confidence,
                "sentence": verdict.sentence,
            }
            for verdict in pipeline.open_incidents.values()
        ],
        "facts": {source: text for source, (text, _) in pipeline.facts.items()},
        "facts_at": {source: _utc(stamp.wall_ns) for source, (_, stamp) in pipeline.facts.items()},
        "ports": {name: str(link.condition) for name, link in pipeline.links.items()},
        "port_detail": {name: link.detail for name, link in pipeline.links.items()},
        "rss_mb": work.rss_mb,
        "loss_window_ms": loss_window_ms,
        "faults": dict(work.faults),
    }
    return json.dumps(status, ensure_ascii=False)


def _age_s(then_ns: int | None, now_ns: int) -> int | None:
    """Whole seconds of the clock's own time since then."""
    return None if then_ns is None else max(now_ns - then_ns, 0) // NS


def _utc(wall_ns: int | None) -> str | None:
    """ISO 8601 to the second; None where the node did not know the time."""
    return None if wall_ns is None else f"{datetime.fromtimestamp(wall_ns // NS, UTC):%Y-%m-%dT%H:%M:%SZ}"
