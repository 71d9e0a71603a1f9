"""A Mosquitto 2.0 for Holdfast: its configuration and access rules as text. Pure.

**Who somebody is** comes from the certificate alone. `use_identity_as_username` makes the certificate's
common name the user name; TLS certificates of ours carry `<tenant>/<device>` there, and Mosquitto puts a user
name into a pattern as it stands, so that six lines serve any number of devices. A slash in a common name is
harmless only because no *name* can hold one (`provisioning.identity`): `a/b` always means device b of tenant
a. (Mosquitto itself refuses `+` and `#` in user names, and nothing else.) `use_username_as_clientid` makes
the same name the client id, whatever the client asks for: nobody can end another's connection, or take over
its queue. So a collector's certificate is one connection: a second one ends the first.

**What Mosquitto does that one would not expect**, and what is done about it here:
- It grants every SUBSCRIBE and asks its rules at each delivery: a foreign one is silent, not refused.
- It acknowledges a QoS 1 PUBLISH that its rules refuse: a PUBACK never means delivered. Only receipts count.
- `message_size_limit` acknowledges and drops what is too large; `max_packet_size` ends the connection, which
  a sender notices. The second is set, the first is not.
- Its queue of 1,000 messages drops silently for a collector that is online and slow. The bound that counts
  is in bytes here, and what is dropped is sent again when its receipt does not come. The bound in messages
  stands high and not at 0: with 0 (no bound) Mosquitto 2.0.11 ends the connection at a refused PUBLISH.
- A revocation list that has ended refuses **everybody**. It must be renewed before: see `holdfast provision
  broker`, which writes no list that has ended.
- SIGHUP reads certificates, the list and the access rules anew, not this file; it ends no connection that
  stands. After a revocation it must be restarted.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Final

from provisioning.errors import BrokerError, IdentityError
from provisioning.identity import CLOUD, COLLECTOR, Identity

PREFIX: Final = "hf/1/"
"""Of every topic; `edge.topics` names them, which stands above this package: tests compare the two."""
MARK: Final = "# Written by `holdfast provision broker`; what follows is sealed by sha256 "
"""First words of a file of ours. With another digest than that of what follows, somebody changed it."""
CONFIG_NAME: Final = "mosquitto.conf"
ACL_NAME: Final = "holdfast.acl"
CRL_NAME: Final = "crl.pem"
MAX_TENANTS: Final = 10_000
"""Three lines each; Mosquitto walks the list at every connection of a collector."""
_PATH: Final = re.compile(r"/[^\s\"'#]*", re.ASCII)
"""Mosquitto cuts values at spaces in some of its settings, and in no file is there a way to quote."""
_USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """What one client, and all of them together, may cost."""

    max_packet_bytes: int = 64 * 1024 + 1024
    """One segment of the largest size with topic and header. A larger packet ends the connection."""
    max_inflight_messages: int = 100
    """To a client that has not acknowledged: the window an uplink uses at most."""
    max_queued_bytes: int = 64 << 20
    """For one client that is slow: 1,000 of the largest segments. The rest is dropped and sent again."""
    max_queued_messages: int = 100_000
    """For one client: far beyond what `max_queued_bytes` lets in; see above why it is not 0."""
    memory_bytes: int = 512 << 20
    """Of the broker's heap, all clients together; beyond it messages are dropped and senders cut off."""
    max_connections: int = 20_000
    """A fleet that comes back at once after an outage; each costs about 20 kB."""
    session_expiry: str = "1d"
    """A client that asked for a lasting session and never came back is forgotten after this."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("max_packet_bytes", 1024, 1 << 20),
            ("max_inflight_messages", 1, 65_535),
            ("max_queued_bytes", 1 << 16, 1 << 34),
            ("max_queued_messages", 1, 10_000_000),
            ("memory_bytes", 1 << 20, 1 << 36),
            ("max_connections", 1, 1_000_000),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise BrokerError(f"broker: {name} is {value}, it must be from {low} to {high}")
        if not re.fullmatch(r"[1-9][0-9]{0,3}[hdwmy]", self.session_expiry):
            raise BrokerError(
                f"broker: session_expiry {self.session_expiry!r:.20} is no number with h, d, w, m or y"
            )


@dataclass(frozen=True, slots=True)
class BrokerPlan:
    """What is written. Raises BrokerError for values that cannot stand in Mosquitto's files."""

    folder: str
    """Absolute path of the folder that holds the configuration and keys/."""
    tenants: tuple[str, ...]
    """Whose collectors may come. Devices need no line."""
    listen: str = ""
    """Address to listen on; empty: all."""
    port: int = 8883
    crl: bool = True
    """There is a revocation list beside the keys."""
    user: str = ""
    """Whom Mosquitto becomes when root starts it; empty: its own default, mosquitto."""
    log: str = "stderr"
    """stderr, syslog, or the absolute path of a file (rotate it: Mosquitto opens it anew at SIGHUP)."""
    limits: BrokerLimits = BrokerLimits()

    def __post_init__(self) -> None:
        if not _PATH.fullmatch(self.folder) or len(self.folder) > 1024:
            raise BrokerError(
                f"broker: {self.folder!r:.120}: Mosquitto reads no path with spaces, quotes or #: choose "
                "another"
            )
        if not 1 <= self.port <= 65_535:
            raise BrokerError(f"broker: port {self.port}: it must be from 1 to 65535")
        if self.listen:
            try:
                ipaddress.ip_address(self.listen)
            except ValueError as error:
                raise BrokerError(
                    f"broker: {self.listen!r:.80} is no IP address to listen on; leave it out for all"
                ) from error
        if self.user and not _USER.fullmatch(self.user):
            raise BrokerError(f"broker: {self.user!r:.40} is no user's name")
        if self.log not in ("stderr", "syslog") and not _PATH.fullmatch(self.log):
            raise BrokerError("broker: log is stderr, syslog or the absolute path of a file without spaces")
        if len(self.tenants) > MAX_TENANTS:
            raise BrokerError(f"broker: {len(self.tenants)} tenants, at most {MAX_TENANTS}")
        for tenant in self.tenants:
            try:
                _ = Identity(tenant, COLLECTOR).broker_name
            except IdentityError as error:
                raise BrokerError(f"broker: {error}") from error


