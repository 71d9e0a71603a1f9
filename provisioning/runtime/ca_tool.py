"""What `holdfast ca` does and prints. Each function returns the exit code; `--json` goes to stdout alone.

Exit codes: 0 done, 2 the command line or ca.toml cannot be meant, 13 owner or mode of a file is in the way,
30 enrolment refused, 1 what was asked for failed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from provisioning import ca, claim
from provisioning.ca import Purpose
from provisioning.errors import (
    CaConfigError,
    CaError,
    ClaimError,
    EstError,
    IdentityError,
    ProvisioningError,
    Refusal,
)
from provisioning.est import MAX_OFFLINE, OfflineRequest
from provisioning.identity import Identity
from provisioning.runtime import ca_admin, ca_files, ca_parties
from provisioning.runtime.ca_config import CaConfig
from provisioning.runtime.ca_db import Issued, Register
from provisioning.runtime.ca_keys import write_file
from provisioning.runtime.ca_service import Enrolment, wall_time

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_PERMISSION: Final = 13
EXIT_REFUSED: Final = 30
MAX_PASSPHRASE: Final = 1024
"""Bytes of the passphrase file that are read: a sentence, not a video."""
REASONS: Final = {
    "lost": x509.ReasonFlags.key_compromise,
    "compromised": x509.ReasonFlags.key_compromise,
    "replaced": x509.ReasonFlags.superseded,
    "retired": x509.ReasonFlags.cessation_of_operation,
    "unspecified": x509.ReasonFlags.unspecified,
}
"""What people say, and what the list says (RFC 5280 section 5.3.1)."""


def say(text: str) -> None:
    """To people."""
    print(text, file=sys.stderr)


def guarded(work: Callable[[], int]) -> int:
    """Run a command; errors that are ours, and the disk's, as one sentence and an exit code."""
    try:
        return work()
    except Refusal as error:
        say(f"ca: refused: {error}")
        return EXIT_REFUSED
    except (ClaimError, IdentityError, CaConfigError) as error:
        say(f"ca: {error}")
        return EXIT_USAGE
    except ProvisioningError as error:
        say(f"ca: {error}")
        return EXIT_FAILED
    except PermissionError as error:
        say(f"ca: {error.filename}: {error.strerror}: run this as the owner of the authority's folder")
        return EXIT_PERMISSION
    except OSError as error:
        say(f"ca: {error.filename or 'the disk'}: {error.strerror}: see to that and run it again")
        return EXIT_FAILED


@contextmanager
def opened(folder: Path) -> Iterator[tuple[ca_files.CaFolder, Register]]:
    """The authority and its register."""
    authority = ca_files.load(folder)
    if not (folder / "ca.db").exists():
        raise CaError(
            f"{folder / 'ca.db'} is missing: restore your backup (without it revoked devices would be let in "
            "again), or, if `holdfast ca init` was cut off, run that again"
        )
    register = Register(folder / "ca.db")
    try:
        yield authority, register
    finally:
        register.close()


def passphrase(path: Path | None) -> bytes:
    """The first line of a file; empty for no file. Raises CaError for an empty one."""
    if path is None:
        return b""
    with path.open("rb") as file:
        line = file.read(MAX_PASSPHRASE).split(b"\n")[0].strip()
    if not line:
        raise CaError(f"{path} holds no passphrase in its first line")
    return line


def init(folder: Path, config: CaConfig, phrase: Path | None, *, as_json: bool) -> int:
    """`holdfast ca init`."""
    made: list[str] = []

    def step(text: str) -> None:
        made.append(text)
        say(text)

    now = wall_time()
    authority = ca_files.init(folder, config, now, passphrase(phrase), step)
    if not (folder / "ca.db").exists() and (folder / "crl").exists():  # lists are written after the register
        raise CaError(f"{folder / 'ca.db'} is missing and was there: restore it from your backup")
    register = Register(folder / "ca.db")
    try:
        if ca_admin.crls_due(authority, now):
            ca_admin.write_crls(authority, register, now)
    finally:
        register.close()
    print_ = ca.fingerprint(authority.root)
    offline = (folder / "offline" / "root.key").exists()
    if as_json:
        _json({"tenant": authority.tenant, "made": made, "fingerprint": print_, "root_key_here": offline})
        return 0
    print(f"authority of {authority.tenant}: {folder}{'' if made else ' (nothing was left to do)'}")
    print(f"fingerprint {print_}")
    if offline:
        print(f"now move {folder / 'offline'} to a medium that is kept offline: root.key is this authority")
    return 0


def renew_issuing(folder: Path, phrase: Path | None) -> int:
    """`holdfast ca renew-issuing`."""
    authority = ca_files.renew_issuing(folder, wall_time(), passphrase(phrase))
    for purpose in Purpose:
        until = authority.authority(purpose).certificate.not_valid_after_utc
        print(f"{purpose.value} issuing certificate valid until {until:%Y-%m-%d}")
    print(
        "run `holdfast ca collector` again, so that the collector has the new one; take root.key away again"
    )
    return 0


