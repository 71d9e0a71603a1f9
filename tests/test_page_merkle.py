"""merkle.js in Chromium: proofs of RFC 9162, tiles and checkpoints, against trees that the log builds."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from playwright.sync_api import Page, Route, sync_playwright

from cloud_sync.log import tiles
from cloud_sync.log.checkpoint import public_bytes, sign_checkpoint
from edge.merkle import leaf_hash
from edge.note import Checkpoint

SCRIPT: Final = Path(__file__).parents[1] / "cloud_sync" / "page" / "merkle.js"
ORIGIN: Final = "https://page.test"
"""Answered within the browser; https, because WebCrypto is only there in a secure context."""
RFC_LEAVES: Final = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
"""The entries of Certificate Transparency's reference trees, which RFC 9162 section 2.1.5 draws."""
RFC_ROOTS: Final = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
"""Roots of the first n of them, as the reference implementation prints them."""


class Tree:
    """A tree of `size` entries, as the log stores it."""

    def __init__(self, entries: list[bytes]) -> None:
        self.entries = entries
        self.size = len(entries)
        self._tiles: dict[tuple[int, int], bytes] = {}
        self._tiles.update(tiles.append(0, [leaf_hash(entry) for entry in entries], self.read))

    def read(self, level: int, number: int) -> bytes:
        return self._tiles.get((level, number), b"")

    def root(self, size: int | None = None) -> str:
        return tiles.root(self.size if size is None else size, self.read).hex()

    def inclusion(self, index: int) -> list[str]:
        return [item.hex() for item in tiles.inclusion_proof(index, self.size, self.read)]

    def consistency(self, first: int) -> list[str]:
        return [item.hex() for item in tiles.consistency_proof(first, self.size, self.read)]

    def paths(self) -> dict[str, str]:
        """Every tile by its path, hexadecimal."""
        return {
            tiles.tile_path(level, number, len(data) // 32): data.hex()
            for (level, number), data in self._tiles.items()
        }


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    def answer(route: Route) -> None:
        if route.request.url == f"{ORIGIN}/merkle.js":
            route.fulfill(body=SCRIPT.read_text(encoding="utf-8"), content_type="text/javascript")
        else:
            route.fulfill(body="<!doctype html><title>merkle</title>", content_type="text/html")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        opened = browser.new_page()
        opened.route("**/*", answer)
        opened.goto(f"{ORIGIN}/")
        yield opened
        browser.close()


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree([hashlib.sha256(str(number).encode()).digest() for number in range(700)])


def call(page: Page, body: str, argument: Any = None) -> Any:
    """`body` of an async function of (m, a, bytes): {ok: value} or {code: of the refusal}."""
    return page.evaluate(
        "async (a) => { const m = await import('/merkle.js'); const bytes = (list) => list.map(m.fromHex);"
        " try { return {ok: await (async () => {" + body + "})()}; }"
        " catch (error) { if (!error.code) throw error; return {code: error.code}; } }",
        argument,
    )


def include(page: Page, index: int, size: int, entry: str, proof: list[str], root: str) -> Any:
    return call(
        page,
        "const leaf = await m.leafHash(m.fromHex(a.entry));"
        "const steps = await m.verifyInclusion(a.index, a.size, leaf, bytes(a.proof), m.fromHex(a.root));"
        "return steps.length;",
        {"index": index, "size": size, "entry": entry, "proof": proof, "root": root},
    )


def consist(page: Page, first: int, second: int, roots: tuple[str, str], proof: list[str]) -> Any:
    return call(
        page,
        "await m.verifyConsistency(a.first, a.second, m.fromHex(a.roots[0]), m.fromHex(a.roots[1]),"
        " bytes(a.proof)); return true;",
        {"first": first, "second": second, "roots": list(roots), "proof": proof},
    )


def from_tiles(page: Page, tree: Tree, size: int) -> Any:
    return call(
        page,
        "const read = m.tileReader(a.whole, async (path) => {"
        " if (!(path in a.tiles)) throw new m.ProofError('no tile ' + path);"
        " return m.fromHex(a.tiles[path]); });"
        "return m.toHex(await m.rootFromTiles(a.size, read));",
        {"tiles": tree.paths(), "whole": tree.size, "size": size},
    )


@pytest.mark.parametrize("size", sorted(RFC_ROOTS))
def test_the_reference_roots_come_out_of_tiles(page: Page, size: int) -> None:
    assert from_tiles(page, Tree(RFC_LEAVES[:size]), size) == {"ok": RFC_ROOTS[size]}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 8])
