"""The node's enrolment as a state machine: what is asked, what the journal remembers, which step is next.

    check -> keys -> tls -> event -> node -> config -> verify -> enrolled

A step is done when what it makes is there and in order; the journal (`provision.json`) only remembers what
the files cannot say: whose node this is to become, at which server, under which root. So a run that is
killed anywhere is finished by the next one. Pure: certificates, bytes and times come from the caller.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum, IntEnum, unique
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from provisioning.errors import EnrolError, IdentityError
from provisioning.identity import Identity

JOURNAL_VERSION: Final = 1
MAX_JOURNAL: Final = 16 * 1024
"""A journal has half a kilobyte; what is larger is another file."""
CLOCK_FLOOR: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""Older than this software: a clock below it was never set (1970 after a flat battery)."""
CLOCK_CEILING: Final = datetime(2099, 1, 1, tzinfo=UTC)
"""Later than any vehicle of today is financed: a clock above it is wrong."""
URGENT: Final = timedelta(days=7)
"""Left of a certificate's life when a renewal that fails is said loudly: a week of working days to help."""
KINDS: Final = ("vehicle", "roadside")
_ROOT_NAME: Final = " root"
"""The end of the common name of a tenant's root."""


class Exit(IntEnum):
    """Exit codes, fixed: programs depend on them."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    BUSY = 12
    PERMISSION = 13
    REFUSED = 30
    PENDING = 31
    UNVERIFIED = 40


@unique
class Step(Enum):
    """The steps, in their order."""

    CHECK = "check"
    KEYS = "keys"
    TLS = "tls"
    EVENT = "event"
    NODE = "node"
    CONFIG = "config"
    VERIFY = "verify"


ORDER: Final = tuple(Step)
MEANING: Final = {
    Step.CHECK: "state folder, clock and configuration are usable",
    Step.KEYS: "a TLS key and an event key, made on this node, readable by its own user only",
    Step.TLS: "the certificate that opens connections",
    Step.EVENT: "the certificate under which segments are signed",
    Step.NODE: "whom this node believes, and where its broker is",
    Step.CONFIG: "the node's configuration",
    Step.VERIFY: "everything on disk belongs together",
}
"""What a step is for, in words."""


@dataclass(frozen=True, slots=True)
class Journal:
    """What `provision.json` remembers. It holds no secret: of the claim code, SHA-256 alone."""

    identity: Identity
    kind: str
    root: str
    """SHA-256 of the pinned root, hexadecimal."""
    server: str = ""
    """URL of the enrolment server; empty: enrolled by files."""
    claim: str = ""
    done: frozenset[Step] = frozenset()
    credentials: str = ""
    """Folder of the keys encrypted by systemd-creds; empty: they are files of mode 0600."""
    exchanging: bool = False
    """Both new pairs of a renewal are whole, and are being put in force."""
    reload_due: bool = False
    """New keys are in force and the edge has not been told."""
    anew: str = ""
    """SHA-256 of another claim code, under which the next pairs are being certified; empty: no such code."""

    def to_json(self) -> bytes:
        """The file's bytes."""
        value = {
            "version": JOURNAL_VERSION, "tenant": self.identity.tenant, "device": self.identity.device,
            "kind": self.kind, "server": self.server, "root_sha256": self.root, "claim_sha256": self.claim,
            "done": [step.value for step in ORDER if step in self.done],
            "credentials": self.credentials, "exchanging": self.exchanging, "reload_due": self.reload_due,
            **({"anew_sha256": self.anew} if self.anew else {}),
        }  # fmt: skip
        return (json.dumps(value, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Journal:
        """Raises EnrolError for a file that is no journal of this version."""
        try:
            value = json.loads(data) if len(data) <= MAX_JOURNAL else None
            if not isinstance(value, dict) or value.get("version") != JOURNAL_VERSION:
                raise ValueError("it is of another version")
            texts = {
                name: value[name] for name in ("kind", "server", "root_sha256", "claim_sha256", "credentials")
            }
            anew = value.get("anew_sha256", "")
            if not all(isinstance(text, str) for text in (*texts.values(), anew)):
                raise ValueError("a text is missing")
            if texts["kind"] not in KINDS:
                raise ValueError("its kind is not known")
            return cls(
                Identity(str(value["tenant"]), str(value["device"])), texts["kind"], texts["root_sha256"],
                texts["server"], texts["claim_sha256"], frozenset(Step(one) for one in value["done"]),
                texts["credentials"], value["exchanging"] is True, value["reload_due"] is True, anew,
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, RecursionError, IdentityError) as error:
            raise EnrolError(
                Exit.USAGE,
                f"provision.json is no journal of this release ({error})",
                "move it away and run again with all options; keys and certificates are kept",
            ) from error

    def after(self, step: Step) -> Journal:
        """With `step` done."""
        return replace(self, done=self.done | {step})

    @property
    def next_step(self) -> Step | None:
        """The first step that is not done; None when all are."""
        return next((step for step in ORDER if step not in self.done), None)

    @property
    def certified(self) -> bool:
        """Whether a certificate was given: from then on name and root stand."""
        return Step.TLS in self.done


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run was asked for; empty where the journal, the label or the root shall say it."""

    device: str = ""
    tenant: str = ""
    kind: str = ""
    server: str = ""
    claim: str = ""
    credentials: str = ""


def settle(old: Journal | None, wanted: Wanted, root: x509.Certificate, *, sealed: bool = False) -> Journal:
    """The journal to go on with. Raises EnrolError where `wanted` contradicts `old`, or says too little.

    `sealed`: a key lies encrypted in the folder of credentials, and nowhere else. Until then that folder, and
    until a certificate came the tenant, are what this run says: a wrong one of an earlier run does not stay.
    """
    pinned = root.fingerprint(hashes.SHA256()).hex()
    device = wanted.device or (old.identity.device if old else "")
    if not device:
        raise EnrolError(
            Exit.USAGE, "this node has no name", "give --device, or scan the label's QR text with --qr"
        )
    tenant = wanted.tenant or (old.identity.tenant if old and old.certified else "") or tenant_of(root)
    try:
        identity = Identity(tenant, device)
    except IdentityError as error:
        raise EnrolError(Exit.USAGE, str(error), "give the name on the label") from error
    if identity.is_collector:
        raise EnrolError(Exit.USAGE, f"the device name {device!r} is reserved", "give the name on the label")
    kind = wanted.kind or (old.kind if old else KINDS[0])
    if kind not in KINDS:
        raise EnrolError(Exit.USAGE, f"kind {kind!r:.40} is not known", f"it is {' or '.join(KINDS)}")
    if old is None:
        return Journal(identity, kind, pinned, wanted.server, wanted.claim, credentials=wanted.credentials)
    if old.certified and old.identity != identity:
        raise EnrolError(
            Exit.USAGE,
            f"this state folder is {old.identity.client_id}'s, not {identity.client_id}'s",
            "use another folder with --state; keys are never given another name",
        )
    if old.certified and old.root != pinned:
        raise EnrolError(
            Exit.UNVERIFIED,
            "this root is not the one under which this node was enrolled; nothing was sent",
            "use the authority's own ca.crt; for a new authority, enrol with another --state",
        )
    return replace(
        old, identity=identity, kind=kind, root=pinned, server=wanted.server or old.server,
        claim=wanted.claim or old.claim,
        credentials=wanted.credentials or (old.credentials if sealed else ""),
    )  # fmt: skip


def tenant_of(root: x509.Certificate) -> str:
    """The tenant that a root names in its common name. Raises EnrolError where it names none."""
    for name in root.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        if isinstance(name.value, str) and name.value.endswith(_ROOT_NAME):
            return name.value.removesuffix(_ROOT_NAME)
    raise EnrolError(Exit.USAGE, "the root does not say which tenant it is for", "give --tenant")


def check_clock(now: datetime, root: x509.Certificate | None = None) -> None:
    """Raises EnrolError when the clock cannot be right: certificates could not be judged by it."""
    remedy = "set the clock (timedatectl set-ntp true, or date -s), then run again; nothing was sent"
    if now < CLOCK_FLOOR or now >= CLOCK_CEILING:
        raise EnrolError(
            Exit.UNVERIFIED,
            f"the clock says {now:%Y-%m-%d}, before this software was made or far in the future",
            remedy,
        )
    if root is None:
        return
    first, last = root.not_valid_before_utc, root.not_valid_after_utc
    if not first <= now <= last:
        raise EnrolError(
            Exit.UNVERIFIED,
            f"the clock says {now:%Y-%m-%d %H:%M}Z and the root is valid {first:%Y-%m-%d} to {last:%Y-%m-%d}",
            remedy,
        )


# --- node.toml ---------------------------------------------------------------------------------------


def node_toml(identity: Identity, kind: str, state: str, uplink: Mapping[str, Any]) -> str:
    """A node.toml with what enrolment knows; ports and region are the technician's to add."""
    lines = [
        "# By `holdfast provision`. Ports, tyres and region are yours to add: `holdfast config explain`",
        "# names every setting, and `holdfast config check` reads this file as the node will.",
        "[node]",
        f"tenant = {json.dumps(identity.tenant)}",
        f"device = {json.dumps(identity.device)}",
        f"kind = {json.dumps(kind)}",
        "",
        "[state]",
        f"dir = {json.dumps(state)}",
    ]
    if uplink:
        lines += [
            "",
            "[uplink]",
            f"host = {json.dumps(uplink['host'])}",
            f"port = {uplink['port']}",
            f"server_name = {json.dumps(uplink.get('server_name') or uplink['host'])}",
        ]
    return "\n".join(lines) + "\n"
