"""Certificate requests: ours are read, openssl's are read, and whatever else they wish for is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from provisioning import ca, csr
from provisioning.csr import make_csr, read_csr
from provisioning.errors import CsrError
from provisioning.identity import Identity

CAR = Identity("fund", "car-1")
KEY = ca.new_key()
GOOD = make_csr(KEY, CAR)
SHA256 = hashes.SHA256()
URN = x509.UniformResourceIdentifier(CAR.urn)


def build(
    *names: x509.GeneralName,
    common: tuple[str, ...] = ("x",),
    extensions: tuple[x509.ExtensionType, ...] = (),
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey = KEY,
    hash_: hashes.HashAlgorithm | None = SHA256,
) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one) for one in common])
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, hash_).public_bytes(Encoding.DER)


def usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(True, False, False, False, False, signs, False, False, False)


def test_our_own_request_is_read() -> None:
    request = read_csr(GOOD)
    assert (request.identity, request.key) == (CAR, KEY.public_key())
    assert request.key_hash == csr.key_hash(KEY.public_key())
    assert len(GOOD) < 400


def test_a_long_name_is_read_though_common_names_are_short() -> None:
    longest = Identity("t" * 63, "d" * 63)
    assert read_csr(make_csr(KEY, longest)).identity == longest


def test_a_request_without_alternative_name_is_known_by_its_common_name() -> None:
    assert read_csr(build(common=("fund.car-1",))).identity == CAR


def test_harmless_wishes_are_ignored() -> None:
    harmless = (usage(signs=False), x509.BasicConstraints(ca=False, path_length=None))
    assert read_csr(build(URN, extensions=harmless)).identity == CAR


def test_openssls_request_is_read(tmp_path: Path) -> None:
    key, out = tmp_path / "k.pem", tmp_path / "r.der"
    openssl = [
        "openssl",
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        key,
    ]
    subprocess.run(
        [*openssl, "-subj", "/CN=car", "-addext", f"subjectAltName=URI:{CAR.urn}", "-outform", "DER",
         "-out", out], check=True, capture_output=True,
    )  # fmt: skip
    assert read_csr(out.read_bytes()).identity == CAR
    read = subprocess.run(
        ["openssl", "req", "-inform", "DER", "-verify", "-noout"],
        input=GOOD,
        capture_output=True,
        check=False,
    )
    assert read.returncode == 0


@pytest.mark.parametrize(
    ("der", "says"),
    [
        (build(URN, x509.UniformResourceIdentifier("urn:holdfast:fund:car-2")), "2 alternative names"),
        (build(URN, x509.DNSName("broker.example")), "2 alternative names"),
        (build(x509.DNSName("car-1")), "exactly one, of kind URI"),
        (build(x509.UniformResourceIdentifier("urn:holdfast:fund:car/1")), "car/1"),
        (build(x509.UniformResourceIdentifier("urn:holdfast:fund:+")), "lower-case"),
        (build(x509.UniformResourceIdentifier("urn:holdfast:fund:#")), "lower-case"),
        (build(x509.UniformResourceIdentifier("urn:other:fund:car-1")), "not of the form"),
        (build(common=("fund",)), "not <tenant>.<device>"),
        (build(common=("fund.car-1", "fund.car-2")), "not exactly one common name"),
        (build(common=("fund.car.1",)), "lower-case"),
        (build(URN, extensions=(x509.BasicConstraints(ca=True, path_length=None),)), "be an authority"),
        (build(URN, extensions=(usage(signs=True),)), "sign certificates"),
        (build(URN, key=ec.generate_private_key(ec.SECP384R1())), "only P-256"),
        (build(URN, key=rsa.generate_private_key(65537, 2048)), "only P-256"),
        (build(URN, key=ed25519.Ed25519PrivateKey.generate(), hash_=None), "only P-256"),
        (build(URN, hash_=hashes.SHA384()), "SHA-256"),
        (GOOD + b"\0", "before or after"),
        (GOOD[:-1], "before or after"),
        (b"", "no DER sequence"),
        (b"\x30\x84\xff\xff\xff\xff", "length"),
        (b"\x30\x82\x13\x88" + b"\0" * 5000, "at most 4096"),
        (b"\x30\x02\x05\x00", "that can be read"),
    ],
)
def test_what_nobody_should_certify_is_refused(der: bytes, says: str) -> None:
    with pytest.raises(CsrError, match=says):
        read_csr(der)


def test_a_request_for_somebody_elses_key_is_refused() -> None:
    """Proof of possession: the same request with another public key in it."""
    mine = KEY.public_key().public_numbers()
    other = ca.new_key().public_key().public_numbers()
    swapped = GOOD.replace(mine.x.to_bytes(32, "big"), other.x.to_bytes(32, "big")).replace(
        mine.y.to_bytes(32, "big"), other.y.to_bytes(32, "big")
    )
    assert swapped != GOOD
    with pytest.raises(CsrError, match="not signed with its own key"):
        read_csr(swapped)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_changed_byte_never_names_or_certifies_another(at: int, change: int) -> None:
    changed = bytearray(GOOD)
    changed[at] ^= change
    with pytest.raises(CsrError):
        read_csr(bytes(changed))


def test_every_version_but_the_first_is_refused() -> None:
    later = bytearray(GOOD)
    later[GOOD.index(b"\x02\x01\x00") + 2] = 1
    with pytest.raises(CsrError, match="that can be read"):
        read_csr(bytes(later))


@given(st.binary(max_size=200))
def test_rubbish_is_refused_in_our_words(data: bytes) -> None:
    with pytest.raises(CsrError):
        read_csr(data)
