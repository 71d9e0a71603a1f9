"""Evidence bundles as downloads: made in a folder that goes, written into the audit, then sent.

A bundle holds exact positions, so its audit entry is committed before the first byte leaves; when it cannot
be written, nothing is sent. The file has no name any more when it is sent: who hangs up leaves nothing.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from starlette.responses import Response, StreamingResponse

from cloud_sync import casework
from cloud_sync.access import Principal
from cloud_sync.errors import NotFound
from cloud_sync.runtime import audit, bundles, cases
from cloud_sync.runtime.bundles import IncidentRef
from cloud_sync.runtime.serve.deps import Context
from cloud_sync.runtime.serve.problems import ApiProblem

CHUNK_BYTES: Final = 256 * 1024
"""Read and sent at a time."""
AT_ONCE: Final = 2
"""Bundles that are made at the same time: each is held in memory while it is made."""
WAIT_S: Final = 20.0
"""How long a request waits for its turn."""
MEDIA_TYPE: Final = "application/octet-stream"
ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The bundle; `holdfast verify` checks it offline.",
        "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}

_turns: Final = threading.BoundedSemaphore(AT_ONCE)
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]")


def of_device(ctx: Context, who: Principal, device: str, purpose: str) -> Response:
    """The bundle of everything logged of `device`. Raises NotFound, BundleError, BadRequest, StoreBusy."""

    def export(out: Path) -> None:
        bundles.export_device(ctx.stores.path, who.tenant, device, out)

    return _send(ctx, who, device, f"bundle of device {device}", purpose, export, device)


def of_incident(ctx: Context, who: Principal, incident_id: str, purpose: str) -> Response:
    """The bundle of an incident that `who` may see. Raises NotFound, BundleError, BadRequest, StoreBusy."""
    ref = casework.parse_id(incident_id)
    with ctx.stores.reading() as db:
        cases.check_seen(db, who, ref)
        row = db.execute(
            "SELECT seq FROM incidents WHERE tenant=? AND device=? AND run=? AND incident=?",
            (who.tenant, ref.device, ref.run, ref.incident),
        ).fetchone()
    if row is None:
        raise NotFound(cases.NO_SUCH)
    opening = IncidentRef(ref.device, ref.run, int(row[0]))

    def export(out: Path) -> None:
        bundles.export_incident(ctx.stores.path, who.tenant, opening, out)

    what = f"bundle of incident {incident_id}"
    return _send(ctx, who, ref.device, what, purpose, export, incident_id)


def _send(
    ctx: Context,
    who: Principal,
    device: str,
    what: str,
    purpose: str,
    export: Callable[[Path], None],
    name: str,
) -> Response:
    file = _made(export)
    try:
        with ctx.stores.writing() as store:
            audit.note(store, who, audit.EVIDENCE_EXPORT, device, what, purpose, ctx.ledger_key, ctx.now_ms())
        size = os.fstat(file.fileno()).st_size
    except BaseException:
        file.close()
        raise
    safe = _UNSAFE.sub("-", name)
    headers = {
        "Content-Disposition": f'attachment; filename="holdfast-{safe}.hfb"',
        "Content-Length": str(size),
        "Cache-Control": "no-store",
    }
    return StreamingResponse(_chunks(file), headers=headers, media_type=MEDIA_TYPE)


def _made(export: Callable[[Path], None]) -> IO[bytes]:
    """The bundle as an open file without a name."""
    if not _turns.acquire(timeout=WAIT_S):
        raise ApiProblem(
            "busy", "Other bundles are being made right now.", "Try again in a minute.", {"Retry-After": "60"}
        )
    try:
        with tempfile.TemporaryDirectory(prefix="holdfast-export-") as folder:
            out = Path(folder) / "bundle.hfb"
            export(out)
            return out.open("rb")
    finally:
        _turns.release()


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
