"""Signed notes and checkpoints: the cases of field F25, and every kind of second byte form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cloud_sync.log.checkpoint import public_bytes, sign_checkpoint
from edge.errors import NoteError
from edge.note import (
    MAX_NOTE_BYTES,
    MAX_SIZE,
    Checkpoint,
    NoteKey,
    NoteSignature,
    checkpoint_text,
    format_note,
    open_note,
    parse_checkpoint,
    parse_note,
    verify_checkpoint,
)  # fmt: skip

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
PUBLIC = public_bytes(KEY)
ORIGIN = "log.example/fund"
CHECKPOINT = Checkpoint(ORIGIN, 25, b"\x22" * 32)
NOTE = sign_checkpoint(CHECKPOINT, KEY)


def signed(text: str, key: Ed25519PrivateKey = KEY, name: str = ORIGIN) -> bytes:
    """A note over any text, however wrong, with a good signature."""
    made = NoteKey(name, public_bytes(key))
    line = format_note("x\n", [NoteSignature(name, made.id, key.sign(text.encode()))]).split(b"\n\n", 1)[1]
    return text.encode() + b"\n" + line


def test_field_f25(shared_data: Callable[[str], Path]) -> None:
    expected = json.loads(shared_data("field/F25.expected.json").read_text("utf-8"))
    key = bytes.fromhex(expected["key"]["ed25519_public"])
    name = expected["key"]["name"]
    assert NoteKey(name, key).id.hex() == expected["key"]["key_id"]
    accepted = set()
    for letter in "abcdefghij":
        data = shared_data(f"field/F25.{letter}.note").read_bytes()
        try:
            assert verify_checkpoint(data, name, key).size == 25
            accepted.add(letter)
        except NoteError:
            continue
    assert accepted == {"a", "f"}


def test_what_is_signed_verifies_and_is_reproducible() -> None:
    assert verify_checkpoint(NOTE, ORIGIN, PUBLIC) == CHECKPOINT
    assert sign_checkpoint(CHECKPOINT, KEY) == NOTE


@pytest.mark.parametrize(
    "line",
    [
        "025",
        "+25",
        "-1",
        " 25",
        "25 ",
        "2_5",
        "٢٥",
        "",
        "0x19",
        "25.0",
        str(1 << 63),
        str(1 << 64),
        "9" * 4000,
    ],
)
def test_sizes_that_are_not_plain_decimals_are_refused(line: str) -> None:
    text = checkpoint_text(CHECKPOINT).replace("\n25\n", f"\n{line}\n")
    with pytest.raises(NoteError):
        verify_checkpoint(signed(text), ORIGIN, PUBLIC)


@pytest.mark.parametrize("size", [0, 1, MAX_SIZE])
def test_sizes_at_the_edges_are_read(size: int) -> None:
    made = Checkpoint(ORIGIN, size, b"\x22" * 32)
    assert verify_checkpoint(sign_checkpoint(made, KEY), ORIGIN, PUBLIC) == made


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("=", ""), lambda t: t.replace("I=", "J="), lambda t: t.replace("\n25", "\r\n25"),
        lambda t: t + "\n", lambda t: t + "ext\n\nmore\n", lambda t: t[:-1] + "\x00\n", lambda t: "\n" + t,
        lambda t: t.replace("Ii", "-_"), lambda t: t.replace("\n25\n", "\n"),
        lambda t: t.rsplit("\n", 2)[0] + "\n",
    ],
)  # fmt: skip
def test_other_byte_forms_are_refused_although_signed(change: Callable[[str], str]) -> None:
    text = checkpoint_text(CHECKPOINT)
    assert change(text) != text
    with pytest.raises(NoteError):
        verify_checkpoint(signed(change(text)), ORIGIN, PUBLIC)


def test_extension_lines_are_kept() -> None:
    made = Checkpoint(ORIGIN, 3, b"\x01" * 32, ("one", "two — öäü"))
    assert verify_checkpoint(sign_checkpoint(made, KEY), ORIGIN, PUBLIC) == made


@pytest.mark.parametrize("bad", [Checkpoint("a\nb", 1, b"r" * 32), Checkpoint(ORIGIN, 1, b"r" * 32, ("",))])
def test_a_checkpoint_that_could_not_be_read_cannot_be_written(bad: Checkpoint) -> None:
    with pytest.raises(NoteError):
        sign_checkpoint(bad, KEY)


def test_unknown_keys_are_ignored_and_a_failing_known_key_refuses() -> None:
    stranger = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
    text = checkpoint_text(CHECKPOINT)
    own, other = NoteKey(ORIGIN, PUBLIC), NoteKey(ORIGIN, public_bytes(stranger))
    good = NoteSignature(ORIGIN, own.id, KEY.sign(text.encode()))
    strange = NoteSignature(ORIGIN, other.id, stranger.sign(text.encode()))
    cosigner = NoteSignature("witness.example", b"\x01\x02\x03\x04", b"\x04" * 2420)
    assert open_note(format_note(text, [strange, cosigner, good]), [own]).signatures == (good,)
    with pytest.raises(NoteError, match="no key"):
        open_note(format_note(text, [strange]), [own])
    failing = NoteSignature(ORIGIN, own.id, b"\x00" * 64)
    for order in ([failing, good], [good, failing]):
        with pytest.raises(NoteError, match="does not verify"):
            open_note(format_note(text, order), [own])
    short = NoteSignature(ORIGIN, own.id, b"\x00")
    with pytest.raises(NoteError, match="does not verify"):
        open_note(format_note(text, [short]), [own])


def test_another_log_s_checkpoint_is_not_ours() -> None:
    text = checkpoint_text(Checkpoint("log.example/other", 1, b"r" * 32))
    with pytest.raises(NoteError, match="other"):
        verify_checkpoint(signed(text), ORIGIN, PUBLIC)


def test_every_flipped_bit_is_refused_or_is_an_unknown_key() -> None:
    for at in range(len(NOTE)):
        for bit in range(8):
            changed = bytearray(NOTE)
            changed[at] ^= 1 << bit
            with pytest.raises(NoteError):
                verify_checkpoint(bytes(changed), ORIGIN, PUBLIC)


def test_truncated_and_continued_notes_are_refused() -> None:
    for cut in range(len(NOTE)):
        with pytest.raises(NoteError):
            verify_checkpoint(NOTE[:cut], ORIGIN, PUBLIC)
    for tail in (b"\n", b"x", b"x\n", b"\xe2\x80\x94 x\n", b"\xff\n"):
        with pytest.raises(NoteError):
            verify_checkpoint(NOTE + tail, ORIGIN, PUBLIC)
    with pytest.raises(NoteError, match="at most"):
        parse_note(NOTE + b"x" * MAX_NOTE_BYTES)
    with pytest.raises(NoteError, match="at most"):
        parse_note(b"x\n\n" + b"\xe2\x80\x94 a AAAAAAA=\n" * 101)


@given(st.binary(max_size=200))
def test_garbage_is_a_note_error_and_nothing_else(data: bytes) -> None:
    with pytest.raises(NoteError):
        verify_checkpoint(data, ORIGIN, PUBLIC)


@given(st.text(max_size=80))
def test_a_text_means_one_checkpoint(text: str) -> None:
    try:
        made = parse_checkpoint(text)
    except NoteError:
        return
    assert checkpoint_text(made) == text
