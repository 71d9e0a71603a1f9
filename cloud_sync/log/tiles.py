"""The tree of the log as tiles (C2SP tlog-tiles): append, root and proofs, over a function that reads a tile.

A tile of level L and number n holds up to 256 hashes: of the subtrees of 256^L leaves, in order, from
n * 256 on. Only hashes of complete subtrees are ever stored, so that a full tile never changes and the
last of each level only grows. All other nodes are computed from at most one tile a step; a proof in a
log of n leaves reads O(log n) tiles.

Nothing here does I/O: `read(level, number)` gives the bytes of a tile as they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from cloud_sync.errors import LogDamaged
from edge.merkle import EMPTY_ROOT, HASH_BYTES, node_hash

HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT
"""Hashes in a full tile: 8192 bytes."""

Read = Callable[[int, int], bytes]
"""(level, number) -> the bytes of that tile, b"" where there is none."""


def append(size: int, leaves: Sequence[bytes], read: Read) -> dict[tuple[int, int], bytes]:
    """The tiles that change when `leaves` (leaf hashes) follow the first `size`, with their new bytes."""
    changed: dict[tuple[int, int], bytes] = {}
    level, start, hashes = 0, size, list(leaves)
    while hashes:
        parents: list[bytes] = []
        number, used = divmod(start, WIDTH)
        tile = bytearray(_checked(read(level, number), used, level, number)) if used else bytearray()
        for digest in hashes:
            tile += digest
            if len(tile) == WIDTH * HASH_BYTES:
                changed[level, number] = bytes(tile)
                parents.append(_fold(bytes(tile)))
                number, tile = number + 1, bytearray()
        if tile:
            changed[level, number] = bytes(tile)
        level, start, hashes = level + 1, start // WIDTH, parents
    return changed


def root(size: int, read: Read) -> bytes:
    """The Merkle tree hash of the first `size` leaves (RFC 9162 section 2.1.1)."""
    return _range_hash(0, size, read) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, read: Read) -> list[bytes]:
    """PATH(index, D[size]) of RFC 9162 section 2.1.3.1; needs 0 <= index < size."""
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    proof: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(_range_hash(middle, end, read))
            end = middle
        else:
            proof.append(_range_hash(start, middle, read))
            start = middle
    proof.reverse()
    return proof


def consistency_proof(first: int, second: int, read: Read) -> list[bytes]:
    """PROOF(first, D[second]) of RFC 9162 section 2.1.4.1; needs 0 < first <= second."""
    if not 0 < first <= second:
        raise ValueError(f"a tree of {second} cannot continue one of {first}")
    proof: list[bytes] = []
    start, end, whole = 0, second, True
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            proof.append(_range_hash(middle, end, read))
            end = middle
        else:
            proof.append(_range_hash(start, middle, read))
            start, whole = middle, False
    if not whole:
        proof.append(_range_hash(start, end, read))
    proof.reverse()
    return proof


def tile_path(level: int, number: int, width: int = WIDTH) -> str:
    """The path of a tile in C2SP tlog-tiles: `tile/0/x001/234` or, partial, `tile/0/000.p/17`."""
    parts = [f"{number % 1000:03d}"]
    while number >= 1000:
        number //= 1000
        parts.insert(0, f"x{number % 1000:03d}")
    return f"tile/{level}/{'/'.join(parts)}" + (f".p/{width}" if width < WIDTH else "")


def _split(count: int) -> int:
    """The largest power of two smaller than `count` (> 1)."""
    return 1 << ((count - 1).bit_length() - 1)


def _range_hash(start: int, end: int, read: Read) -> bytes:
    """MTH(D[start:end]) for a range that the recursions of RFC 9162 can ask for."""
    pieces: list[bytes] = []
    while start < end:
        height = min((end - start).bit_length() - 1, _alignment(start))
        pieces.append(_node(height, start >> height, read))
        start += 1 << height
    result = pieces.pop()
    while pieces:
        result = node_hash(pieces.pop(), result)
    return result


def _alignment(start: int) -> int:
    return (start & -start).bit_length() - 1 if start else 63


def _node(height: int, number: int, read: Read) -> bytes:
    """The hash of the complete subtree of 2^height leaves at `number`."""
    level, within = divmod(height, HEIGHT)
    tile_number, offset = divmod(number << within, WIDTH)
    stop = (offset + (1 << within)) * HASH_BYTES
    return _fold(
        _checked(read(level, tile_number), stop // HASH_BYTES, level, tile_number)[offset * HASH_BYTES : stop]
    )


@lru_cache(maxsize=1024)
def _fold(hashes: bytes) -> bytes:
    """The root over a power of two of hashes; remembered, because neighbours' proofs share most of them."""
    row = [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
    while len(row) > 1:
        row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]


def _checked(tile: bytes, width: int, level: int, number: int) -> bytes:
    """The first `width` hashes of a tile. Raises LogDamaged when the store has fewer."""
    if len(tile) < width * HASH_BYTES:
        raise LogDamaged(f"{tile_path(level, number)} has {len(tile)} bytes, {width * HASH_BYTES} are needed")
    return tile[: width * HASH_BYTES]
