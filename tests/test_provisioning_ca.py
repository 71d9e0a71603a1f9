from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from firmware_bridge.wire import cose
from provisioning import ca
from provisioning.ca import DOCUMENT_SIGNING, Authority, Purpose, Validity, verify_event_certificate
from provisioning.errors import IdentityError, ProvisioningError
from provisioning.identity import Identity

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
YEARS = Validity(NOW - timedelta(days=1), NOW + timedelta(days=3650))
SHORT = Validity(NOW, NOW + timedelta(days=90))
CAR = Identity("fund", "car-1")


@pytest.fixture(scope="module")
def root() -> Authority:
    return ca.make_root("root", ca.new_key(), YEARS)


@pytest.fixture(scope="module")
def tls(root: Authority) -> Authority:
    return ca.make_issuing(root, "tls", ca.new_key(), Purpose.TLS, YEARS)


@pytest.fixture(scope="module")
def event(root: Authority) -> Authority:
    return ca.make_issuing(root, "events", ca.new_key(), Purpose.EVENT, YEARS)


def test_an_event_certificate_names_the_signer(event: Authority) -> None:
    certificate = ca.issue_event(event, ca.new_key().public_key(), CAR, SHORT)
    assert verify_event_certificate(certificate, event.certificate, NOW) == CAR


def test_event_and_tls_keys_cannot_stand_in_for_each_other(tls: Authority, event: Authority) -> None:
    event_key, tls_key = ca.new_key(), ca.new_key()
    assert cose.key_id(event_key.public_key()) != cose.key_id(tls_key.public_key())
    presented = ca.issue_tls_client(tls, tls_key.public_key(), CAR, SHORT)
    with pytest.raises(IdentityError, match="not issued by"):
        verify_event_certificate(presented, event.certificate, NOW)
    with pytest.raises(IdentityError, match="another purpose"):
        verify_event_certificate(presented, tls.certificate, NOW)
    misissued = ca.issue_tls_client(event, tls_key.public_key(), CAR, SHORT)
    with pytest.raises(IdentityError, match="another purpose"):
        verify_event_certificate(misissued, event.certificate, NOW)


def test_validity_is_checked_at_the_given_moment(event: Authority) -> None:
    certificate = ca.issue_event(event, ca.new_key().public_key(), CAR, SHORT)
    for at in (SHORT.not_before, SHORT.not_after):
        assert verify_event_certificate(certificate, event.certificate, at) == CAR
    for at in (SHORT.not_before - timedelta(seconds=1), SHORT.not_after + timedelta(seconds=1)):
        with pytest.raises(IdentityError, match="valid"):
            verify_event_certificate(certificate, event.certificate, at)


def test_the_authority_must_be_valid_too(root: Authority) -> None:
    brief = Validity(NOW, NOW + timedelta(days=1))
    old = ca.make_issuing(root, "old", ca.new_key(), Purpose.EVENT, brief)
    certificate = ca.issue_event(old, ca.new_key().public_key(), CAR, SHORT)
    with pytest.raises(IdentityError, match="authority"):
        verify_event_certificate(certificate, old.certificate, NOW + timedelta(days=2))


def test_a_namesake_authority_is_not_believed(root: Authority, event: Authority) -> None:
    rogue = ca.make_issuing(
        ca.make_root("root", ca.new_key(), YEARS), "events", ca.new_key(), Purpose.EVENT, YEARS
    )
    certificate = ca.issue_event(rogue, ca.new_key().public_key(), CAR, SHORT)
    for authority in (event, root):
        with pytest.raises(IdentityError, match="not issued by"):
            verify_event_certificate(certificate, authority.certificate, NOW)


def test_a_signature_of_no_whole_number_of_octets_is_refused(event: Authority) -> None:
    """A reader drops unused bits that are zero, so every second certificate can say that it has one."""
    for _ in range(200):
        certificate = ca.issue_event(event, ca.new_key().public_key(), CAR, SHORT)
        if certificate.signature[-1] % 2 == 0:
            break
    der, count = certificate.public_bytes(Encoding.DER), len(certificate.signature)
    altered = x509.load_der_x509_certificate(der[: -count - 1] + b"\x01" + der[-count:])
    altered.verify_directly_issued_by(event.certificate)  # the library does not mind
    with pytest.raises(IdentityError, match="altered"):
        verify_event_certificate(altered, event.certificate, NOW)


def test_a_device_cannot_certify_others(event: Authority) -> None:
    own = ca.new_key()
    leaf = Authority(ca.issue_event(event, own.public_key(), CAR, SHORT), own)
    child = ca.issue_event(leaf, ca.new_key().public_key(), Identity("fund", "car-2"), SHORT)
    with pytest.raises(IdentityError):
        verify_event_certificate(child, leaf.certificate, NOW)


def test_an_authority_is_no_signer(root: Authority, event: Authority) -> None:
    with pytest.raises(IdentityError):
        verify_event_certificate(event.certificate, root.certificate, NOW)


def test_keys_of_another_kind_are_refused(event: Authority) -> None:
    other = ed25519.Ed25519PrivateKey.generate().public_key()
    certificate = ca._leaf(
        event, other, "car", [x509.UniformResourceIdentifier(CAR.urn)], DOCUMENT_SIGNING, SHORT  # type: ignore[arg-type]
    )  # fmt: skip
    with pytest.raises(IdentityError, match="P-256"):
        verify_event_certificate(certificate, event.certificate, NOW)


def test_times_without_a_zone_and_empty_validities_are_refused() -> None:
    with pytest.raises(ProvisioningError):
        Validity(datetime(2026, 1, 1), datetime(2027, 1, 1))
    with pytest.raises(ProvisioningError):
        Validity(NOW, NOW)


def test_a_server_certificate_needs_a_name(tls: Authority) -> None:
    with pytest.raises(ProvisioningError):
        ca.issue_server(tls, ca.new_key().public_key(), [], SHORT)


@pytest.mark.parametrize(
    ("kind", "purpose", "good"),
    [
        ("client", "sslclient", True), ("client", "sslserver", False), ("server", "sslserver", True),
        ("server", "sslclient", False), ("event", "sslclient", False), ("event", "sslserver", False),
    ],
)  # fmt: skip
def test_openssl_agrees_on_what_each_is_for(
    tmp_path: Path, root: Authority, tls: Authority, event: Authority, kind: str, purpose: str, good: bool
) -> None:
    public = ca.new_key().public_key()
    leaf, issuer = {
        "client": (ca.issue_tls_client(tls, public, CAR, SHORT), tls),
        "server": (ca.issue_server(tls, public, ["localhost", "127.0.0.1", "::1"], SHORT), tls),
        "event": (ca.issue_event(event, public, CAR, SHORT), event),
    }[kind]
    for name, one in (("root", root.certificate), ("issuer", issuer.certificate), ("leaf", leaf)):
        (tmp_path / name).write_bytes(one.public_bytes(Encoding.PEM))
    verified = subprocess.run(
        ["openssl", "verify", "-purpose", purpose, "-attime", str(int(NOW.timestamp()) + 60), "-x509_strict",
         "-CAfile", "root", "-untrusted", "issuer", "leaf"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (verified.returncode == 0) == good, verified.stdout + verified.stderr
