"""What enrolment and renewal left on the disk, read and judged as the services will read it."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from provisioning import accept
from provisioning.accept import Issued
from provisioning.ca import Purpose
from provisioning.enrolment import Exit, Step
from provisioning.errors import EnrolError
from provisioning.est import MAX_OFFLINE
from provisioning.identity import Identity
from provisioning.runtime.keystore import Keystore

STEP_OF: Final = {Purpose.TLS: Step.TLS, Purpose.EVENT: Step.EVENT}


def read_trust(state: Path) -> dict[str, Any]:
    """trust.json of a state folder. Raises EnrolError, OSError."""
    try:
        with (state / "trust.json").open("rb") as file:
            value = json.loads(file.read(MAX_OFFLINE + 1))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise EnrolError(Exit.UNVERIFIED, "trust.json is no JSON object", "run: holdfast provision")
    return value


def verify(
    state: Path, store: Keystore, root: x509.Certificate, identity: Identity, now: datetime
) -> dict[Purpose, Issued]:
    """Everything on disk once more, as services will read it. Raises EnrolError, OSError."""
    authority = accept.check_trust(read_trust(state), root)
    found = {}
    for purpose in Purpose:
        there = store.certificates(f"{purpose.value}.crt")
        public = store.key(purpose).public_key()
        found[purpose] = accept.check_issued(
            purpose, there, [*there[1:], authority], root, public, identity, now
        )
    if problems := store.problems():
        raise EnrolError(Exit.UNVERIFIED, problems[0], "then run again")
    return found
