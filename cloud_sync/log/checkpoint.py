"""Signing checkpoints and times: the only place where the log's private key is used."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.note import (
    Checkpoint,
    NoteKey,
    NoteSignature,
    checkpoint_text,
    cosigned_message,
    format_note,
)  # fmt: skip


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The 32-byte public key of `key`."""
    return key.public_key().public_bytes_raw()


def sign_checkpoint(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> bytes:
    """`checkpoint` as a signed note under the name of its origin. The same input gives the same bytes.

    Raises edge.errors.NoteError when the origin cannot name a key.
    """
    text = checkpoint_text(checkpoint)
    name = NoteKey(checkpoint.origin, public_bytes(key))
    return format_note(text, [NoteSignature(name.name, name.id, key.sign(text.encode()))])


def sign_time(checkpoint: Checkpoint, at_s: int, key: Ed25519PrivateKey) -> bytes:
    """A TIME statement: this log had `checkpoint` at `at_s`, seconds since 1970-01-01T00:00:00Z, rounded up.

    A time-stamped cosignature (C2SP tlog-cosignature) by the log's own key; `edge.note.verify_time` reads
    it. Raises edge.errors.NoteError when origin or time cannot stand in one.
    """
    text = checkpoint_text(checkpoint)
    name = NoteKey(checkpoint.origin, public_bytes(key))
    signature = at_s.to_bytes(8, "big") + key.sign(cosigned_message(text, at_s))
    return format_note(text, [NoteSignature(name.name, name.cosigner_id, signature)])
