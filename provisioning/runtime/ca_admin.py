"""What the administrator does: claim codes, revocation, revocation lists."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from provisioning import ca, claim
from provisioning.ca import Purpose, Validity
from provisioning.errors import CaError
from provisioning.identity import Identity
from provisioning.runtime.ca_db import Issued, Register
from provisioning.runtime.ca_files import CaFolder, check_clock
from provisioning.runtime.ca_keys import write_file
from provisioning.runtime.ca_parties import hand_revocations, write_device

CRL_DAYS: Final = 7
"""Validity of a revocation list; it is renewed at half of it, so that a weekend without us does no harm."""


def write_crls(opened: CaFolder, register: Register, now: datetime) -> None:
    """Write both revocation lists anew, valid CRL_DAYS, and the collector's copy. Raises CaError, OSError."""
    for purpose in Purpose:
        authority = opened.authority(purpose)
        check_clock(authority.certificate, now)
        with register.transaction():  # number and file in one order, whoever else writes
            number = register.next_number(f"crl.{purpose.value}")
            lines = register.revoked(purpose, now)
            crl = ca.make_crl(authority, lines, number, Validity(now, now + timedelta(days=CRL_DAYS)))
            folder = opened.path / "crl"
            write_file(
                folder / f"{purpose.value}.crl", crl.public_bytes(Encoding.DER), mode=0o644, replace=True
            )
            write_file(
                folder / f"{purpose.value}.pem", crl.public_bytes(Encoding.PEM), mode=0o644, replace=True
            )
    if opened.config.collector:
        hand_revocations(opened.path, Path(opened.config.collector))


def crls_due(opened: CaFolder, now: datetime) -> bool:
    """Whether a revocation list is missing, unreadable or past half of its validity."""
    for purpose in Purpose:
        try:
            data = (opened.path / "crl" / f"{purpose.value}.crl").read_bytes()
            crl = x509.load_der_x509_crl(data)
        except (FileNotFoundError, ValueError):
            return True
        until = crl.next_update_utc
        if until is None or until - now < timedelta(days=CRL_DAYS) / 2 or crl.last_update_utc > now:
            return True
    return False


def revoke(
    opened: CaFolder, register: Register, identity: Identity, reason: x509.ReasonFlags, now: datetime
) -> list[Issued]:
    """Revoke all of a device, write the lists, take it from the collector. Returns what was revoked now.

    May be repeated: a run that was killed in between is finished by the next. Raises CaError, OSError.
    """
    known = register.of_device(identity) or any(one.identity == identity for one in register.open_claims())
    if not known:
        raise CaError(f"no device {identity.device} was ever enrolled here: `holdfast ca list` shows all")
    found = register.revoke(identity, reason, now)
    write_crls(opened, register, now)
    if opened.config.collector:
        write_device(register, Path(opened.config.collector), identity)
    return found


def make_code(
    register: Register, identity: Identity, model: str, days: int, now: datetime, chance: bytes | None = None
) -> tuple[str, datetime, int]:
    """A new claim code, until when it is good, and how many unused ones it replaces."""
    claim.check_claimable(identity)
    claim.check_model(model)
    code = claim.make_code(os.urandom(claim.CODE_BYTES) if chance is None else chance)
    until = now + timedelta(days=days)
    return code, until, register.add_claim(identity, model, claim.digest(code), now, until)
