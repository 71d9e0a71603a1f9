"""Statements: what the cloud itself says and logs, next to the segments of the devices.

A statement is a COSE_Sign1 (ES256, the collector's *ledger* key) over the CBOR map

    {0: version, 1: type, 2: tenant, 3: wall_ms, 4: body}

and stands in the transparency log like a segment: its leaf is the SHA-256 of the signed bytes. The body
is a map with integer keys; each type names its own (`title`: `cloud_sync.ledger.engine.TitleKey`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from edge.errors import FormatError
from firmware_bridge.errors import WireError
from firmware_bridge.wire import cbor, cose

VERSION: Final = 1
MAX_STATEMENT_BYTES: Final = 16 * 1024
"""Signed bytes; the largest of ours, a title transition, has about 400."""
MAX_WALL_MS: Final = 1 << 48
"""Year 10889: a wall time beyond it is a mistake of unit."""

TITLE: Final = "title"
"""One transition of a vehicle title."""
BINDING: Final = "binding"
"""Which device watches a title's vehicle: {1: token (32 bytes), 2: device}."""
CASE: Final = "case"
"""A person's (or a rule's) step in the life of an incident (`cloud_sync.casework`)."""
ACCESS: Final = "access"
"""Somebody read an exact position or exported evidence: who, of which device, what for."""
ERASURE: Final = "erasure"
"""Bodies were erased: which device, which month, how many, why."""

_TYPE = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)

Body = dict[int, cbor.Value]


@dataclass(frozen=True, slots=True)
class Statement:
    """A verified statement with its signed bytes."""

    type: str
    tenant: str
    wall_ms: int
    """Milliseconds since 1970-01-01T00:00:00Z by the collector's clock."""
    body: Body
    data: bytes
    kid: bytes

    @property
    def hash(self) -> bytes:
        """SHA-256 over the signed bytes: the log's entry."""
        return hashlib.sha256(self.data).digest()


def make_statement(
    type: str, tenant: str, wall_ms: int, body: Body, key: cose.PrivateKey, kid: bytes | None = None
) -> bytes:
    """Sign a statement with the ledger key; `kid` is the key's own id unless given.

    Raises FormatError when the type, tenant or time cannot stand in one or it is larger than
    MAX_STATEMENT_BYTES, WireError when the body holds what signed CBOR may not (floats, text keys).
    """
    _check(type, tenant, wall_ms)
    payload = cbor.encode({0: VERSION, 1: type, 2: tenant, 3: wall_ms, 4: body})
    data = cose.sign1(payload, key, cose.key_id(key.public_key()) if kid is None else kid)
    if len(data) > MAX_STATEMENT_BYTES:
        raise FormatError(f"statement of {len(data)} bytes, at most {MAX_STATEMENT_BYTES}")
    return data


def parse_statement(data: bytes, resolve: cose.Resolve) -> Statement:
    """Check signature and form of `data`.

    Raises firmware_bridge.errors.SignatureError for a bad signature or an unknown key, WireError for
    bytes that are not a COSE_Sign1, FormatError for a payload that is not a statement.
    """
    if len(data) > MAX_STATEMENT_BYTES:
        raise FormatError(f"statement of {len(data)} bytes, at most {MAX_STATEMENT_BYTES}")
    return _parse(cose.verify1(data, resolve), data)


def peek_statement(data: bytes) -> Statement:
    """The content of `data` **without checking its signature**: for display only."""
    return _parse(cose.peek(data), data)


def _parse(signed: cose.Sign1, data: bytes) -> Statement:
    try:
        value = cbor.decode(signed.payload, max_bytes=MAX_STATEMENT_BYTES)
    except WireError as error:
        raise FormatError(str(error)) from error
    if not isinstance(value, dict) or len(value) != 5:
        raise FormatError("not a statement map")
    match value:
        case {0: int(version), 1: str(type_), 2: str(tenant), 3: int(wall_ms), 4: dict(body)}:
            if version != VERSION:
                raise FormatError(f"statement version {version}; this software reads {VERSION}")
            _check(type_, tenant, wall_ms)
            return Statement(type_, tenant, wall_ms, body, data, signed.kid)
    raise FormatError("not a statement map")


def valid_tenant(name: str) -> bool:
    """Whether `name` can be a tenant: 1 .. 63 lower-case letters, digits, hyphens."""
    return _TENANT.fullmatch(name) is not None


def _check(type_: str, tenant: str, wall_ms: int) -> None:
    if not _TYPE.fullmatch(type_):
        raise FormatError(f"{type_!r:.60} is not a statement type (lower-case letters, digits, hyphens)")
    if not valid_tenant(tenant):
        raise FormatError(f"{tenant!r:.80} is not a tenant name")
    if isinstance(wall_ms, bool) or not 0 <= wall_ms < MAX_WALL_MS:
        raise FormatError(f"wall time {wall_ms} ms is not possible")
