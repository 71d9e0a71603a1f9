"""`holdfast market generate`: writes the file of a synthetic market and takes it in like any other."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

import polars as pl

from models.errors import MarketError
from models.market.generator import Plan, make_sales
from models.runtime import market_ingest, market_store
from models.runtime.market_store import Ingest


def write_csv(plan: Plan, path: Path) -> int:
    """Write the sales of `plan` as CSV; returns how many. The same plan gives the same bytes."""
    table = make_sales(plan)
    frame = pl.DataFrame(
        {name: pl.Series(name, values.tolist(), dtype=pl.String) for name, values in table.items()}
    )
    frame.write_csv(path)
    return frame.height


def generate(plan: Plan, into: Path, csv: Path | None = None) -> Ingest:
    """Make the market of `plan` in a new folder. Raises MarketError where the folder holds sales."""
    if market_store.read_record(into) is not None:
        raise MarketError(f"{into} holds sales; a synthetic market goes into a folder of its own")
    into.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(f"holdfast synthetic market {plan.seed}".encode()).digest()
    note = {name: str(value) if value is not None else None for name, value in asdict(plan).items()}
    file = csv or into / f"synthetic-{plan.seed}.csv"
    try:
        write_csv(plan, file)
        (done,) = market_ingest.ingest(
            [file], into, "synthetic", outlier_policy="keep", today=plan.end, key=key, generator=note
        )
    finally:
        if csv is None:
            file.unlink(missing_ok=True)
    return done
