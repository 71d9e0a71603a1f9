"""The log's tree in tiles against the RFC's recursion, and its proofs against the verifier."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_sync.errors import LogDamaged
from cloud_sync.log import tiles
from cloud_sync.log.compact import CompactRange, root_of_entries
from edge.merkle import EMPTY_ROOT, leaf_hash, node_hash, verify_consistency, verify_inclusion


def mth(leaves: list[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, as written there."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    return node_hash(mth(leaves[:k]), mth(leaves[k:]))


class Tree:
    """Tiles in memory; a full tile is never written again."""

    def __init__(self) -> None:
        self.tiles: dict[tuple[int, int], bytes] = {}
        self.leaves: list[bytes] = []

    def read(self, level: int, number: int) -> bytes:
        return self.tiles.get((level, number), b"")

    def append(self, count: int) -> None:
        new = [leaf_hash(len(self.leaves).to_bytes(4, "big") + n.to_bytes(4, "big")) for n in range(count)]
        changed = tiles.append(len(self.leaves), new, self.read)
        for place, data in changed.items():
            old = self.tiles.get(place, b"")
            assert len(old) < tiles.WIDTH * 32 and data.startswith(old)
        self.tiles.update(changed)
        self.leaves += new


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_tiles_give_the_root_of_the_recursion_however_they_were_appended(steps: list[int]) -> None:
    tree = Tree()
    compact = CompactRange()
    for step in steps:
        tree.append(step)
    for leaf in tree.leaves:
        compact.append(leaf)
    size = len(tree.leaves)
    assert tiles.root(size, tree.read) == mth(tree.leaves) == compact.root()
    for smaller in {0, 1, size // 2, size - 1}:
        assert tiles.root(smaller, tree.read) == mth(tree.leaves[:smaller])


@given(st.integers(1, 600), st.data())
@settings(max_examples=60, deadline=None)
def test_proofs_verify(size: int, data: st.DataObject) -> None:
    tree = Tree()
    tree.append(size)
    root = tiles.root(size, tree.read)
    index = data.draw(st.integers(0, size - 1))
    verify_inclusion(index, size, tree.leaves[index], tiles.inclusion_proof(index, size, tree.read), root)
    first = data.draw(st.integers(1, size))
    proof = tiles.consistency_proof(first, size, tree.read)
    verify_consistency(first, size, tiles.root(first, tree.read), root, proof)


def test_a_third_level_of_tiles() -> None:
    tree = Tree()
    for step in (65_000, 535, 1, 1, 300):
        tree.append(step)
    size = len(tree.leaves)
    root = tiles.root(size, tree.read)
    compact = CompactRange()
    for leaf in tree.leaves:
        compact.append(leaf)
    assert root == compact.root()
    assert (2, 0) in tree.tiles
    for index in (0, 255, 256, 65_535, 65_536, size - 1):
        verify_inclusion(index, size, tree.leaves[index], tiles.inclusion_proof(index, size, tree.read), root)
    for first in (1, 255, 65_535, 65_536, 65_537):
        proof = tiles.consistency_proof(first, size, tree.read)
        verify_consistency(first, size, tiles.root(first, tree.read), root, proof)


def test_proofs_read_few_tiles() -> None:
    tree = Tree()
    tree.append(20_000)
    asked: set[tuple[int, int]] = set()

    def read(level: int, number: int) -> bytes:
        asked.add((level, number))
        return tree.read(level, number)

    tiles.inclusion_proof(12_345, 20_000, read)
    assert len(asked) <= 6


def test_the_empty_log() -> None:
    tree = Tree()
    assert tiles.root(0, tree.read) == EMPTY_ROOT == root_of_entries([])[1]
    assert tiles.append(0, [], tree.read) == {}
    for call in (tiles.inclusion_proof, tiles.consistency_proof):
        with pytest.raises(ValueError, match="tree of 0"):
            call(0, 0, tree.read)


def test_a_missing_or_short_tile_is_named() -> None:
    tree = Tree()
    tree.append(300)
    tree.tiles[0, 1] = tree.tiles[0, 1][:-32]
    with pytest.raises(LogDamaged, match=r"tile/0/001"):
        tiles.root(300, tree.read)
    with pytest.raises(LogDamaged, match=r"tile/0/001"):
        tiles.append(300, [b"x" * 32], tree.read)


@pytest.mark.parametrize(
    ("level", "number", "width", "path"),
    [
        (0, 0, 256, "tile/0/000"), (1, 67, 256, "tile/1/067"), (0, 1234067, 256, "tile/0/x001/x234/067"),
        (0, 5, 17, "tile/0/005.p/17"), (2, 1000, 1, "tile/2/x001/000.p/1"),
    ],
)  # fmt: skip
def test_paths_are_those_of_tlog_tiles(level: int, number: int, width: int, path: str) -> None:
    assert tiles.tile_path(level, number, width) == path
