from __future__ import annotations

import os
import ssl
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edge.trust import Trust
from firmware_bridge.wire import cose
from provisioning.ca import verify_event_certificate
from provisioning.errors import IdentityError, LabError
from provisioning.identity import Identity
from provisioning.runtime.lab import make_lab

NODES = [("car-1", "vehicle"), ("road-1", "roadside")]


def test_the_layout(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "lab", "fund", NODES, "127.0.0.1")
    found = {str(p.relative_to(lab.home)) for p in lab.home.rglob("*") if p.is_file()}
    tls = ["tls.key", "tls.crt", "ca.crt"]
    wanted = {f"broker/keys/{n}" for n in tls}
    wanted |= {f"collector/keys/{n}" for n in (*tls, "log.key", "receipt.key", "ledger.key", "device_ca.crt")}
    for device, _ in NODES:
        wanted |= {f"nodes/{device}/keys/{n}" for n in (*tls, "event.key", "event.crt")}
        wanted |= {f"nodes/{device}/trust.json", f"collector/devices/fund/{device}.crt"}
    wanted |= {f"authority/{n}.{e}" for n in ("root", "tls", "event") for e in ("key", "crt")}
    assert found == wanted | {"trust.json", "collector/trust.json"}


def test_nobody_else_can_read_a_key(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        lab = make_lab(tmp_path / "a" / "lab", "fund", NODES, "127.0.0.1")
    finally:
        os.umask(old)
    for path in (tmp_path / "a", *(tmp_path / "a").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert lab.nodes["car-1"].is_dir()


def test_the_keys_belong_together(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, "fund", NODES, "127.0.0.1")
    trust = Trust.from_json(lab.trust.read_text())
    assert trust.origin == "log.holdfast.example/demo"
    receipt = load_pem_private_key((lab.collector / "keys/receipt.key").read_bytes(), None)
    log = load_pem_private_key((lab.collector / "keys/log.key").read_bytes(), None)
    assert isinstance(receipt, EllipticCurvePrivateKey)
    assert cose.key_id(receipt.public_key()) in trust.receipt_keys
    assert log.public_key().public_bytes_raw() == trust.log_key  # type: ignore[union-attr]
    assert len(trust.ledger_keys) == 1 and trust.device_ca is not None
    for device, _ in NODES:
        certificate = x509.load_pem_x509_certificate((lab.nodes[device] / "keys/event.crt").read_bytes())
        now = datetime.now(UTC)
        assert verify_event_certificate(certificate, trust.device_ca, now) == Identity("fund", device)
        replayed = datetime(2010, 4, 3, tzinfo=UTC)
        assert verify_event_certificate(certificate, trust.device_ca, replayed) == Identity("fund", device)
        key = load_pem_private_key((lab.nodes[device] / "keys/event.key").read_bytes(), None)
        tls = load_pem_private_key((lab.nodes[device] / "keys/tls.key").read_bytes(), None)
        assert key.public_key() == certificate.public_key()
        assert tls.public_key() != certificate.public_key()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_cert_chain(lab.nodes[device] / "keys/tls.crt", lab.nodes[device] / "keys/tls.key")


def test_keys_are_never_replaced(tmp_path: Path) -> None:
    make_lab(tmp_path, "fund", NODES, "127.0.0.1")
    before = (tmp_path / "nodes/car-1/keys/event.key").read_bytes()
    with pytest.raises(LabError, match="already"):
        make_lab(tmp_path, "fund", NODES, "127.0.0.1")
    assert (tmp_path / "nodes/car-1/keys/event.key").read_bytes() == before


@pytest.mark.parametrize(
    ("tenant", "nodes"),
    [
        ("cloud", NODES),
        ("fund", [("collector", "vehicle")]),
        ("fund", [("car-1", "vehicle"), ("car-1", "roadside")]),
        ("Fund", NODES),
        ("fund", [("car/1", "vehicle")]),
    ],
)
def test_names_that_cannot_be_meant(tmp_path: Path, tenant: str, nodes: list[tuple[str, str]]) -> None:
    with pytest.raises((LabError, IdentityError)):
        make_lab(tmp_path, tenant, nodes, "127.0.0.1")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LabError, match="cannot write"):
        make_lab(tmp_path / "file" / "lab", "fund", NODES, "127.0.0.1")
