from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from provisioning.ca import new_key
from provisioning.errors import IdentityError
from provisioning.identity import Identity, identity_of, parse_urn

NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)


def certificate(*names: x509.GeneralName) -> x509.Certificate:
    """A self-signed certificate with these alternative names; none at all where there are none."""
    key, name = new_key(), x509.Name([])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


@given(NAMES, NAMES)
def test_urns_round_trip(tenant: str, device: str) -> None:
    identity = Identity(tenant, device)
    assert parse_urn(identity.urn) == identity
    assert identity.client_id.split(".") == [tenant, device]


@pytest.mark.parametrize(
    "urn",
    [
        "", "urn:holdfast:", "urn:holdfast:fund", "urn:holdfast:fund:", "urn:holdfast::car-1",
        "urn:holdfast:fund:car-1:x", "URN:HOLDFAST:fund:car-1", "urn:holdfast:Fund:car-1",
        "urn:holdfast:fund:car-1\n", " urn:holdfast:fund:car-1", "urn:holdfast:fund:car+1",
        "urn:holdfast:#:car-1",
        "urn:holdfast:fund:car/1", "spiffe://x/fund/car-1", f"urn:holdfast:fund:{'a' * 64}",
    ],
)  # fmt: skip
def test_other_urns_are_refused(urn: str) -> None:
    with pytest.raises(IdentityError):
        parse_urn(urn)


def test_the_identity_is_exactly_one_uri() -> None:
    mine = x509.UniformResourceIdentifier("urn:holdfast:fund:car-1")
    other = x509.UniformResourceIdentifier("urn:holdfast:fund:car-2")
    assert identity_of(certificate(mine)) == Identity("fund", "car-1")
    assert identity_of(certificate(x509.DNSName("car-1.example"), mine)) == Identity("fund", "car-1")
    for names in ((), (x509.DNSName("urn:holdfast:fund:car-1"),), (mine, other), (mine, mine)):
        with pytest.raises(IdentityError):
            identity_of(certificate(*names))


def test_collectors_are_known_by_their_name() -> None:
    assert Identity("fund", "collector").is_collector
    assert not Identity("fund", "collector-1").is_collector
