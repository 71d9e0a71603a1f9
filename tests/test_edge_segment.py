"""Segments: signed by the event key alone, bounded, and strict about their form."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from edge_kit import KEY, KID, draft, resolve
from hypothesis import given
from hypothesis import strategies as st
from pycose.keys import EC2Key
from pycose.messages import Sign1Message

from edge import segment as seg
from edge.errors import FormatError
from edge.event import Event, Key
from edge.segment import MAX_SEGMENT_BYTES, Lost, Previous, Segment, Tombstone
from firmware_bridge.errors import SignatureError, WireError
from firmware_bridge.wire import cbor, cose
from firmware_bridge.wire.stamp import ClockKind


def segment(count: int = 3, *, number: int = 0, text: str = "x") -> Segment:
    drafts = [draft(n, text=text) for n in range(count)]
    events = tuple(Event(n, d.kind, d.stamp, d.body) for n, d in enumerate(drafts))
    previous: bytes | str = bytes(32) if number else "first start"
    return Segment("tenant-a", "car-1", bytes(16), number, previous, ClockKind.REPLAY, events)


GOOD = seg.seal(segment(), KEY, KID)


def test_a_segment_comes_back() -> None:
    assert seg.verify(GOOD.data, resolve) == GOOD
    assert seg.peek(GOOD.data) == GOOD
    assert seg.segment_hash(GOOD.data) == GOOD.hash


def test_an_independent_library_agrees_about_the_signature() -> None:
    message = Sign1Message.decode(GOOD.data)
    numbers = KEY.public_key().public_numbers()
    message.key = EC2Key(crv="P_256", x=numbers.x.to_bytes(32, "big"), y=numbers.y.to_bytes(32, "big"))
    assert message.verify_signature()
    assert message.payload == cose.peek(GOOD.data).payload


def test_every_changed_bit_is_refused() -> None:
    for place in range(len(GOOD.data)):
        changed = bytearray(GOOD.data)
        changed[place] ^= 1
        with pytest.raises((WireError, FormatError)):
            seg.verify(bytes(changed), resolve)


def test_every_cut_and_trailing_garbage_are_refused() -> None:
    for size in range(0, len(GOOD.data), 3):
        with pytest.raises(WireError):
            seg.verify(GOOD.data[:size], resolve)
    with pytest.raises(WireError):
        seg.verify(GOOD.data + b"\0", resolve)


def test_another_key_is_refused_by_name_and_by_signature() -> None:
    tls = ec.derive_private_key(77, ec.SECP256R1())
    by_tls = seg.seal(segment(), tls, cose.key_id(tls.public_key()))
    with pytest.raises(SignatureError, match="not known"):
        seg.verify(by_tls.data, resolve)
    forged = seg.seal(segment(), tls, KID)
    with pytest.raises(SignatureError, match="does not verify"):
        seg.verify(forged.data, resolve)


def test_size_is_bounded() -> None:
    with pytest.raises(FormatError, match=str(MAX_SEGMENT_BYTES)):
        seg.seal(segment(20, text="x" * 4000), KEY, KID)


@pytest.mark.parametrize(
    "change",
    [
        {0: 2}, {3: bytes(15)}, {4: -1}, {5: bytes(32)}, {5: ["a", "b"]}, {5: [bytes(16), 1, bytes(31)]},
        {5: [bytes(15), 1, bytes(32)]}, {6: 3}, {7: [1]}, {7: {}}, {8: [[1]]},
        {8: [[9, bytes(16), 0, 0, 1, 0, 0, b"", b""]]},
        {8: [[1, bytes(16), 5, 4, 1, 0, 0, b"", b""]]}, {8: [[1, bytes(16), 0, 0, -1, 0, 0, b"", b""]]},
        {1: b"t"},
    ],
)  # fmt: skip
def test_what_is_no_segment_is_refused(change: dict[int, cbor.Value]) -> None:
    value = cbor.decode(cose.peek(GOOD.data).payload)
    assert isinstance(value, list)
    for place, other in change.items():
        value[place] = other
    with pytest.raises(FormatError):
        seg.parse(cbor.encode(value))


def test_segment_0_names_a_run_or_a_reason_and_others_a_hash() -> None:
    for number, previous in ((0, bytes(32)), (1, "reason"), (1, Previous(bytes(16), 1, bytes(32)))):
        odd = dataclasses.replace(segment(), number=number, previous=previous)
        with pytest.raises(FormatError, match="came before"):
            seg.verify(seg.seal(odd, KEY, KID).data, resolve)


@given(
    st.lists(
        st.builds(
            Tombstone, st.sampled_from(Lost), st.binary(min_size=16, max_size=16), st.integers(0, 9),
            st.integers(9, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 62),
            st.integers(0, 1 << 62), st.binary(max_size=32), st.binary(max_size=32),
        ),
        max_size=10,
    )
)  # fmt: skip
def test_tombstones_come_back(tombstones: list[Tombstone]) -> None:
    sealed = seg.seal(dataclasses.replace(segment(), tombstones=tuple(tombstones)), KEY, KID)
    assert seg.verify(sealed.data, resolve).segment.tombstones == tuple(tombstones)


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises((WireError, FormatError)):
        seg.verify(data, resolve)
    with pytest.raises((WireError, FormatError)):
        seg.parse(data)


def test_bodies_keep_their_text() -> None:
    assert seg.verify(GOOD.data, resolve).segment.events[1].body[Key.TEXT] == "x"
