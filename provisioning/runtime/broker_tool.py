"""`holdfast provision broker`: a Mosquitto for Holdfast, written, renewed and told about it.

    OUT/mosquitto.conf      for `mosquitto -c`, or linked into /etc/mosquitto/conf.d
    OUT/holdfast.acl        access rules
    OUT/keys/{tls.key,tls.crt,ca.crt,crl.pem}
    OUT/apply.pending       what the broker has not been told yet, after a run that was cut off

Run again it renews what is due, takes over a newer revocation list, and otherwise changes nothing: meant for
a timer, daily. Nothing that is not ours, or that somebody changed, is ever overwritten. A revocation list
that has ended, or that is older than the one in place, is never written: Mosquitto refuses everybody with
the first, and lets revoked devices in with the second.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from provisioning import mosquitto
from provisioning.errors import BrokerError, CaConfigError, IdentityError, ProvisioningError
from provisioning.mosquitto import ACL_NAME, CONFIG_NAME, CRL_NAME, Apply, BrokerPlan, Origin
from provisioning.runtime.broker_material import BrokerAsk, crl_end, iso, judge_crl, of_authority, of_files
from provisioning.runtime.ca_keys import sweep, write_file
from provisioning.runtime.ca_service import wall_time
from provisioning.runtime.ca_tool import EXIT_FAILED, EXIT_PERMISSION, EXIT_USAGE, say

MOSQUITTO_USER: Final = "mosquitto"
"""Whom Mosquitto becomes when root starts it; Debian's package makes it."""
CERTIFICATE_WARN: Final = timedelta(days=14)
PENDING: Final = "apply.pending"
UNSAID: Final = "unsaid"
"""Beside what is due in PENDING: a run without --apply tells it to a person, at its end."""
APPLY_TIMEOUT_S: Final = 120.0


def run(ask: BrokerAsk, now: datetime | None = None) -> int:
    """The command; the exit code: 0, 2 what was asked for cannot be meant, 13 owner or mode, 1 the rest."""
    try:
        write_broker(ask, wall_time() if now is None else now, lambda value: _tell_person(ask, value))
    except (BrokerError, IdentityError, CaConfigError) as error:
        return _failed(ask, EXIT_USAGE, f"{error}")
    except PermissionError as error:
        return _failed(ask, EXIT_PERMISSION, f"{error.filename}: {error.strerror}: run this as its owner")
    except ProvisioningError as error:
        return _failed(ask, EXIT_FAILED, f"{error}")
    except OSError as error:
        where = error.filename or "the disk"
        return _failed(ask, EXIT_FAILED, f"{where}: {error.strerror}: see to that and run it again")
    return 0


def _tell_person(ask: BrokerAsk, value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False) if ask.as_json else "\n".join(_told(ask, value)), flush=True)


def _failed(ask: BrokerAsk, code: int, text: str) -> int:
    if ask.as_json:
        print(json.dumps({"ok": False, "error": text}))
    say(f"provision broker: {text}")
    return code


def write_broker(
    ask: BrokerAsk, now: datetime, tell: Callable[[dict[str, Any]], None] = lambda _: None
) -> dict[str, Any]:
    """Write what differs, tell the broker with `ask.apply`; what was done, as it stands in --json.

    `tell` gets that too; after it a person knows what is due, and only then it is no longer owed.

    Raises BrokerError, CaError and the other errors of provisioning, OSError.
    """
    if (ask.ca is None) == (ask.tls is None):
        raise BrokerError(
            "give either --ca, the authority's folder, or --tls, a folder with tls.key, tls.crt, ca.crt"
        )
    out = ask.out.absolute()
    _refuse_foreign(out)
    material = of_authority(ask, out, now) if ask.ca is not None else of_files(ask, now)
    if CRL_NAME in material.files:
        try:
            judge_crl(material, out, now)
        except BrokerError as error:
            if ask.tls is None:
                raise
            raise BrokerError(f"{error}; then give the newer list with --crl FILE") from error
    else:
        material.warnings.append("no revocation list: nobody can be locked out before a certificate ends")
    if not material.tenants:
        raise BrokerError("whose collectors may come? Give --tenant")
    user = _user(ask)
    plan = BrokerPlan(
        str(out), material.tenants, ask.listen, ask.port, CRL_NAME in material.files,
        ask.user if ask.user != MOSQUITTO_USER else "", ask.log,
    )  # fmt: skip
    wanted = {
        ACL_NAME: mosquitto.render_acl(plan.tenants).encode(),
        CONFIG_NAME: mosquitto.render_config(plan).encode(),
        **{f"keys/{name}": data for name, data in material.files.items()},
    }
    changed = [name for name, data in wanted.items() if _differs(out / name, data)]
    due = max(mosquitto.apply_for(changed, newly_revoked=material.newly_revoked), _pending(out))
    if not ask.dry_run:
        word = due.name.lower()
        if not ask.apply and (not _owed(out) or _owed(out)[1:] == [UNSAID]):  # else a unit waits for it
            word = f"{word} {UNSAID}"
        _write(out, {name: wanted[name] for name in changed}, "" if due is Apply.NOTHING else word, user)
        if ask.apply and due is not Apply.NOTHING:
            _tell(ask.apply, due)
            (out / PENDING).unlink(missing_ok=True)
    certificate = x509.load_pem_x509_certificate(material.files["tls.crt"])
    if certificate.not_valid_after_utc - now < CERTIFICATE_WARN:
        material.warnings.append(
            f"the broker's certificate ends {iso(certificate.not_valid_after_utc)}: renew it in --tls"
        )
    value = {
        "ok": True, "dry_run": ask.dry_run, "config": str(out / CONFIG_NAME), "changed": changed,
        "apply": due.name.lower(), "applied": bool(ask.apply and not ask.dry_run and due),
        "tenants": sorted(material.tenants), "port": plan.port,
        "certificate_ends": iso(certificate.not_valid_after_utc), "crl_ends": crl_end(material),
        "warnings": material.warnings,
    }  # fmt: skip
    tell(value)
    if not ask.dry_run:
        _said(out)
    return value


