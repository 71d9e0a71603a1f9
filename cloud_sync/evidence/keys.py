"""The keys that a bundle names itself (section 10), compared with those that an auditor holds."""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloud_sync.errors import BundleError
from cloud_sync.evidence.bundle import Bundle
from edge.errors import EdgeError
from edge.note import KEY_BYTES, NoteKey, parse_note
from edge.trust import Trust
from firmware_bridge.wire import cose

UNREADABLE: Final = (ValueError, x509.InvalidVersion, x509.DuplicateExtension, UnsupportedAlgorithm)
"""What reading a spoilt certificate or key raises; the last three are no ValueError."""
FOREIGN: Final = (
    "This bundle was signed by keys that your trust file does not hold: another file, or a forgery"
)


def claimed_trust(bundle: Bundle) -> Trust:
    """The keys that the bundle itself names. Raises BundleError when they are not keys."""
    try:
        ca = x509.load_der_x509_certificate(bundle.claimed.device_ca)
        ledger = [
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
            for point in bundle.claimed.ledger_keys
        ]
    except UNREADABLE as error:
        raise BundleError(f"the keys in the bundle cannot be read: {error}") from error
    if len(bundle.claimed.log_key) != KEY_BYTES:
        raise BundleError("the log key in the bundle has another length")
    return Trust(bundle.origin, bundle.claimed.log_key, {}, ca, {cose.key_id(key): key for key in ledger})


def is_foreign(bundle: Bundle, trust: Trust) -> bool:
    """Whether `bundle` names another log key than `trust`, or its checkpoint bears no line of that key.

    Only for a bundle whose checkpoint does not hold under `trust`: says why that is.
    """
    if bundle.claimed.log_key != trust.log_key:
        return True
    try:
        signatures = parse_note(bundle.note).signatures
    except EdgeError:
        return False  # spoilt, whoever signed it
    key = NoteKey(trust.origin, trust.log_key)
    return all(signature.id != key.id for signature in signatures)


def differences(bundle: Bundle, trust: Trust) -> list[str]:
    """A sentence for each of the bundle's own keys that is not, byte for byte, the one of `trust`.

    A trust file may name more ledger keys than the bundle (after a rotation), not fewer. Where it names no
    device CA or no ledger keys, these cannot be compared.
    """
    own = bundle.claimed
    say = "the bundle's own copy of the keys differs from the trust file: {}; it was altered after the export"
    out: list[str] = []
    if own.log_key != trust.log_key:
        out.append(say.format("its log key"))
    if trust.device_ca is not None and own.device_ca != trust.device_ca.public_bytes(Encoding.DER):
        out.append(say.format("its device CA"))
    if trust.ledger_keys:
        known = {
            key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
            for key in trust.ledger_keys.values()
        }
        named = set(own.ledger_keys)
        if not named or not named <= known or len(named) != len(own.ledger_keys):
            out.append(say.format("its ledger keys"))
    return out
