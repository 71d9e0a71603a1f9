"""Signed notes and checkpoints (C2SP signed-note and tlog-checkpoint), read strictly.

Strict, because two byte forms of one tree head split a quorum of witnesses: only canonical base64, only
plain decimal, no control characters, no empty extension line. Signatures by unknown keys are ignored; a
failing signature of a key that is known refuses the note. Anything wrong raises NoteError.

A **TIME statement** is a checkpoint whose signature line is a time-stamped cosignature (C2SP
tlog-cosignature) by the log itself: the log had this root at that second, so everything under it was logged
by then.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edge.errors import NoteError

ED25519: Final = 0x01
"""Signature type of signed-note; the others are unknown keys to this reader."""
COSIGNATURE: Final = 0x04
"""Signature type of a time-stamped Ed25519 cosignature (C2SP tlog-cosignature)."""
KEY_BYTES: Final = 32
ROOT_BYTES: Final = 32
MAX_SIZE: Final = (1 << 63) - 1
MAX_NOTE_BYTES: Final = 64 * 1024
"""A checkpoint has about 200 bytes, a signature 100 (3.4 kB where a cosigner uses ML-DSA-44)."""
MAX_SIGNATURES: Final = 100
"""Bounds the work that a note of strangers' signatures can make."""
_DASH: Final = "— "
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_ID_BYTES: Final = 4
_TIME_BYTES: Final = 8
MAX_TIME_S: Final = 253_402_300_799
"""9999-12-31T23:59:59Z: a later time is a mistake of unit."""


