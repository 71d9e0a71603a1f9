"""COSE_Sign1 with ES256 (RFC 9052 section 4.2, RFC 9053 section 2.1), and nothing else.

The algorithm and the key id are read from the protected header only and held against an allow-list;
an attacker who moves them to the unprotected header is refused, not obeyed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from firmware_bridge.errors import SignatureError, WireError
from firmware_bridge.wire import cbor

ALG: Final = 1
KID: Final = 4
ES256: Final = -7
KID_BYTES: Final = 8
"""Length of our key ids: the first bytes of SHA-256 over the compressed public point."""
_TAG_SIGN1: Final = b"\xd2"
_SIGNATURE_BYTES: Final = 64
_ES256 = ec.ECDSA(hashes.SHA256())

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey
Resolve = Callable[[bytes], PublicKey | None]
"""Key id -> the public key it may be checked with, or None where the key is not known."""


@dataclass(frozen=True, slots=True)
class Sign1:
    """A verified message: who signed (key id) and what (payload)."""

    kid: bytes
    payload: bytes


def key_id(key: PublicKey) -> bytes:
    """The 8-byte key id of `key`: truncated SHA-256 of its compressed SEC1 point."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint))
    return digest.finalize()[:KID_BYTES]


def _to_be_signed(protected: bytes, payload: bytes, external_aad: bytes) -> bytes:
    return cbor.encode(["Signature1", protected, external_aad, payload])


def sign1(payload: bytes, key: PrivateKey, kid: bytes, *, external_aad: bytes = b"") -> bytes:
    """A tagged COSE_Sign1 over `payload`, alg and kid in the protected header, 64-byte r‖s signature."""
    protected = cbor.encode({ALG: ES256, KID: kid})
    r, s = decode_dss_signature(key.sign(_to_be_signed(protected, payload, external_aad), _ES256))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return _TAG_SIGN1 + cbor.encode([protected, {}, payload, signature])


def peek(data: bytes) -> Sign1:
    """Key id and payload of `data` **without checking the signature**: for routing and quarantine only.

    Raises WireError when the bytes are not a tagged COSE_Sign1 of the form `sign1` writes.
    """
    protected, payload, _ = _split(data)
    return Sign1(_kid(protected), payload)


def verify1(data: bytes, resolve: Resolve, *, external_aad: bytes = b"") -> Sign1:
    """Check `data` and return its payload.

    Raises WireError when the bytes are malformed, SignatureError when the algorithm is not ES256, the
    key is not one that `resolve` knows, or the signature fails.
    """
    protected, payload, signature = _split(data)
    kid = _kid(protected)
    key = resolve(kid)
    if key is None:
        raise SignatureError(f"key {kid.hex()} is not known here")
    der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    try:
        key.verify(der, _to_be_signed(protected, payload, external_aad), _ES256)
    except InvalidSignature as error:
        raise SignatureError(f"signature by key {kid.hex()} does not verify") from error
    return Sign1(kid, payload)


def _split(data: bytes) -> tuple[bytes, bytes, bytes]:
    if data[:1] != _TAG_SIGN1:
        raise WireError("not a tagged COSE_Sign1 (tag 18)")
    body = data[1:]
    if len(body) > cbor.MAX_BYTES:
        raise WireError(f"{len(body)} bytes of COSE, at most {cbor.MAX_BYTES} are read")
    try:
        message = cbor2.loads(body)
        # Others' headers may hold what our value set does not; byte identity is asked of the whole message.
        same = cbor2.dumps(message) == body
    except cbor.FAULTS as error:
        raise WireError(f"not CBOR: {type(error).__name__}") from error
    match message:
        case [bytes() as protected, dict(), bytes() as payload, bytes() as signature] if same:
            if len(signature) != _SIGNATURE_BYTES:
                raise SignatureError(f"an ES256 signature has {_SIGNATURE_BYTES} bytes, not {len(signature)}")
            return protected, payload, signature
    raise WireError("not a COSE_Sign1 of four elements with its payload attached")


def _kid(protected: bytes) -> bytes:
    header = cbor.decode(protected) if protected else {}
    if not isinstance(header, dict) or header.get(ALG) != ES256:
        raise SignatureError("the protected header does not name ES256")
    kid = header.get(KID, b"")
    if not isinstance(kid, bytes):
        raise WireError("key id is not a byte string")
    if set(header) - {ALG, KID}:
        raise SignatureError("the protected header holds parameters that are not understood here")
    return kid
