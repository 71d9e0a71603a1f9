"""The root of a stream of entries in O(log n) memory: what an audit recomputes without any tile."""

from __future__ import annotations

from collections.abc import Iterable

from edge.merkle import EMPTY_ROOT, leaf_hash, node_hash


class CompactRange:
    """Complete subtrees from the left, largest first: all that is needed to append and to know the root."""

    def __init__(self) -> None:
        self.size = 0
        self._stack: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Add a leaf hash."""
        self._stack.append(leaf)
        self.size += 1
        merges = (self.size & -self.size).bit_length() - 1
        for _ in range(merges):
            right = self._stack.pop()
            self._stack.append(node_hash(self._stack.pop(), right))

    def root(self) -> bytes:
        """The Merkle tree hash of everything appended (RFC 9162 section 2.1.1)."""
        if not self._stack:
            return EMPTY_ROOT
        *rest, result = self._stack
        for left in reversed(rest):
            result = node_hash(left, result)
        return result


def root_of_entries(entries: Iterable[bytes]) -> tuple[int, bytes]:
    """(size, root) of a log whose entries, not yet hashed to leaves, are `entries`."""
    tree = CompactRange()
    for entry in entries:
        tree.append(leaf_hash(entry))
    return tree.size, tree.root()
