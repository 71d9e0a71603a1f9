"""edge.merkle against the shared vectors, and against a tree built by the RFC's own recursion."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import ProofError
from edge.merkle import (
    EMPTY_ROOT,
    MAX_SIZE,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
    verify_subtree_consistency,
    verify_subtree_inclusion,
)  # fmt: skip

FLIPS = st.tuples(st.integers(0, 10_000), st.integers(0, 255))


def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def mth(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, as written there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return node_hash(mth(leaves[:k]), mth(leaves[k:]))


def path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """RFC 9162 section 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: Sequence[bytes], whole: bool) -> list[bytes]:
    """RFC 9162 section 2.1.4.1."""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def make_leaves(n: int) -> list[bytes]:
    return [leaf_hash(n.to_bytes(4, "big")) for n in range(n)]


def b64(text: str) -> bytes:
    return base64.b64decode(text)


CHECKS: dict[str, Callable[[dict[str, Any], list[bytes]], None]] = {
    "inclusion": lambda v, p: verify_inclusion(
        v["leafIdx"], v["treeSize"], b64(v["leafHash"]), p, b64(v["root"])
    ),
    "consistency": lambda v, p: verify_consistency(
        v["size1"], v["size2"], b64(v["root1"]), b64(v["root2"]), p
    ),
    "subtreeinclusion": lambda v, p: verify_subtree_inclusion(
        v["leafIdx"], v["start"], v["end"], b64(v["leafHash"]), p, b64(v["root"])
    ),
    "subtreeconsistency": lambda v, p: verify_subtree_consistency(
        v["start"], v["end"], v["size"], b64(v["root1"]), b64(v["root2"]), p
    ),
}


@pytest.mark.parametrize("kind", CHECKS)
def test_every_shared_vector_has_its_outcome(kind: str, shared_data: Callable[[str], Path]) -> None:
    files = sorted(shared_data(f"merkle/{kind}").rglob("*.json"))
    wrong = []
    for file in files:
        vector = json.loads(file.read_text("utf-8"))
        try:
            CHECKS[kind](vector, [b64(item) for item in vector["proof"] or []])
            refused = False
        except ProofError:
            refused = True
        if refused != vector["wantErr"]:
            wrong.append(f"{file.parent.name}/{file.name}: {vector['desc']}")
    assert len(files) >= 30
    assert wrong == []


def test_hashes_are_the_rfc_s() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"


@given(st.integers(1, 70), st.data())
def test_inclusion_of_the_recursion_holds_and_no_other_index_does(size: int, data: st.DataObject) -> None:
    leaves = make_leaves(size)
    index = data.draw(st.integers(0, size - 1))
    proof, root = path(index, leaves), mth(leaves)
    verify_inclusion(index, size, leaves[index], proof, root)
    other = data.draw(st.integers(0, size + 3).filter(lambda i: i != index))
    with pytest.raises(ProofError):
        verify_inclusion(other, size, leaves[index], proof, root)


@given(st.integers(1, 70), st.data())
def test_consistency_of_the_recursion_holds(second: int, data: st.DataObject) -> None:
    leaves = make_leaves(second)
    first = data.draw(st.integers(1, second))
    proof = subproof(first, leaves, True)
    verify_consistency(first, second, mth(leaves[:first]), mth(leaves), proof)
    if first < second:
        with pytest.raises(ProofError):
            verify_consistency(first, second, mth(leaves), mth(leaves), proof)


@given(st.integers(2, 70), FLIPS, st.data())
def test_a_changed_proof_never_passes(size: int, flip: tuple[int, int], data: st.DataObject) -> None:
    leaves = make_leaves(size)
    index = data.draw(st.integers(0, size - 1))
    proof = path(index, leaves)
    at = flip[0] % len(proof)
    changed = bytearray(proof[at])
    changed[flip[1] % 32] ^= 1 << (flip[0] % 8)
    mutants = [
        [*proof[:at], bytes(changed), *proof[at + 1 :]],
        proof[:at] + proof[at + 1 :],
        [*proof[:at], proof[at], *proof[at:]],
        [*proof, mth(leaves)],
        [*proof[:at], proof[at][:31], *proof[at + 1 :]],
    ]
    for mutant in mutants:
        with pytest.raises(ProofError):
            verify_inclusion(index, size, leaves[index], mutant, mth(leaves))


@given(st.integers(2, 70), FLIPS, st.data())
def test_a_changed_consistency_proof_never_passes(
    size: int, flip: tuple[int, int], data: st.DataObject
) -> None:
    leaves = make_leaves(size)
    first = data.draw(st.integers(1, size - 1))
    proof = subproof(first, leaves, True)
    at = flip[0] % len(proof)
    changed = bytearray(proof[at])
    changed[flip[1] % 32] ^= 1 << (flip[0] % 8)
    for mutant in (
        [*proof[:at], bytes(changed), *proof[at + 1 :]],
        proof[:at] + proof[at + 1 :],
        [*proof, b"x" * 32],
    ):
        with pytest.raises(ProofError):
            verify_consistency(first, size, mth(leaves[:first]), mth(leaves), mutant)


@settings(max_examples=200)
@given(
    st.integers(-2, 1 << 70),
    st.integers(-2, 1 << 70),
    st.binary(max_size=40),
    st.lists(st.binary(max_size=40), max_size=6),
)
def test_nonsense_is_a_proof_error_and_nothing_else(a: int, b: int, root: bytes, proof: list[bytes]) -> None:
    for call in (
        lambda: verify_inclusion(a, b, root, proof, b"r" * 32),
        lambda: verify_consistency(a, b, root, b"r" * 32, proof),
        lambda: verify_subtree_inclusion(a, a, b, root, proof, b"r" * 32),
    ):
        try:
            call()
        except ProofError:
            continue
        assert a == b and not proof and root == b"r" * 32  # a tree is consistent with itself


def test_sizes_at_the_edges() -> None:
    verify_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])
    with pytest.raises(ProofError, match="size 0 proves nothing"):
        verify_consistency(0, 5, EMPTY_ROOT, mth(make_leaves(5)), [])
    with pytest.raises(ProofError, match="at most"):
        verify_inclusion(0, MAX_SIZE, b"l" * 32, [b"p" * 32] * 200, b"r" * 32)