def render_config(plan: BrokerPlan) -> str:
    """The configuration: alone for `mosquitto -c`, or linked into /etc/mosquitto/conf.d."""
    keys, limits = f"{plan.folder}/keys", plan.limits
    lines = [
        "# Mosquitto 2.0 for Holdfast: mutual TLS, the certificate says who somebody is. Own settings belong",
        "# into another file: this one is written anew when something changes.",
        "",
        f"listener {plan.port}{f' {plan.listen}' if plan.listen else ''}",
        "protocol mqtt",
        f"max_connections {limits.max_connections}",
        "",
        "# Who: nobody without a certificate of our authority; its common name is user name and client id.",
        f"cafile {keys}/ca.crt",
        f"certfile {keys}/tls.crt",
        f"keyfile {keys}/tls.key",
        *([f"crlfile {keys}/{CRL_NAME}"] if plan.crl else ["# no crlfile: nobody can be revoked here"]),
        "tls_version tlsv1.2",
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "allow_anonymous false",
        f"acl_file {plan.folder}/{ACL_NAME}",
        "",
        "# Bounds. Nothing depends on the broker keeping anything: what it drops is sent again.",
        f"max_packet_size {limits.max_packet_bytes}",
        f"max_inflight_messages {limits.max_inflight_messages}",
        f"max_queued_messages {limits.max_queued_messages}",
        f"max_queued_bytes {limits.max_queued_bytes}",
        f"memory_limit {limits.memory_bytes}",
        "queue_qos0_messages false",
        "retain_available false",
        f"persistent_client_expiration {limits.session_expiry}",
        "persistence false",
        "max_topic_alias 10",
        "set_tcp_nodelay true",
        "sys_interval 0",
        "",
        "# Refusals are said; one line for each message would be a log of the fleet's traffic.",
        f"log_dest {plan.log if plan.log in ('stderr', 'syslog') else f'file {plan.log}'}",
        *(f"log_type {kind}" for kind in ("error", "warning", "notice")),
        "connection_messages true",
        "log_timestamp true",
        "log_timestamp_format %Y-%m-%dT%H:%M:%S%z",
        *([f"user {plan.user}"] if plan.user else []),
    ]
    return sealed("\n".join(lines) + "\n")


def render_acl(tenants: Sequence[str]) -> str:
    """The access rules: what `edge.topics` says, in Mosquitto's words. %u is `<tenant>/<device>`."""
    lines = [
        "# A device: its own segments up, its own receipts down. Mosquitto reads the rest as refused.",
        f"pattern write {PREFIX}%u/seg",
        f"pattern read {PREFIX}%u/rcpt",
        "",
        "# A tenant's collector takes its segments and answers; so does the collector of all tenants.",
    ]
    for tenant in dict.fromkeys([*sorted(tenants), CLOUD]):
        every = "+" if tenant == CLOUD else tenant
        lines += [
            f"user {Identity(tenant, COLLECTOR).broker_name}",
            f"topic deny {PREFIX}{tenant}/{COLLECTOR}/#",
            f"topic read {PREFIX}{every}/+/seg",
            f"topic write {PREFIX}{every}/+/rcpt",
        ]
    return sealed("\n".join(lines) + "\n")


# --- files of ours -----------------------------------------------------------------------------------


def sealed(body: str) -> str:
    """`body` under a line that says whose it is and of what."""
    return f"{MARK}{hashlib.sha256(body.encode()).hexdigest()}\n{body}"


@unique
class Origin(IntEnum):
    """Whose a file is."""

    OURS = 0
    EDITED = 1
    """We wrote it and somebody changed it since."""
    FOREIGN = 2


def origin_of(text: str) -> Origin:
    """Whose the file with this `text` is."""
    first, _, body = text.partition("\n")
    if not first.startswith(MARK):
        return Origin.FOREIGN
    digest = hashlib.sha256(body.encode()).hexdigest()
    return Origin.OURS if first == f"{MARK}{digest}" else Origin.EDITED


# --- what must be done about a change ----------------------------------------------------------------


@unique
class Apply(IntEnum):
    """What Mosquitto must be told; the larger one includes the smaller."""

    NOTHING = 0
    RELOAD = 1
    """SIGHUP: certificates, the revocation list and the access rules are read anew."""
    RESTART = 2
    """The configuration changed, or somebody was revoked whose connection may stand."""


def apply_for(changed: Sequence[str], *, newly_revoked: bool) -> Apply:
    """What the `changed` files, by name, ask for."""
    if CONFIG_NAME in changed or newly_revoked:
        return Apply.RESTART
    return Apply.RELOAD if changed else Apply.NOTHING
