"""COSE_Sign1 with ES256: the working group's vectors, two other libraries, and every way to cheat."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import cwt
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st
from pycose.headers import KID, Algorithm
from pycose.keys import EC2Key
from pycose.messages import Sign1Message

from firmware_bridge.errors import SignatureError, WireError
from firmware_bridge.wire import cbor, cose

KEY = ec.derive_private_key(0x5EED, ec.SECP256R1())
OTHER = ec.derive_private_key(0xBAD, ec.SECP256R1())
OUR_KID = cose.key_id(KEY.public_key())
PAYLOAD = b"This is the content."


def resolve(kid: bytes) -> cose.PublicKey | None:
    return KEY.public_key() if kid == OUR_KID else None


def signed(payload: bytes = PAYLOAD, aad: bytes = b"") -> bytes:
    return cose.sign1(payload, KEY, OUR_KID, external_aad=aad)


# ---- the working group's vectors ----------------------------------------------------------------


def b64(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


def load(path: Path) -> tuple[bytes, cose.PublicKey, bytes, bytes]:
    """Message, key, external data and the bytes that were signed, of one example."""
    vector = json.loads(path.read_text())
    signer = vector["input"]["sign0"]
    jwk = signer["key"]
    x, y = ((int(jwk[f"{c}_hex"], 16) if f"{c}_hex" in jwk else b64(jwk[c])) for c in ("x", "y"))
    key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    return (
        bytes.fromhex(vector["output"]["cbor"]),
        key,
        bytes.fromhex(signer.get("external", "")),
        bytes.fromhex(vector["intermediates"]["ToBeSign_hex"]),
    )


def raw_verifies(message: bytes, key: cose.PublicKey, aad: bytes) -> bool:
    """The bare mathematics: the Sig_structure of RFC 9052 section 4.4 built from what the message says."""
    decoded = cbor2.loads(message)
    protected, _, payload, signature = decoded.value if isinstance(decoded, cbor2.CBORTag) else decoded
    # Section 4.4: an empty header map is signed as a zero-length string, whichever way it was sent.
    header = b"" if protected == b"\xa0" else protected
    der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    try:
        key.verify(der, cose._to_be_signed(header, payload, aad), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


PASS = ["sign1-tests/sign-pass-02", "RFC8152/Appendix_C_2_1"]


@pytest.mark.parametrize("name", PASS)
def test_vectors_of_our_form_verify(shared_data: Callable[[str], Path], name: str) -> None:
    message, key, aad, signed_bytes = load(shared_data(f"cose/{name}.json"))
    assert cose._to_be_signed(cbor2.loads(message).value[0], PAYLOAD, aad) == signed_bytes
    found = cose.verify1(message, lambda kid: key, external_aad=aad)
    assert found.payload == PAYLOAD
    # Their key id stands in the unprotected header: it is not read, so no key of ours is found.
    assert found.kid == b""
    with pytest.raises(SignatureError):
        cose.verify1(message, resolve, external_aad=aad)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("sign1-tests/sign-pass-01", SignatureError),  # algorithm outside the protected header
        ("sign1-tests/sign-pass-03", WireError),  # no tag
        ("ecdsa-examples/ecdsa-sig-01", SignatureError),  # a protected parameter that we do not know
    ],
)
def test_right_signatures_of_another_form_are_refused_for_their_form(
    shared_data: Callable[[str], Path], name: str, error: type[WireError]
) -> None:
    message, key, aad, signed_bytes = load(shared_data(f"cose/{name}.json"))
    assert raw_verifies(message, key, aad)
    body = cbor2.loads(message)
    header = (body.value if isinstance(body, cbor2.CBORTag) else body)[0]
    assert cose._to_be_signed(b"" if header == b"\xa0" else header, PAYLOAD, aad) == signed_bytes
    with pytest.raises(error):
        cose.verify1(message, lambda kid: key, external_aad=aad)


def test_untagged_vector_verifies_once_it_is_tagged(shared_data: Callable[[str], Path]) -> None:
    message, key, _, _ = load(shared_data("cose/sign1-tests/sign-pass-03.json"))
    assert cose.verify1(b"\xd2" + message, lambda kid: key).payload == PAYLOAD


@pytest.mark.parametrize("number", ["01", "02", "03", "04", "06", "07"])
def test_vectors_that_must_fail_fail(shared_data: Callable[[str], Path], number: str) -> None:
    message, key, aad, _ = load(shared_data(f"cose/sign1-tests/sign-fail-{number}.json"))
    with pytest.raises(WireError):
        cose.verify1(message, lambda kid: key, external_aad=aad)
    if number != "01":  # there only the tag is wrong
        assert not raw_verifies(message, key, aad)


@pytest.mark.parametrize("number", ["02", "03"])
def test_other_curves_are_not_on_the_allow_list(shared_data: Callable[[str], Path], number: str) -> None:
    vector = json.loads(shared_data(f"cose/ecdsa-examples/ecdsa-sig-{number}.json").read_text())
    with pytest.raises(SignatureError):
        cose.verify1(bytes.fromhex(vector["output"]["cbor"]), lambda kid: KEY.public_key())


# ---- two independent libraries, both directions --------------------------------------------------


def numbers() -> tuple[bytes, bytes, bytes]:
    public = KEY.public_key().public_numbers()
    d = KEY.private_numbers().private_value
    return public.x.to_bytes(32, "big"), public.y.to_bytes(32, "big"), d.to_bytes(32, "big")


def cwt_key() -> Any:
    x, y, d = numbers()
    return cwt.COSEKey.new({1: 2, 2: OUR_KID, 3: -7, -1: 1, -2: x, -3: y, -4: d})


def pycose_key() -> Any:
    x, y, d = numbers()
    return EC2Key(crv="P_256", x=x, y=y, d=d)


payloads = st.binary(max_size=300)
data = st.binary(max_size=20)


@settings(max_examples=25)
@given(payloads, data)
def test_cwt_reads_ours(payload: bytes, aad: bytes) -> None:
    assert cwt.COSE.new().decode(signed(payload, aad), cwt_key(), external_aad=aad) == payload


@settings(max_examples=25)
@given(payloads, data)
def test_we_read_cwt(payload: bytes, aad: bytes) -> None:
    theirs = cwt.COSE.new(alg_auto_inclusion=False, kid_auto_inclusion=False).encode_and_sign(
        payload, cwt_key(), protected={1: -7, 4: OUR_KID}, external_aad=aad
    )
    assert cose.verify1(theirs, resolve, external_aad=aad) == cose.Sign1(OUR_KID, payload)


@settings(max_examples=25)
@given(payloads, data)
def test_pycose_reads_ours(payload: bytes, aad: bytes) -> None:
    message = Sign1Message.decode(signed(payload, aad))
    message.key = pycose_key()
    message.external_aad = aad
    assert message.verify_signature()
    assert message.payload == payload


@settings(max_examples=25)
@given(payloads, data)
def test_we_read_pycose(payload: bytes, aad: bytes) -> None:
    from pycose.algorithms import Es256

    theirs = Sign1Message(phdr={Algorithm: Es256, KID: OUR_KID}, payload=payload, external_aad=aad)
    theirs.key = pycose_key()
    assert cose.verify1(theirs.encode(), resolve, external_aad=aad) == cose.Sign1(OUR_KID, payload)


def test_other_libraries_refuse_what_we_refuse() -> None:
    hurt = bytearray(signed())
    hurt[-1] ^= 1
    with pytest.raises(SignatureError):
        cose.verify1(bytes(hurt), resolve)
    with pytest.raises(cwt.VerifyError):
        cwt.COSE.new().decode(bytes(hurt), cwt_key())
    message = Sign1Message.decode(bytes(hurt))
    message.key = pycose_key()
    assert not message.verify_signature()


# ---- every way to cheat -------------------------------------------------------------------------


def parts(message: bytes) -> list[Any]:
    return list(cbor2.loads(message).value)


def tagged(*items: object, tag: int = 18) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(tag, list(items)))


def test_round_trip_and_key_id() -> None:
    assert cose.verify1(signed(), resolve) == cose.Sign1(OUR_KID, PAYLOAD)
    assert cose.peek(signed()) == cose.Sign1(OUR_KID, PAYLOAD)
    assert len(OUR_KID) == cose.KID_BYTES
    assert cose.key_id(OTHER.public_key()) != OUR_KID


def test_every_flipped_bit_is_refused() -> None:
    message = signed(b"short")
    for bit in range(len(message) * 8):
        hurt = bytearray(message)
        hurt[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError):
            cose.verify1(bytes(hurt), resolve)


def test_every_cut_and_every_trailing_byte_is_refused() -> None:
    message = signed(b"short")
    for size in range(len(message)):
        with pytest.raises(WireError):
            cose.verify1(message[:size], resolve)
    with pytest.raises(WireError):
        cose.verify1(message + b"\x00", resolve)


@given(st.binary(max_size=200))
def test_garbage_is_refused_with_our_own_error(garbage: bytes) -> None:
    for message in (garbage, b"\xd2" + garbage, b"\xd2\x84" + garbage):
        with pytest.raises(WireError):
            cose.verify1(message, resolve)


def test_key_of_another_use_is_not_known() -> None:
    foreign = cose.sign1(PAYLOAD, OTHER, cose.key_id(OTHER.public_key()))
    with pytest.raises(SignatureError, match="not known"):
        cose.verify1(foreign, resolve)
    claimed = cose.sign1(PAYLOAD, OTHER, OUR_KID)
    with pytest.raises(SignatureError, match="does not verify"):
        cose.verify1(claimed, resolve)


def test_external_data_is_part_of_what_is_signed() -> None:
    with pytest.raises(SignatureError):
        cose.verify1(signed(aad=b"segment"), resolve, external_aad=b"receipt")


@pytest.mark.parametrize(
    "header", [{}, {4: OUR_KID}, {1: -8, 4: OUR_KID}, {1: 5, 4: OUR_KID}, {1: None, 4: OUR_KID}, {1: -35}]
)
def test_algorithm_must_be_es256_and_protected(header: dict[int, cbor.Value]) -> None:
    _, _, payload, signature = parts(signed())
    for unprotected in ({}, {1: -7, 4: OUR_KID}):
        with pytest.raises(SignatureError):
            cose.verify1(tagged(cbor2.dumps(header), unprotected, payload, signature), resolve)


def test_critical_or_unknown_protected_parameters_are_refused() -> None:
    for extra in ({2: [99], 99: 1}, {3: 0}, {99: b""}):
        protected = cbor.encode({1: -7, 4: OUR_KID, **extra})
        with pytest.raises(SignatureError, match="not understood"):
            cose.verify1(tagged(protected, {}, PAYLOAD, b"\x01" * 64), resolve)


@pytest.mark.parametrize("size", [0, 63, 65, 70, 96])
def test_signature_of_another_length(size: int) -> None:
    protected, unprotected, payload, _ = parts(signed())
    with pytest.raises(SignatureError, match="64 bytes"):
        cose.verify1(tagged(protected, unprotected, payload, b"\x01" * size), resolve)


@pytest.mark.parametrize("r_s", [(0, 0), (0, 1), (1, 0), ((1 << 256) - 1, 1)])
def test_degenerate_signatures(r_s: tuple[int, int]) -> None:
    protected, unprotected, payload, _ = parts(signed())
    signature = b"".join(n.to_bytes(32, "big") for n in r_s)
    with pytest.raises(SignatureError):
        cose.verify1(tagged(protected, unprotected, payload, signature), resolve)


def test_other_message_types_and_forms() -> None:
    protected, unprotected, payload, signature = parts(signed())
    for message in (
        tagged(protected, unprotected, payload, signature, tag=98),
        cbor2.dumps([protected, unprotected, payload, signature]),
        tagged(protected, unprotected, None, signature),
        tagged(protected, unprotected, payload),
        tagged(protected, unprotected, payload, signature, b""),
        tagged(protected, [], payload, signature),
        b"\xd2" + b"\x00" * (cbor.MAX_BYTES + 1),
        b"",
    ):
        with pytest.raises(WireError):
            cose.verify1(message, resolve)
        with pytest.raises(WireError):
            cose.peek(message)


def test_protected_header_in_another_encoding_is_refused() -> None:
    loose = b"\xa2" + b"\x18\x01\x26" + b"\x04\x48" + OUR_KID
    with pytest.raises(WireError):
        cose.verify1(tagged(loose, {}, PAYLOAD, b"\x01" * 64), resolve)
    with pytest.raises(WireError):
        cose.verify1(tagged(cbor.encode({1: -7, 4: "text"}), {}, PAYLOAD, b"\x01" * 64), resolve)
