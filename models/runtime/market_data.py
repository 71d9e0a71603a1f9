"""A market folder, or raw files, as the table that the valuation is made of."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from models.errors import MarketError
from models.runtime.market_ingest import ingest
from models.runtime.market_store import as_arrays, read_record, read_sales
from models.valuation.table import Anchor, Columns, Table, learn_columns, make_table

RATIO: Final = (0.02, 2.5)
"""Price over list price outside of which a label is absurd (both excluded)."""

LEAST_AUCTION: Final = 2_000.0
"""Auction sales at or below this price are not scored: scrap, and fees as large as the car."""

BANDS: Final[dict[str, tuple[float, ...]]] = {
    "CNY": (30_000.0, 50_000.0, 100_000.0, 200_000.0, 400_000.0),
    "USD": (5_000.0, 8_000.0, 11_000.0, 14_000.0, 18_000.0),
}
"""Edges of the price bands of known currencies; another market takes the sextiles of its first visible
sales."""

FIXED_KEY: Final = bytes(32)
"""Key of the car hashes of a throw-away folder: the same figures in each run, and nothing of it is kept."""


@dataclass(frozen=True, slots=True)
class Market:
    """Sales sorted by day. `lag`: days from the day a price is posted until it may be learned from."""

    name: str
    currency: str
    synthetic: bool
    table: Table
    columns: Columns
    lag: int
    bands: tuple[float, ...]
    trade_value: np.ndarray[tuple[int], np.dtype[np.float64]]
    new_price: np.ndarray[tuple[int], np.dtype[np.float64]]
    dropped: int


def lag_of(mapping: str) -> int:
    """14 days for asking prices (the last one is known when the listing is withdrawn), 0 for hammer
    prices."""
    return 0 if mapping == "us" else 14


def load(folder: Path, *, anchor: Anchor | None = None, lag: int | None = None) -> Market:
    """The market of a folder. `anchor`: None takes the list price, else the trade's valuation, else none.
    Raises MarketError."""
    record = read_record(folder)
    if record is None:
        raise MarketError(
            f"{folder} holds no sales; fill it with `holdfast market ingest FILE --into {folder}`"
        )
    arrays = as_arrays(read_sales(folder))
    price, new = arrays["price"], arrays["new_price"]
    known_new, known_trade = np.isfinite(new), np.isfinite(arrays["trade_value"])
    if anchor is None:
        anchor = (
            "new_price" if known_new.mean() > 0.9 else "trade_value" if known_trade.mean() > 0.9 else "none"
        )
    ratio = price / np.where(known_new, new, np.nan)
    kept = ~((ratio <= RATIO[0]) | (ratio >= RATIO[1])) & (price > 0)
    if anchor == "new_price":
        kept &= known_new
    if anchor == "trade_value":
        kept &= known_trade
    arrays = {name: column[kept] for name, column in arrays.items()}
    count = int(kept.sum())
    if count < 100:
        raise MarketError(
            f"{folder} holds {count} sales that can be used; a valuation needs a hundred at the very least"
        )
    order = np.lexsort((arrays["row_id"], arrays["seen_on"]))
    arrays = {name: column[order] for name, column in arrays.items()}
    columns = learn_columns(arrays, anchor, count)
    mapping = record.ingests[0].mapping if record.ingests else ""
    return Market(
        name=mapping.split(".")[0] or "market",
        currency=record.currency,
        synthetic=record.synthetic,
        table=make_table(arrays, columns, count),
        columns=columns,
        lag=lag_of(mapping) if lag is None else lag,
        bands=BANDS.get(record.currency) or sextiles(arrays["price"]),
        trade_value=arrays["trade_value"],
        new_price=arrays["new_price"],
        dropped=int((~kept).sum()),
    )


def sextiles(price: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, ...]:
    """Sextiles of the first third of the prices, to two digits."""
    edges = np.quantile(price[: max(len(price) // 3, 10)], np.arange(1, 6) / 6)
    return tuple(sorted({float(f"{edge:.1e}") for edge in edges}))


def load_files(
    files: Sequence[Path],
    mapping: str | None,
    *,
    anchor: Anchor | None = None,
    lag: int | None = None,
    progress: Callable[[str], None] = lambda _line: None,
) -> Market:
    """The market of raw files, through a folder that is thrown away. Raises MarketError and MappingError."""
    with tempfile.TemporaryDirectory(prefix="holdfast-market-") as place:
        folder = Path(place)
        for done in ingest(list(files), folder, mapping, outlier_policy="keep", key=FIXED_KEY):
            progress(f"{done.file}: {done.rows} rows, {done.added} taken in")
        return load(folder, anchor=anchor, lag=lag)
