"""`holdfast provision show`: who this node is, and until when. Changes nothing."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from firmware_bridge.wire import cose
from provisioning import accept
from provisioning.ca import Purpose
from provisioning.enrolment import Exit
from provisioning.errors import EnrolError
from provisioning.runtime import journal as journals
from provisioning.runtime.asked import Outcome
from provisioning.runtime.journal import Files
from provisioning.runtime.keystore import Keystore


def show(state: Path, now: datetime) -> Outcome:
    """What is known of the node. Raises EnrolError where nothing was begun, OSError."""
    journal = journals.load(state)
    if journal is None:
        raise EnrolError(
            Exit.USAGE, f"nothing was enrolled in {state}", "begin with: holdfast provision --help"
        )
    store = Keystore(state, Files(state), journal.credentials)
    step = journal.next_step.value if journal.next_step else None
    fields: dict[str, Any] = {
        "tenant": journal.identity.tenant,
        "device": journal.identity.device,
        "kind": journal.kind,
        "urn": journal.identity.urn,
        "server": journal.server or None,
        "root_sha256": journal.root,
        "unfinished_step": step,
        "renewal_unfinished": journal.exchanging or any(store.keys.glob("pairs/*/next")),
        "reload_due": journal.reload_due,
        "credentials": journal.credentials or None,
        "certificates": {
            purpose.value: _certificate(found[0], now)
            for purpose in Purpose
            if (found := store.certificates(f"{purpose.value}.crt"))
        },
    }
    until = [one["not_after"] for one in fields["certificates"].values()]
    fields["until"] = min(until) if until and step is None else None
    return Outcome(Exit.OK, _text(fields), None, fields)


def _certificate(certificate: x509.Certificate, now: datetime) -> dict[str, Any]:
    public = certificate.public_key()
    end = certificate.not_valid_after_utc
    return {
        "key_id": cose.key_id(public).hex() if isinstance(public, ec.EllipticCurvePublicKey) else "",
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
        "serial": f"{certificate.serial_number:x}",
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": end.isoformat(),
        "days_left": round((end - now).total_seconds() / 86_400, 1),
        "renewal_after": accept.renewal_at(certificate).isoformat(timespec="seconds"),
    }


def _text(fields: dict[str, Any]) -> str:
    root = fields["root_sha256"]
    lines = [
        f"{fields['urn']} ({fields['kind']})",
        f"root   {' '.join(root[at : at + 4] for at in range(0, len(root), 4))}",
        f"server {fields['server'] or 'none: enrolled by files'}",
    ]
    for name, one in fields["certificates"].items():
        lines.append(
            f"{name:6} key {one['key_id']}, until {one['not_after'][:10]} ({one['days_left']} days left)"
            f", renewed from {one['renewal_after'][:10]}"
        )
    if fields["unfinished_step"]:
        lines.append(
            f"unfinished: stands at step {fields['unfinished_step']}; run `holdfast provision` again"
        )
    if fields["renewal_unfinished"]:
        lines.append("a renewal is unfinished: run `holdfast provision renew` again")
    if fields["reload_due"]:
        lines.append("the edge has not taken the new key yet: systemctl reload holdfast-edge")
    return "\n".join(lines)