@dataclass(frozen=True, slots=True)
class NoteKey:
    """A name and the Ed25519 key that speaks under it."""

    name: str
    public: bytes
    """32 bytes, RFC 8032."""

    @property
    def id(self) -> bytes:
        """The first 4 bytes of SHA-256(name || 0x0A || type || key): a hint, not a commitment."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([ED25519]) + self.public).digest()[
            :_ID_BYTES
        ]

    @property
    def cosigner_id(self) -> bytes:
        """The id of the same key where it signs times: another type, so another id."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([COSIGNATURE]) + self.public).digest()[
            :_ID_BYTES
        ]


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line, not yet checked."""

    name: str
    id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A text, which ends in a newline, and its signature lines."""

    text: str
    signatures: tuple[NoteSignature, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One tree head of a log."""

    origin: str
    size: int
    """0 .. 2^63 - 1 leaves."""
    root: bytes
    extensions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TimedCheckpoint:
    """A tree head that its log had at that second."""

    checkpoint: Checkpoint
    at_s: int
    """Seconds since 1970-01-01T00:00:00Z by the clock of the log, rounded up: an upper bound."""


def valid_key_name(name: str) -> bool:
    """Whether `name` can name a key: not empty, no plus, no space of any kind."""
    return bool(name) and "+" not in name and not any(c.isspace() or ord(c) < 0x20 for c in name)


def parse_note(data: bytes) -> Note:
    """The note in `data`, signatures unchecked. Raises NoteError."""
    if len(data) > MAX_NOTE_BYTES:
        raise NoteError(f"note of {len(data)} bytes, at most {MAX_NOTE_BYTES} are read")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NoteError("a note is UTF-8") from error
    if any((ord(c) < 0x20 and c != "\n") for c in whole):
        raise NoteError("control character in a note")
    at = whole.rfind("\n\n")
    if at < 0 or not whole.endswith("\n") or at + 2 == len(whole):
        raise NoteError("a note has a text, an empty line and signature lines, each ended by a newline")
    lines = whole[at + 2 : -1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteError(f"{len(lines)} signatures, at most {MAX_SIGNATURES} are read")
    return Note(whole[: at + 1], tuple(_parse_signature(line) for line in lines))


def open_note(data: bytes, keys: Iterable[NoteKey]) -> Note:
    """The note in `data` with at least one good signature of `keys`; only those stay in `signatures`.

    Raises NoteError for a malformed note, for a failing signature of one of `keys`, and when none of
    them signed.
    """
    note = parse_note(data)
    known = {(key.name, key.id): key for key in keys}
    good: list[NoteSignature] = []
    for signature in note.signatures:
        key = known.get((signature.name, signature.id))
        if key is None:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(signature.signature, note.text.encode())
        except (InvalidSignature, ValueError) as error:
            raise NoteError(f"the signature of {key.name} does not verify") from error
        good.append(signature)
    if not good:
        raise NoteError("no key that is trusted here signed the note")
    return Note(note.text, tuple(good))


def format_note(text: str, signatures: Iterable[NoteSignature]) -> bytes:
    """A note as bytes; `text` must end in a newline. Raises NoteError where no note can hold it."""
    lines = [f"{_DASH}{s.name} {base64.b64encode(s.id + s.signature).decode()}\n" for s in signatures]
    data = f"{text}\n{''.join(lines)}".encode()
    parse_note(data)
    return data


def checkpoint_text(checkpoint: Checkpoint) -> str:
    """The text of a checkpoint note. Raises NoteError when the checkpoint cannot be written."""
    root = base64.b64encode(checkpoint.root).decode()
    text = "\n".join([checkpoint.origin, str(checkpoint.size), root, *checkpoint.extensions]) + "\n"
    if parse_checkpoint(text) != checkpoint:
        raise NoteError("a line of the checkpoint holds a newline")
    return text


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint in the text of a note (its signatures are `open_note`'s business). Raises NoteError."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] != "":
        raise NoteError("a checkpoint has an origin, a size and a root, each ended by a newline")
    origin, size, root, *extensions = lines[:-1]
    if not origin:
        raise NoteError("the checkpoint names no origin")
    if not _DECIMAL.fullmatch(size) or int(size) > MAX_SIZE:
        raise NoteError(f"tree size {size!r:.40} is not a plain decimal up to 2^63-1")
    if "" in extensions:
        raise NoteError("an extension line of a checkpoint is empty")
    digest = decode_base64(root)
    if len(digest) != ROOT_BYTES:
        raise NoteError(f"the root has {len(digest)} bytes, not {ROOT_BYTES}")
    return Checkpoint(origin, int(size), digest, tuple(extensions))


def verify_checkpoint(data: bytes, origin: str, log_key: bytes) -> Checkpoint:
    """The checkpoint of log `origin` in the signed note `data`, signed by `log_key` under that name.

    Raises NoteError.
    """
    checkpoint = parse_checkpoint(open_note(data, [NoteKey(origin, log_key)]).text)
    if checkpoint.origin != origin:
        raise NoteError(f"the checkpoint is of log {checkpoint.origin!r:.80}, not of {origin!r:.80}")
    return checkpoint


def cosigned_message(text: str, at_s: int) -> bytes:
    """What a cosignature of the checkpoint `text` at `at_s` signs. Raises NoteError."""
    if not 0 < at_s <= MAX_TIME_S:
        raise NoteError(f"{at_s} s since 1970 is no time of a checkpoint")
    return f"cosignature/v1\ntime {at_s}\n{text}".encode()


def verify_time(data: bytes, origin: str, log_key: bytes) -> TimedCheckpoint:
    """The TIME statement `data` of log `origin`, cosigned by its own key. Raises NoteError."""
    note = parse_note(data)
    key = NoteKey(origin, log_key)
    own = [s.signature for s in note.signatures if (s.name, s.id) == (key.name, key.cosigner_id)]
    if len(own) != 1:
        raise NoteError(f"a TIME statement has one cosignature of its log, not {len(own)}")
    at_s, signature = int.from_bytes(own[0][:_TIME_BYTES], "big"), own[0][_TIME_BYTES:]
    try:
        Ed25519PublicKey.from_public_bytes(log_key).verify(signature, cosigned_message(note.text, at_s))
    except (InvalidSignature, ValueError) as error:
        raise NoteError(f"the cosignature of {origin} does not verify") from error
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != origin:
        raise NoteError(f"the TIME statement is of log {checkpoint.origin!r:.80}, not of {origin!r:.80}")
    return TimedCheckpoint(checkpoint, at_s)


def decode_base64(text: str) -> bytes:
    """RFC 4648 section 4 with padding, in the one canonical form. Raises NoteError."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise NoteError(f"{text!r:.60} is not base64") from error
    if base64.b64encode(data).decode() != text:
        raise NoteError(f"{text!r:.60} is not canonical base64")
    return data


def _parse_signature(line: str) -> NoteSignature:
    if not line.startswith(_DASH):
        raise NoteError("a signature line begins with an em dash and a space")
    name, space, encoded = line[len(_DASH) :].partition(" ")
    if not space or not valid_key_name(name):
        raise NoteError("a signature line has a key name, a space and base64")
    data = decode_base64(encoded)
    if len(data) <= _ID_BYTES:
        raise NoteError("a signature is too short")
    return NoteSignature(name, data[:_ID_BYTES], data[_ID_BYTES:])
