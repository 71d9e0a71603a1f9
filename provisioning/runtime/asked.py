"""What a run of enrolment was asked for, what it needs of the world, and whom it is to believe.

`begin` brings clock, root, names and configuration together before anything is made or sent.
"""

from __future__ import annotations

import os
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from provisioning import accept
from provisioning.ca import Purpose
from provisioning.enrolment import Exit, Journal, Step, Wanted, check_clock, settle
from provisioning.errors import EnrolError
from provisioning.runtime import journal as journals
from provisioning.runtime.est_client import Server, fetch_root
from provisioning.runtime.journal import nothing
from provisioning.runtime.keystore import read_certificates


def wall_time() -> datetime:
    """Now, UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of what happens. `state` is done, kept (was there already), would (dry run) or note."""

    step: Step
    state: str
    text: str


def unheard(_: Progress) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class Host:
    """What a run needs of the world; tests give their own."""

    now: Callable[[], datetime] = wall_time
    tell: Callable[[Progress], None] = unheard
    after: Callable[[str], None] = nothing
    """Told after each change on disk, and after each step as `step <name>`."""
    sleep: Callable[[float], None] = time.sleep
    ask_code: Callable[[], str] | None = None
    """Asks a person for the claim code; None where there is nobody."""
    confirm: Callable[[Journal], bool] = lambda _: True
    """Asked once before the first change."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What `holdfast provision` was told. `state` and `config` are absolute."""

    state: Path
    config: Path
    wanted: Wanted = field(default_factory=Wanted)
    code: str = ""
    ca: Path | None = None
    fingerprint: bytes = b""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended: the exit code, a sentence, and for an enrolled node until when."""

    exit_code: Exit
    text: str
    until: datetime | None = None
    fields: dict[str, Any] = field(default_factory=dict)


def begin(ask: Ask, host: Host) -> tuple[Journal, x509.Certificate]:
    """Journal and root of this run, once clock, root, names and configuration agree. Changes nothing."""
    old = journals.load(ask.state)
    root = find_root(ask, old)
    check_clock(host.now(), root)
    accept.check_root(root)
    journal = settle(old, ask.wanted, root, sealed=_sealed(ask.state, old))
    check_config(ask.config, journal)
    return journal, root


def _sealed(state: Path, old: Journal | None) -> bool:
    """Whether a key of this node is in no file: it was encrypted, and opens where it lies alone."""
    if old is None or not old.credentials or Step.KEYS not in old.done:
        return False
    return not all((state / "keys" / f"{purpose.value}.key").is_file() for purpose in Purpose)


def find_root(ask: Ask, old: Journal | None) -> x509.Certificate:
    """The root this run believes: given, fetched by fingerprint, or pinned earlier. Raises EnrolError."""
    pinned = ask.state / "keys" / "ca.crt"
    if ask.ca is not None:
        try:
            root = read_certificates(ask.ca)[0]
        except FileNotFoundError as error:
            raise EnrolError(
                Exit.USAGE, f"{ask.ca} is not there", "give the authority's root.crt with --ca"
            ) from error
        if ask.fingerprint and root.fingerprint(hashes.SHA256()) != ask.fingerprint:
            raise EnrolError(
                Exit.UNVERIFIED, f"{ask.ca} has another fingerprint than the one given; nothing was sent",
                "compare both with what `holdfast ca init` showed; one of them is not your authority's",
            )  # fmt: skip
        return root
    there = read_certificates(pinned)[0] if pinned.is_file() else None
    if there is not None and ask.fingerprint in (b"", there.fingerprint(hashes.SHA256())):
        return there
    if not ask.fingerprint:
        raise EnrolError(
            Exit.USAGE, "it is not said whom to believe",
            "give the authority's root with --ca root.crt, or its fingerprint with --ca-fingerprint",
        )  # fmt: skip
    server = ask.wanted.server or (old.server if old else "")
    if not server:
        raise EnrolError(Exit.USAGE, "it is not said where to enrol", "give --server https://ca.example:8443")
    return fetch_root(Server.parse(server), ask.fingerprint)


def check_config(path: Path, journal: Journal) -> None:
    """Raises EnrolError where the configuration is another node's, or none can be written."""
    if path.exists():
        try:
            node = tomllib.loads(path.read_text("utf-8")).get("node", {})
        except (ValueError, RecursionError) as error:
            raise EnrolError(
                Exit.USAGE, f"{path} is no TOML ({error})", "correct it: `holdfast config check` helps"
            ) from error
        if not isinstance(node, dict):
            raise EnrolError(
                Exit.USAGE, f"{path}: node is no table ([node] with tenant and device)",
                "correct it: `holdfast config check` helps",
            )  # fmt: skip
        named = (node.get("tenant"), node.get("device"), node.get("kind", "vehicle"))
        if named != (journal.identity.tenant, journal.identity.device, journal.kind):
            raise EnrolError(
                Exit.USAGE,
                f"{path} is of {named[2]} {named[0]}/{named[1]}, this node is to be {journal.kind} "
                f"{journal.identity.tenant}/{journal.identity.device}",
                "correct the file, or give the names in it (--device, --kind), or another --config",
            )
        return
    folder = next(parent for parent in path.parents if parent.exists())
    if not os.access(folder, os.W_OK):
        raise EnrolError(
            Exit.PERMISSION, f"{folder} cannot be written, and {path} is to be made there",
            "run this as root, or give --config a place of yours",
        )  # fmt: skip
