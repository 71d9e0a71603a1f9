"""Receipts and trust files: what an outbox may believe before it forgets."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloud_sync.log.checkpoint import public_bytes, sign_checkpoint
from edge.errors import ConfigError, ReceiptError
from edge.note import Checkpoint
from edge.receipt import MAX_ITEMS, MAX_RECEIPT_BYTES, ReceiptItem, make_receipt, verify_receipt
from edge.trust import Trust
from firmware_bridge.wire import cbor, cose

LOG = Ed25519PrivateKey.from_private_bytes(b"\x09" * 32)
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
ORIGIN = "log.example/fund"
TRUST = Trust(ORIGIN, public_bytes(LOG), {cose.key_id(KEY.public_key()): KEY.public_key()})
NOTE = sign_checkpoint(Checkpoint(ORIGIN, 10, b"\x05" * 32), LOG)
ITEMS = [ReceiptItem(b"\x01" * 16, number, bytes([number]) * 32, number + 2) for number in range(3)]
BEYOND = ReceiptItem(b"r" * 16, 0, b"h" * 32, 10)
SHORT_RUN = ReceiptItem(b"r" * 15, 0, b"h" * 32, 1)
FOREIGN_NOTE = sign_checkpoint(
    Checkpoint(ORIGIN, 10, b"\x05" * 32), Ed25519PrivateKey.from_private_bytes(b"\x0a" * 32)
)
GOOD = make_receipt("fund", "car-1", ORIGIN, NOTE, ITEMS, KEY)


def pem(key: Any) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def signed(value: Any, key: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    return cose.sign1(cbor.encode(value), key, cose.key_id(key.public_key()))


def test_a_good_receipt_says_what_was_logged() -> None:
    receipt = verify_receipt(GOOD, TRUST, tenant="fund", device="car-1")
    assert receipt.items == tuple(ITEMS)
    assert (receipt.tenant, receipt.device, receipt.checkpoint.size) == ("fund", "car-1", 10)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (make_receipt("fund", "car-1", ORIGIN, NOTE, ITEMS, OTHER), "not known"),
        (make_receipt("fund", "car-1", "log.example/x", NOTE, ITEMS, KEY), "of log"),
        (make_receipt("fund", "car-2", ORIGIN, NOTE, ITEMS, KEY), "is for"),
        (make_receipt("bank", "car-1", ORIGIN, NOTE, ITEMS, KEY), "is for"),
        (make_receipt("fund", "car-1", ORIGIN, NOTE[:-9], ITEMS, KEY), "receipt:"),
        (
            make_receipt("fund", "car-1", ORIGIN, FOREIGN_NOTE, ITEMS, KEY),
            "no key",
        ),
        (make_receipt("fund", "car-1", ORIGIN, NOTE, [BEYOND], KEY), "outside"),
        (make_receipt("fund", "car-1", ORIGIN, NOTE, [SHORT_RUN], KEY), "no segment"),
        (signed([2, "fund", "car-1", ORIGIN, NOTE, [[b"r" * 16, 0, b"h" * 32, 1]]]), "version 2"),
        (signed([1, "fund", "car-1", ORIGIN, NOTE, []]), "0 items"),
        (signed([1, "fund", "car-1", ORIGIN, NOTE, [[b"r" * 16, -1, b"h" * 32, 1]]]), "no segment"),
        (signed([1, "fund", "car-1", ORIGIN, NOTE, [[b"r" * 16, 0, b"h" * 32, True]]]), "another form"),
        (signed([1, "fund", "car-1", ORIGIN, NOTE, [b"x"]]), "another form"),
        (signed({0: 1}), "not a receipt"),
        (signed(7), "not a receipt"),
        (b"", "receipt:"),
        (b"\xd2" * 70_000, "at most"),
    ],
    ids=range(17),  # the bytes hold fresh signatures: two processes would name the tests differently
)  # fmt: skip
def test_a_receipt_that_must_not_be_believed(data: bytes, why: str) -> None:
    with pytest.raises(ReceiptError, match=why):
        verify_receipt(data, TRUST, tenant="fund", device="car-1")


def test_every_flipped_byte_and_every_cut_is_refused() -> None:
    for at in range(len(GOOD)):
        changed = bytearray(GOOD)
        changed[at] ^= 0x10
        with pytest.raises(ReceiptError):
            verify_receipt(bytes(changed), TRUST)
        with pytest.raises(ReceiptError):
            verify_receipt(GOOD[:at], TRUST)
    with pytest.raises(ReceiptError):
        verify_receipt(GOOD + b"\x00", TRUST)


def test_a_whole_batch_fits_and_more_is_not_made() -> None:
    items = [ReceiptItem(b"\x01" * 16, n, b"h" * 32, 9) for n in range(MAX_ITEMS + 1)]
    data = make_receipt("f" * 63, "d" * 63, ORIGIN, NOTE, items[:MAX_ITEMS], KEY)
    assert len(data) < MAX_RECEIPT_BYTES
    assert len(verify_receipt(data, TRUST).items) == MAX_ITEMS
    for wrong in ([], items):
        with pytest.raises(ReceiptError):
            make_receipt("fund", "car-1", ORIGIN, NOTE, wrong, KEY)


def trust_file(**changes: Any) -> str:
    value: dict[str, Any] = {
        "origin": ORIGIN, "log_key": base64.b64encode(public_bytes(LOG)).decode(), "receipt_keys": [pem(KEY)],
    }  # fmt: skip
    return json.dumps({**value, **changes})


def test_a_trust_file_is_read() -> None:
    trust = Trust.from_json(trust_file(ledger_keys=[pem(OTHER)]))
    assert verify_receipt(GOOD, trust).origin == ORIGIN
    assert list(trust.ledger_keys) == [cose.key_id(OTHER.public_key())]
    assert trust.device_ca is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{", "not JSON"), ("[]", "object"), ("[" * 100_000, "at most"), ("[" * 5000, "JSON"),
        (trust_file(origin="two words"), "origin"), (trust_file(origin=None), "origin"),
        (trust_file(log_key="AAAA"), "log_key"), (trust_file(log_key="!"), "log_key"),
        (trust_file(log_key=5), "log_key"),
        (trust_file(receipt_keys=pem(KEY)), "receipt_keys"), (trust_file(receipt_keys=["x"]), "receipt_keys"),
        (trust_file(receipt_keys=[pem(LOG)]), "P-256"), (trust_file(receipt_keys=[3]), "P-256"),
        (trust_file(device_ca="x"), "device_ca"), (trust_file(device_ca=1), "device_ca"),
    ],
)  # fmt: skip
def test_a_trust_file_that_cannot_be_meant_says_where(text: str, names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        Trust.from_json(text)
