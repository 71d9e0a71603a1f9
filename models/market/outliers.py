"""Prices absurd against cars like them: the sign of a poisoned file, another unit or another currency."""

from __future__ import annotations

import math
from typing import Final

import polars as pl

TIMES: Final = 4.0
"""A quarter or four times the median of its peers; see `SHARE` for how often that happens honestly."""
SHARE: Final = 0.02
"""Share of such prices from which a file is not believed. Real files stay below 0.5 %."""
MIN_ROWS: Final = 200
"""A smaller file is not judged by its share."""
MIN_PEERS: Final = 5
HISTORY: Final = 1000
"""Rows the folder must hold before a new file is judged by them alone."""
_PEERS: Final = ("brand", "series", "model_year")
_BRAND: Final = ("brand", "model_year")


def absurd(old: pl.DataFrame | None, new: pl.DataFrame) -> pl.Series:
    """True for each new row whose price is absurd against its peers; False where it has too few.

    Peers: the same brand, series and model year (else brand and model year) among the folder's sales, or,
    where it holds few, among the file's own.
    """
    columns = [*_PEERS, "price"]
    base = old.select(columns) if old is not None and old.height >= HISTORY else None
    if base is None:
        base = pl.concat([part.select(columns) for part in (old, new) if part is not None])
    judged = new.select(columns)
    for name, keys in (("fine", _PEERS), ("rough", _BRAND)):
        level = base.group_by(keys).agg(pl.col("price").log().median().alias(name), pl.len().alias("n"))
        level = level.filter(pl.col("n") >= MIN_PEERS).drop("n")
        judged = judged.join(level, on=list(keys), how="left", nulls_equal=True, maintain_order="left")
    level_ln = pl.col("fine") if old is None or old.height < HISTORY else pl.coalesce("fine", "rough")
    far = (pl.col("price").log() - level_ln).abs() > math.log(TIMES)
    return judged.select(far.fill_null(False).alias("absurd"))["absurd"]


def too_many(count: int, rows: int) -> bool:
    """Whether so many absurd prices condemn a file of `rows` rows."""
    return rows >= MIN_ROWS and count > rows * SHARE
