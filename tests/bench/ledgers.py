"""The cloud's log and title contract."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rows import Row, against

from cloud_sync.ledger.engine import Call
from cloud_sync.runtime import projector
from cloud_sync.runtime.sequencer import Published, Sequencer
from cloud_sync.runtime.store import KIND_SEGMENT, Store
from cloud_sync.runtime.titles import submit

LOG_ENTRIES: Final = 50_000
SINGLE_ENTRIES: Final = 200
TITLES: Final = 100
KEY: Final = ec.generate_private_key(ec.SECP256R1())


def queue_entries(store: Store, first: int, count: int) -> None:
    """Put `count` segments in front of the sequencer."""
    hashes = [(n, hashlib.sha256(n.to_bytes(8, "big")).digest()) for n in range(first, first + count)]
    with store.transaction() as db:
        db.executemany(
            "INSERT INTO segments(tenant, device, run, number, hash, kid, received_ms, clock)"
            " VALUES('fund-a', 'vehicle-1', x'00', ?, ?, x'00', 0, 0)",
            hashes,
        )
        db.executemany(
            "INSERT INTO pending(tenant, kind, hash) VALUES('fund-a', ?, ?)",
            [(KIND_SEGMENT, digest) for _, digest in hashes],
        )


def log(folder: Path) -> Iterator[Row]:
    """Entries given an index, hashed into tiles and covered by a signed, published checkpoint."""
    with Store(folder / "store.db") as store:
        key = Ed25519PrivateKey.generate()
        published = Published(folder / "published.checkpoint")
        sequencer = Sequencer(store, "log.example/bench", key, published, lambda: 0)
        queue_entries(store, 0, LOG_ENTRIES)
        begun = time.perf_counter()
        if sequencer.step() != LOG_ENTRIES:
            raise RuntimeError("not everything was logged")
        many = LOG_ENTRIES / (time.perf_counter() - begun)
        spent = 0.0
        for n in range(SINGLE_ENTRIES):
            queue_entries(store, LOG_ENTRIES + n, 1)
            begun = time.perf_counter()
            sequencer.step()
            spent += time.perf_counter() - begun
    yield against("log_appends_per_s", many, "entries/s, SQLite FULL", "one by one", SINGLE_ENTRIES / spent)


def titles(folder: Path) -> Iterator[Row]:
    """Title transitions, each durable with its events and its signed statement."""
    with Store(folder / "store.db") as store:
        with store.transaction() as db:
            projector.migrate(db)
        begun = time.perf_counter()
        for n in range(TITLES):
            token, loan = f"{n:064x}", f"{n + (1 << 200):064x}"
            for function, args, org, role in (
                ("MintWithTokenURI", (token, "0" * 64, ""), "registry", "registry"),
                ("ProposeLien", (token, loan), "bank", "lender"),
                ("ConsentLien", (token, loan), "fund", "guarantor"),
                ("ConsentLien", (token, loan), "registry", "registry"),
            ):
                submit(store, "fund-a", Call(function, args, org, role, n), KEY)
        spent = time.perf_counter() - begun
    yield Row(
        "title_transitions_per_s", round(4 * TITLES / spent, 1), "transitions/s, SQLite FULL, one by one"
    )