def test_every_entry_of_a_small_tree_is_in_it(page: Page, size: int) -> None:
    small = Tree(RFC_LEAVES[:size])
    for index, entry in enumerate(small.entries):
        proof = small.inclusion(index)
        assert include(page, index, size, entry.hex(), proof, small.root()) == {"ok": len(proof)}


@pytest.mark.parametrize("index", [0, 255, 256, 511, 512, 698, 699])
def test_entries_of_a_tree_of_several_tiles_are_in_it(page: Page, tree: Tree, index: int) -> None:
    proof = tree.inclusion(index)
    assert include(page, index, 700, tree.entries[index].hex(), proof, tree.root()) == {"ok": len(proof)}


def test_wrong_inclusion_proofs_are_refused(page: Page, tree: Tree) -> None:
    entry, proof, root = tree.entries[300].hex(), tree.inclusion(300), tree.root()
    changed = [proof[0][:-1] + ("0" if proof[0][-1] != "0" else "1"), *proof[1:]]
    cases = [
        ((301, 700, entry, proof, root), "record.proof.other_root"),
        ((300, 700, tree.entries[301].hex(), proof, root), "record.proof.other_root"),
        ((300, 700, entry, changed, root), "record.proof.other_root"),
        ((300, 700, entry, proof, tree.root(699)), "record.proof.other_root"),
        ((300, 700, entry, proof[:-1], root), "record.proof.too_short"),
        ((300, 700, entry, [*proof, proof[0]], root), "record.proof.too_long"),
        ((700, 700, entry, proof, root), "record.proof.no_leaf"),
        ((-1, 700, entry, proof, root), "record.proof.no_number"),
        ((300, 700, entry, [proof[0][:-2], *proof[1:]], root), "record.proof.not_hash"),
        ((300, 700, "zz", proof, root), "record.proof.not_hex"),
        ((300, 700, entry, proof * 20, root), "record.proof.too_long"),
    ]
    for arguments, code in cases:
        assert include(page, *arguments) == {"code": code}


@pytest.mark.parametrize("first", [1, 2, 255, 256, 257, 512, 640, 699, 700])
def test_a_grown_tree_is_consistent_with_its_beginning(page: Page, tree: Tree, first: int) -> None:
    roots = (tree.root(first), tree.root())
    assert consist(page, first, 700, roots, tree.consistency(first)) == {"ok": True}


@pytest.mark.parametrize("second", range(1, 9))
def test_all_small_trees_are_consistent(page: Page, second: int) -> None:
    small = Tree(RFC_LEAVES[:second])
    for first in range(1, second + 1):
        roots = (small.root(first), small.root())
        assert consist(page, first, second, roots, small.consistency(first)) == {"ok": True}


def test_wrong_consistency_proofs_are_refused(page: Page, tree: Tree) -> None:
    proof, good = tree.consistency(300), (tree.root(300), tree.root())
    cases = [
        ((301, 700, good, proof), "record.proof.too_short"),
        ((300, 700, (tree.root(299), good[1]), proof), "record.proof.inconsistent"),
        ((300, 700, (good[0], tree.root(699)), proof), "record.proof.inconsistent"),
        ((300, 700, good, proof[:-1]), "record.proof.too_short"),
        ((300, 700, good, []), "record.proof.too_short"),
        ((300, 700, good, [*proof, proof[0]]), "record.proof.too_long"),
        ((700, 300, (good[1], good[0]), proof), "record.proof.shrank"),
        ((700, 700, (tree.root(699), good[1]), []), "record.proof.forked"),
        ((0, 700, (RFC_ROOTS[0], good[1]), []), "record.proof.from_empty"),
    ]
    for arguments, code in cases:
        assert consist(page, *arguments) == {"code": code}


@pytest.mark.parametrize("size", [1, 256, 257, 511, 699, 700])
def test_earlier_roots_come_out_of_todays_tiles(page: Page, tree: Tree, size: int) -> None:
    assert from_tiles(page, tree, size) == {"ok": tree.root(size)}


def growth(page: Page, tree: Tree, seen: dict[str, Any], head: dict[str, Any]) -> Any:
    return call(
        page,
        "await m.checkGrowth(a.seen, a.head, async (path) => m.fromHex(a.tiles[path])); return true;",
        {"seen": seen, "head": head, "tiles": tree.paths()},
    )