def _told(ask: BrokerAsk, value: dict[str, Any]) -> list[str]:
    out = [f"warning: {text}" for text in value["warnings"]]
    verb = "would write" if ask.dry_run else "wrote"
    out += [f"{verb} {ask.out.absolute() / name}" for name in value["changed"]]
    if not value["changed"]:
        out.append("nothing to change")
    out.append(f"certificate until {value['certificate_ends']}, revocation list until {value['crl_ends']}")
    if value["applied"]:
        out.append(f"{ask.apply}: told to {value['apply']}")
    elif value["apply"] == "reload":
        out.append("the broker reads it at SIGHUP: systemctl reload mosquitto")
    elif value["apply"] == "restart":
        out.append(f"restart the broker: systemctl restart mosquitto, or mosquitto -c {value['config']}")
    return out


# --- the folder -----------------------------------------------------------------------------------------


def _refuse_foreign(out: Path) -> None:
    """Raises BrokerError where a file that we would write is not ours, or was changed by hand."""
    ours = False
    for name in (CONFIG_NAME, ACL_NAME):
        if (out / name).exists():
            origin = mosquitto.origin_of((out / name).read_text("utf-8", "replace"))
            if origin is Origin.FOREIGN:
                raise BrokerError(f"{out / name} is not ours, and nothing was written: choose another folder")
            if origin is Origin.EDITED:
                raise BrokerError(
                    f"{out / name} was changed by hand, and nothing was written: move your lines into "
                    "another file of Mosquitto's, remove this one and run it again"
                )
            ours = True
    strange = [
        p for name in ("tls.key", "tls.crt", "ca.crt", CRL_NAME) if (p := out / "keys" / name).exists()
    ]
    if strange and not ours:
        raise BrokerError(
            f"{strange[0]} is there and no configuration of ours beside it: choose another folder"
        )


def _differs(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() != data
    except FileNotFoundError:
        return True


def _pending(out: Path) -> Apply:
    """What a run that was cut off left to be done."""
    try:
        return Apply[_owed(out)[0].upper()]
    except (IndexError, KeyError):
        return Apply.NOTHING


def _owed(out: Path) -> list[str]:
    """The words of apply.pending: what is due, and UNSAID where a person is to be told and not a unit."""
    try:
        return (out / PENDING).read_text("ascii", "replace").split()
    except FileNotFoundError:
        return []


def _said(out: Path) -> None:
    """A person has read what is due: what was to be said to nobody else is done."""
    if _owed(out)[1:] == [UNSAID]:
        (out / PENDING).unlink()


def _user(ask: BrokerAsk) -> pwd.struct_passwd | None:
    """Who shall read the files, where root writes them."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(ask.user or MOSQUITTO_USER)
    except KeyError as error:
        if not ask.user:
            return None
        raise BrokerError(
            f"there is no user {ask.user} here: install Mosquitto first, or leave --user out"
        ) from error


def _write(out: Path, files: dict[str, bytes], owed: str, user: pwd.struct_passwd | None) -> None:
    """What is due first, then rules and configuration: with them a run that was cut off is known as ours."""
    if owed:
        write_file(out / PENDING, owed.encode(), mode=0o644, replace=True)
    for name, data in files.items():
        write_file(out / name, data, mode=0o600 if name.endswith(".key") else 0o644, replace=True)
    sweep(out)
    if user is None:
        return
    for folder in (out, out / "keys"):
        folder.chmod(0o750)
        os.chown(folder, 0, user.pw_gid)
    os.chown(out / "keys" / "tls.key", user.pw_uid, user.pw_gid)


def _tell(unit: str, what: Apply) -> None:
    """Have systemd reload or restart `unit` if it runs. Raises BrokerError."""
    verb = "try-restart" if what is Apply.RESTART else "try-reload-or-restart"
    try:
        done = subprocess.run(
            ["systemctl", verb, "--", unit],
            capture_output=True,
            text=True,
            timeout=APPLY_TIMEOUT_S,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise BrokerError(f"the files are written, but systemctl {verb} {unit} failed: {error}") from error
    if done.returncode != 0:
        raise BrokerError(
            f"the files are written, but systemctl {verb} {unit} failed, the next run tries again: "
            f"{done.stderr.strip()[:300]}"
        )
