"""Verification of Merkle proofs of the transparency log (RFC 9162 section 2.1, same tree as RFC 6962).

Only verifying lives here; `cloud_sync.log` builds. A proof that does not hold raises ProofError, whatever
is wrong with it: a proof comes from outside and is never a reason for another exception.

Subtrees (draft-ietf-plants-merkle-tree-certs section 4) are half-open ranges [start, end) of leaves that are
themselves Merkle trees aligned in the large one: start is a multiple of the smallest power of two that is at
least end - start.

Size 0: a tree is consistent with itself, also when empty (0 to 0 with equal roots and no proof). A proof from
size 0 to a larger size proves nothing and is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from edge.errors import ProofError

HASH_BYTES: Final = 32
MAX_SIZE: Final = (1 << 63) - 1
"""Largest tree size (C2SP tlog-checkpoint): proofs then have at most 126 hashes."""
MAX_PROOF: Final = 126
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""Root of the tree without leaves (RFC 9162 section 2.1.1)."""


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 || entry): the leaf of an entry (RFC 9162 section 2.1.1)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right): an inner node (RFC 9162 section 2.1.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf hash `leaf` stands at `index` of the tree of `size` leaves with `root`.

    RFC 9162 section 2.1.3.2. Raises ProofError when it does not follow from `proof`.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise ProofError(f"there is no leaf {index} in a tree of {size}")
    _check_hashes(proof, leaf, root)
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        if sn == 0:
            raise ProofError("the inclusion proof is too long")
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        raise ProofError("the inclusion proof is too short")
    if r != root:
        raise ProofError(f"leaf {index} is not in the tree of size {size} with this root")


def verify_consistency(
    first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree of `second` leaves begins with the tree of `first` leaves.

    RFC 9162 section 2.1.4.2. Raises ProofError when it does not follow from `proof`.
    """
    if not 0 <= first <= second <= MAX_SIZE:
        raise ProofError(f"a tree of {second} cannot continue one of {first}")
    if first == second:
        if proof or first_root != second_root:
            raise ProofError(f"two trees of size {first} differ, or a proof came where none belongs")
        return
    if first == 0:
        raise ProofError("a proof from size 0 proves nothing")
    verify_subtree_consistency(0, first, second, first_root, second_root, proof)


def verify_subtree_inclusion(
    index: int, start: int, end: int, leaf: bytes, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that the leaf hash `leaf` stands at `index` (of the whole tree) in the subtree [start, end).

    Raises ProofError when the range is not a subtree or it does not follow from `proof`.
    """
    _check_subtree(start, end)
    if not start <= index < end:
        raise ProofError(f"leaf {index} is outside of the subtree [{start}, {end})")
    verify_inclusion(index - start, end - start, leaf, proof, root)


def verify_subtree_consistency(
    start: int, end: int, size: int, subtree_root: bytes, root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that [start, end) with `subtree_root` is a subtree of the tree of `size` leaves with `root`.

    An empty range is a subtree of every tree, with the empty root and no proof. Raises ProofError.
    """
    if not 0 <= start <= end <= size <= MAX_SIZE:
        raise ProofError(f"[{start}, {end}) is not a range of a tree of {size}")
    if start == end:
        if proof or subtree_root != EMPTY_ROOT:
            raise ProofError("an empty subtree has the empty root and no proof")
        return
    _check_subtree(start, end)
    if start == 0 and end == size:
        if proof or subtree_root != root:
            raise ProofError(f"two trees of size {size} differ, or a proof came where none belongs")
        return
    _check_hashes(proof, subtree_root, root)
    _follow_subtree(start, end - 1, size - 1, subtree_root, root, proof)


def _follow_subtree(
    fn: int, sn: int, tn: int, subtree_root: bytes, root: bytes, proof: Sequence[bytes]
) -> None:
    """The walk of RFC 9162 section 2.1.4.2, widened to subtrees; with fn = 0 it is the RFC's own."""
    while fn != sn and (sn == tn or sn & 1):
        fn, sn, tn = fn >> 1, sn >> 1, tn >> 1
    rest = list(proof)
    if fn == sn:
        fr = sr = subtree_root
    elif rest:
        fr = sr = rest.pop(0)
    else:
        raise ProofError("the consistency proof is empty")
    for c in rest:
        if tn == 0:
            raise ProofError("the consistency proof is too long")
        if sn & 1 or sn == tn:
            if fn < sn:
                fr = node_hash(c, fr)
            sr = node_hash(c, sr)
            while not sn & 1:
                fn, sn, tn = fn >> 1, sn >> 1, tn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn, tn = fn >> 1, sn >> 1, tn >> 1
    if tn != 0:
        raise ProofError("the consistency proof is too short")
    if fr != subtree_root or sr != root:
        raise ProofError("the two roots are not consistent")


def _check_subtree(start: int, end: int) -> None:
    if not 0 <= start < end <= MAX_SIZE:
        raise ProofError(f"[{start}, {end}) is not a range of leaves")
    if start % (1 << (end - start - 1).bit_length()):
        raise ProofError(f"[{start}, {end}) is not aligned: it is no subtree")


def _check_hashes(proof: Sequence[bytes], *hashes: bytes) -> None:
    if len(proof) > MAX_PROOF:
        raise ProofError(f"a proof of {len(proof)} hashes, at most {MAX_PROOF} can be needed")
    if any(len(item) != HASH_BYTES for item in (*proof, *hashes)):
        raise ProofError(f"a hash does not have {HASH_BYTES} bytes")
