"""Receipts: the collector's signed word that segments are durably logged. Only they let an outbox forget.

COSE_Sign1 (ES256, the collector's receipt key) over the CBOR array

    [version, tenant, device, origin, checkpoint note, [+ [run, number, hash, index]]]

Each item says: the segment `run`/`number` with this hash is entry `index` of log `origin`, under the
checkpoint in the note, which the log's own key signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edge.errors import NoteError, ReceiptError
from edge.note import Checkpoint, verify_checkpoint
from edge.segment import HASH_BYTES, RUN_BYTES
from edge.trust import Trust
from firmware_bridge.errors import WireError
from firmware_bridge.wire import cbor, cose

VERSION: Final = 1
MAX_RECEIPT_BYTES: Final = 64 * 1024
"""500 items of 65 bytes and a note: 33 KiB."""
MAX_ITEMS: Final = 500
"""Segments in one receipt: a collector's whole batch from one device."""


@dataclass(frozen=True, slots=True)
class ReceiptItem:
    """One segment in the log."""

    run: bytes
    number: int
    hash: bytes
    index: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """A verified receipt."""

    tenant: str
    device: str
    origin: str
    checkpoint: Checkpoint
    items: tuple[ReceiptItem, ...]


def make_receipt(
    tenant: str, device: str, origin: str, note: bytes, items: Sequence[ReceiptItem], key: cose.PrivateKey
) -> bytes:
    """Sign a receipt (the collector's side; here so that writer and reader cannot drift apart).

    Raises ReceiptError for no items, or more than MAX_ITEMS.
    """
    if not 0 < len(items) <= MAX_ITEMS:
        raise ReceiptError(f"a receipt of {len(items)} items; 1 .. {MAX_ITEMS} are possible")
    rows: list[cbor.Value] = [[item.run, item.number, item.hash, item.index] for item in items]
    payload = cbor.encode([VERSION, tenant, device, origin, note, rows])
    return cose.sign1(payload, key, cose.key_id(key.public_key()))


def verify_receipt(
    data: bytes, trust: Trust, *, tenant: str | None = None, device: str | None = None
) -> Receipt:
    """The receipt in `data`, with everything checked that can be checked without the log.

    `tenant` and `device`, where given, are whom it must be for. Raises ReceiptError for every reason not
    to believe it: form, key, signature, origin, checkpoint, an index outside of the checkpoint.
    """
    if len(data) > MAX_RECEIPT_BYTES:
        raise ReceiptError(f"receipt of {len(data)} bytes, at most {MAX_RECEIPT_BYTES}")
    try:
        payload = cose.verify1(data, trust.receipt_keys.get).payload
        value = cbor.decode(payload, max_bytes=MAX_RECEIPT_BYTES)
    except WireError as error:
        raise ReceiptError(f"receipt: {error}") from error
    match value:
        case [int(version), str(to_tenant), str(to_device), str(origin), bytes(note), list(rows)]:
            pass
        case _:
            raise ReceiptError("not a receipt array")
    if version != VERSION:
        raise ReceiptError(f"receipt version {version}; this software reads {VERSION}")
    if tenant not in (None, to_tenant) or device not in (None, to_device):
        raise ReceiptError(f"the receipt is for {to_tenant}/{to_device}, not for {tenant}/{device}")
    if origin != trust.origin:
        raise ReceiptError(f"the receipt is of log {origin!r:.80}, not of {trust.origin!r:.80}")
    try:
        checkpoint = verify_checkpoint(note, origin, trust.log_key)
    except NoteError as error:
        raise ReceiptError(f"receipt: {error}") from error
    return Receipt(to_tenant, to_device, origin, checkpoint, _items(rows, checkpoint.size))


def _items(rows: list[cbor.Value], size: int) -> tuple[ReceiptItem, ...]:
    if not 0 < len(rows) <= MAX_ITEMS:
        raise ReceiptError(f"a receipt of {len(rows)} items; 1 .. {MAX_ITEMS} are possible")
    items: list[ReceiptItem] = []
    for row in rows:
        match row:
            case [bytes(run), int(number), bytes(digest), int(index)] if not (
                isinstance(number, bool) or isinstance(index, bool)
            ):
                if len(run) != RUN_BYTES or len(digest) != HASH_BYTES or number < 0:
                    raise ReceiptError("an item of the receipt names no segment")
                if not 0 <= index < size:
                    raise ReceiptError(
                        f"index {index} lies outside of the receipt's checkpoint of size {size}"
                    )
                items.append(ReceiptItem(run, number, digest, index))
            case _:
                raise ReceiptError("an item of the receipt has another form")
    return tuple(items)
