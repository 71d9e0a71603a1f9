"""Signing checkpoints: the only place where the log's private key is used."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.note import Checkpoint, NoteKey, NoteSignature, checkpoint_text, format_note


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
