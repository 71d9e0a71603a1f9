"""`holdfast evidence`: a bundle for whoever sits at the server, written into the audit like everybody else's.

The bundle is made beside its place, then its reading is audited, then it takes its place: where the audit
cannot be written, there is no bundle.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cloud_sync import casework
from cloud_sync.access import Principal
from cloud_sync.errors import BundleError
from cloud_sync.runtime import audit, bundles
from cloud_sync.runtime.collector_files import load_config, load_keys, make_clock
from cloud_sync.runtime.store import Store

CONSOLE: Final = "console"
"""Account and role of who reads without logging in; no account of a person has this role."""


def export(config: Path, tenant: str, what: Mapping[str, Any] | str, purpose: str, out: Path) -> None:
    """Write the bundle of an incident (a row of `queries.incidents`) or of a device (its name) to `out`.

    Raises NotFound, BundleError, BadRequest for a purpose that says nothing, ConfigError, StoreBusy,
    StoreReadOnly: then `out` is as it was.
    """
    files = load_config(config)
    keys, clock = load_keys(files), make_clock(files)
    who = Principal(tenant, 0, CONSOLE, CONSOLE, frozenset(), frozenset())
    if isinstance(what, str):
        device, said = what, f"bundle of device {what}"
    else:
        device = str(what["device"])
        said = f"bundle of incident {casework.Ref(device, bytes.fromhex(what['run']), int(what['incident']))}"
    try:
        with tempfile.TemporaryDirectory(prefix=".holdfast-", dir=out.absolute().parent) as folder:
            made = Path(folder) / "bundle.hfb"
            if isinstance(what, str):
                bundles.export_device(files.store, tenant, what, made)
            else:
                bundles.export_incident(files.store, tenant, what, made)
            with Store(files.store, create=False) as store, store.transaction() as db:
                audit.migrate(db)
                audit.note_in(
                    db, who, audit.EVIDENCE_EXPORT, device, said, purpose, keys.ledger,
                    clock.wall_ns() // 1_000_000,
                )  # fmt: skip
            os.replace(made, out)
    except OSError as error:
        raise BundleError(f"{out} cannot be written: {error.strerror or error}") from error