def test_a_rewritten_log_is_found_out_by_what_was_seen_before(page: Page, tree: Tree) -> None:
    entries = list(tree.entries)
    entries[10] = bytes(32)
    other = Tree(entries)
    seen = {"size": 400, "root": tree.root(400)}
    assert growth(page, tree, seen, {"size": 700, "root": tree.root()}) == {"ok": True}
    assert growth(page, other, seen, {"size": 700, "root": other.root()}) == {
        "code": "record.proof.rewritten"
    }
    assert growth(page, other, seen, {"size": 700, "root": tree.root()}) == {
        "code": "record.proof.tiles_differ"
    }


@pytest.mark.parametrize(
    ("seen", "size", "root", "word"),
    [
        (None, 5, "a", "first"),
        ((5, "a"), 5, "a", "same"),
        ((5, "a"), 6, "b", "grown"),
        ((5, "a"), 4, "b", "shrank"),
        ((5, "a"), 5, "b", "forked"),
    ],
)
def test_heads_are_compared(
    page: Page, seen: tuple[int, str] | None, size: int, root: str, word: str
) -> None:
    before = None if seen is None else {"size": seen[0], "root": seen[1]}
    assert call(page, "return m.compareHeads(a[0], a[1]);", [before, {"size": size, "root": root}]) == {
        "ok": word
    }


def test_the_head_seen_is_kept_by_origin(page: Page) -> None:
    found = call(
        page,
        "m.rememberHead(localStorage, 'log one', {size: 7, root: 'ab'.repeat(32), at: 'T'});"
        "localStorage.setItem('holdfast-log log two', '{broken');"
        "return ['log one', 'log two', 'log three'].map((name) => m.seenHead(localStorage, name));",
    )
    assert found == {"ok": [{"size": 7, "root": "ab" * 32, "at": "T"}, None, None]}


@pytest.fixture(scope="module")
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def signature(page: Page, note: str, public: bytes) -> Any:
    return call(
        page,
        "return m.checkSignature(m.parseCheckpoint(a[0]), a[1]);",
        [note, base64.b64encode(public).decode()],
    )


def test_the_checkpoints_signature_is_checked(page: Page, tree: Tree, key: Ed25519PrivateKey) -> None:
    head = Checkpoint("log.example/holdfast", 700, bytes.fromhex(tree.root()))
    note = sign_checkpoint(head, key).decode()
    other = public_bytes(Ed25519PrivateKey.from_private_bytes(bytes(32)))
    assert signature(page, note, public_bytes(key)) == {"ok": "good"}
    assert signature(page, note.replace("\n700\n", "\n701\n"), public_bytes(key)) == {"ok": "bad"}
    assert signature(page, note, other) == {"ok": "unsigned"}
    parsed = call(page, "const c = m.parseCheckpoint(a); return [c.origin, c.size, m.toHex(c.root)];", note)
    assert parsed == {"ok": ["log.example/holdfast", 700, tree.root()]}


@pytest.mark.parametrize(
    "change",
    [
        lambda note: note.rstrip("\n"),
        lambda note: note.replace("\n700\n", "\n0700\n"),
        lambda note: note.replace("\u2014 ", "- "),
        lambda note: note.split("\n\n")[0] + "\n\n",
        lambda note: note.replace("log.example/holdfast\n700", "\n700"),
        lambda note: note.replace("\n700\n", "\n99999999999999999999\n"),
        lambda note: "",
    ],
)
def test_broken_checkpoints_are_refused(page: Page, key: Ed25519PrivateKey, change: Any) -> None:
    note = sign_checkpoint(Checkpoint("log.example/holdfast", 700, bytes(32)), key).decode()
    changed = change(note)
    assert changed != note
    found = call(page, "return m.parseCheckpoint(a).size;", changed)
    assert found["code"] in ("record.proof.bad_checkpoint", "record.proof.not_base64")


@pytest.mark.parametrize(("level", "number", "width"), [(0, 0, 17), (1, 1234, 256), (0, 1234067, 256)])
def test_tile_paths_are_those_of_the_log(page: Page, level: int, number: int, width: int) -> None:
    assert call(page, "return m.tilePath(...a);", [level, number, width]) == {
        "ok": tiles.tile_path(level, number, width)
    }
