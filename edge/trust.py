"""What a node or an auditor must be given beforehand to believe a log: `trust.json`.

    {"origin": "log.example/fund", "log_key": base64 of 32 bytes, "receipt_keys": [PEM, ...],
     "device_ca": PEM, "ledger_keys": [PEM, ...]}

`origin`, `log_key` and `receipt_keys` are what a node needs. An auditor also needs `device_ca` (who may
certify a device's event key) and, to believe the cloud's own statements, `ledger_keys`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from edge.errors import ConfigError, NoteError
from edge.note import KEY_BYTES, decode_base64, valid_key_name
from firmware_bridge.wire import cose

MAX_TRUST_BYTES: Final = 64 * 1024
"""A trust file has about 2 KiB; a larger one is another file."""


@dataclass(frozen=True, slots=True)
class Trust:
    """The keys that are believed, and of which log."""

    origin: str
    log_key: bytes
    """Ed25519 public key of the log, 32 bytes."""
    receipt_keys: Mapping[bytes, cose.PublicKey]
    """Key id -> the collector's receipt keys."""
    device_ca: x509.Certificate | None = None
    """Who certifies the devices' event keys; None where only receipts are checked."""
    ledger_keys: Mapping[bytes, cose.PublicKey] = field(default_factory=dict)
    """Key id -> the keys under which the cloud makes statements."""

    @classmethod
    def from_json(cls, text: str) -> Trust:
        """The trust in `text`. Raises ConfigError that says which entry cannot be meant."""
        if len(text) > MAX_TRUST_BYTES:
            raise ConfigError(
                f"trust file of {len(text)} characters, at most {MAX_TRUST_BYTES}: is it the right file?"
            )
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"the trust file is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise ConfigError("the trust file holds no JSON object")
        return cls(
            _origin(value.get("origin")),
            _log_key(value.get("log_key")),
            _keys(value, "receipt_keys"),
            _certificate(value.get("device_ca")),
            _keys(value, "ledger_keys") if "ledger_keys" in value else {},
        )


def _origin(value: object) -> str:
    if not isinstance(value, str) or not valid_key_name(value):
        raise ConfigError("trust: origin must be the log's name, without spaces")
    return value


def _log_key(value: object) -> bytes:
    try:
        key = decode_base64(value) if isinstance(value, str) else b""
    except NoteError as error:
        raise ConfigError(f"trust: log_key: {error}") from error
    if len(key) != KEY_BYTES:
        raise ConfigError(f"trust: log_key must be the base64 of {KEY_BYTES} bytes")
    return key


def _keys(value: Mapping[str, object], name: str) -> dict[bytes, cose.PublicKey]:
    pems = value.get(name)
    if not isinstance(pems, list):
        raise ConfigError(f"trust: {name} must be a list of PEM public keys")
    keys: dict[bytes, cose.PublicKey] = {}
    for pem in pems:
        try:
            key = load_pem_public_key(pem.encode()) if isinstance(pem, str) else None
        except ValueError as error:
            raise ConfigError(f"trust: {name}: not a PEM public key") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ConfigError(f"trust: {name} holds something that is not a P-256 public key")
        keys[cose.key_id(key)] = key
    return keys


def _certificate(value: object) -> x509.Certificate | None:
    if value is None:
        return None
    try:
        return x509.load_pem_x509_certificate(value.encode() if isinstance(value, str) else b"")
    except ValueError as error:
        raise ConfigError("trust: device_ca must be a PEM certificate") from error