def code(folder: Path, device: str, model: str, days: int, *, as_json: bool) -> int:
    """`holdfast ca code`: the one place where a claim code is shown."""
    with opened(folder) as (authority, register):
        now, identity = wall_time(), Identity(authority.tenant, device)
        made, until, withdrawn = ca_admin.make_code(register, identity, model, days, now)
        live = [one for one in register.of_device(identity) if _state(one, now) == "valid"]
    value = {
        "tenant": authority.tenant, "device": device, "model": model, "code": claim.grouped(made),
        "qr": claim.qr_text(device, model, made), "fingerprint": ca.fingerprint(authority.root),
        "not_after": f"{until:%Y-%m-%dT%H:%M:%SZ}", "withdrawn": withdrawn,
        "certificates_valid": len(live),
    }  # fmt: skip
    if withdrawn:
        say(f"an earlier code of {device} was not used; it is withdrawn")
    if live:
        say(f"{device} has valid certificates; if lost: holdfast ca revoke {folder} {device} --reason lost")
    if as_json:
        _json(value)
    else:
        for name, key in (("code", "code"), ("label", "qr"), ("good until", "not_after")):
            print(f"{name:<12}{value[key]}")
        print(f"{'fingerprint':<12}{value['fingerprint']}")
    return 0


def listing(folder: Path, *, as_json: bool) -> int:
    """`holdfast ca list`."""
    with opened(folder) as (authority, register):
        now = wall_time()
        issued, claims = register.everything(), register.open_claims()
    devices: dict[str, list[dict[str, Any]]] = {}
    for one in issued:
        devices.setdefault(one.identity.device, []).append(_described(one, now))
    open_ = [
        {
            "device": one.identity.device, "model": one.model,
            "days_left": _days(one.not_after, now), "expired": one.not_after < now,
        }
        for one in claims
    ]  # fmt: skip
    own = {
        "root": _days(authority.root.not_valid_after_utc, now),
        **{p.value: _days(authority.authority(p).certificate.not_valid_after_utc, now) for p in Purpose},
    }
    if as_json:
        _json({"tenant": authority.tenant, "authority_days_left": own, "devices": devices, "claims": open_})
        return 0
    print(
        f"{authority.tenant}: days left: root {own['root']}, issuing TLS {own['tls']}, events {own['event']}"
    )
    for device, certificates in devices.items():
        for row in certificates:
            state = (
                f"revoked ({row['revoked']})"
                if row["revoked"]
                else f"{row['state']}, {row['days_left']} days"
            )
            print(f"{device:<24} {row['purpose']:<6} {row['serial'][:12]}  {state}")
    for claimed in open_:
        print(f"{claimed['device']:<24} code not used, {claimed['days_left']} days left")
    return 0


def revoke(folder: Path, device: str, reason: str) -> int:
    """`holdfast ca revoke`."""
    if reason not in REASONS:
        say(f"ca: --reason is one of {', '.join(REASONS)}")
        return EXIT_USAGE
    with opened(folder) as (authority, register):
        identity = Identity(authority.tenant, device)
        found = ca_admin.revoke(authority, register, identity, REASONS[reason], wall_time())
        collector = authority.config.collector
    print(f"{device}: {len(found)} certificates revoked, open codes withdrawn, lists written")
    if collector:
        print(f"the collector in {collector} takes nothing new from it")
    print(
        f"give the broker {folder / 'crl' / 'tls.pem'}, or restart it, so that it lets the device in no more"
    )
    return 0


def crl(folder: Path) -> int:
    """`holdfast ca crl`."""
    with opened(folder) as (authority, register):
        ca_admin.write_crls(authority, register, wall_time())
    print(f"{folder / 'crl'}: both lists written, valid {ca_admin.CRL_DAYS} days")
    return 0


def collector(folder: Path, out: Path, origin: str | None, uplink: tuple[str, int, str] | None) -> int:
    """`holdfast ca collector`."""
    with opened(folder) as (authority, register):
        if uplink is not None:
            host, port, name = uplink
            config = replace(authority.config, uplink_host=host, uplink_port=port, uplink_name=name)
            ca_parties.note(authority, config, say)
            authority = ca_files.load(folder)
        named = origin or f"log.{authority.tenant}.holdfast"
        ca_parties.make_collector(authority, register, out, named, wall_time(), say)
    print(f"collector's folder {out}: start it with holdfast collect --config {out / 'collector.toml'}")
    return 0


def broker(folder: Path, out: Path, hosts: tuple[str, ...]) -> int:
    """`holdfast ca broker`."""
    authority = ca_files.load(folder)
    wanted = hosts or tuple(h for h in (authority.config.uplink_name or authority.config.uplink_host,) if h)
    if not wanted:
        say("ca: give the broker's name or address as devices reach it: --host")
        return EXIT_USAGE
    ca_parties.make_broker(authority, out, wanted, wall_time(), say)
    print(f"broker's key and certificate: {out / 'keys'}")
    return 0


def sign(folder: Path, request: Path, out: Path) -> int:
    """`holdfast ca sign`: enrolment without a network."""
    with request.open("rb") as file:
        data = file.read(MAX_OFFLINE + 1)
    try:
        asked = OfflineRequest.from_json(data)
    except (EstError, IdentityError) as error:
        raise Refusal(400, "bad_request", f"{request}: {error}", "make it anew on the device") from error
    with opened(folder) as (authority, register):
        response = Enrolment(authority, register).sign_offline(asked)
    write_file(out, response.to_json(), mode=0o644, replace=True)
    print(f"{asked.identity.device}: enrolled; bring {out} to the device")
    return 0


def _described(one: Issued, now: datetime) -> dict[str, Any]:
    until = one.certificate.not_valid_after_utc
    return {
        "purpose": one.purpose.value, "serial": f"{one.certificate.serial_number:x}",
        "not_after": f"{until:%Y-%m-%dT%H:%M:%SZ}", "days_left": _days(until, now),
        "state": _state(one, now), "revoked": one.revoked,
    }  # fmt: skip


def _state(one: Issued, now: datetime) -> str:
    if one.revoked:
        return "revoked"
    return "valid" if now <= one.certificate.not_valid_after_utc else "expired"


def _days(until: datetime, now: datetime) -> int:
    return (until - now).days


def _json(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False))
