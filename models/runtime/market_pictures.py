"""Pictures of a market: sales by week, price level by week, coverage, what was dropped."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.market import quality

SIZE: Final = (9.0, 4.5)
DPI: Final = 110
BARS: Final = 25
INK: Final = "#1f4e79"
WARN: Final = "#b03a2e"


def draw(sales: pl.DataFrame, figures: Mapping[str, Any], into: Path) -> list[Path]:
    """Write every picture into the folder `into`, made where it is missing. Raises OSError."""
    into.mkdir(parents=True, exist_ok=True)
    made = []
    paintings: tuple[tuple[str, str, Callable[[Axes], None]], ...] = (
        ("weeks", "Sales by week", lambda axes: _weeks(axes, figures)),
        ("level", "Price level by week", lambda axes: _level(axes, sales)),
        ("regions", "Sales by region", lambda axes: _bars(axes, figures["regions"])),
        ("brands", "Sales by brand", lambda axes: _bars(axes, figures["brands"])),
        ("ageing", "Price by age", lambda axes: _ageing(axes, sales, figures)),
        ("dropped", "Rows that were dropped, and why", lambda axes: _dropped(axes, figures["dropped"])),
    )
    for name, title, paint in paintings:
        figure = Figure(figsize=SIZE, layout="constrained")
        axes: Axes = figure.subplots()
        axes.set_title(f"{title} (SYNTHETIC)" if figures["synthetic"] else title)
        paint(axes)
        axes.spines[["top", "right"]].set_visible(False)
        path = into / f"{name}.png"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
            figure.savefig(path, dpi=DPI, metadata={"Software": None})
        made.append(path)
    return made


def _weeks(axes: Axes, figures: Mapping[str, Any]) -> None:
    days: Any = [dt.date.fromisoformat(one["week"]) for one in figures["weeks"]]
    thin = set(figures["gaps"]["thin"])
    colours = [WARN if one["week"] in thin else INK for one in figures["weeks"]]
    axes.bar(days, [one["sales"] for one in figures["weeks"]], width=6, color=colours)
    for run in figures["gaps"]["runs"]:
        low: Any = dt.date.fromisoformat(run["from"])
        high: Any = dt.date.fromisoformat(run["to"]) + dt.timedelta(days=7)
        axes.axvspan(low, high, color=WARN, alpha=0.15)
    axes.set_ylabel("sales")


def _level(axes: Axes, sales: pl.DataFrame) -> None:
    price = quality.level(sales)
    what = "price / price new (or trade value)" if price is not None else "price"
    weekly = (
        sales.group_by(week=pl.col("seen_on").dt.truncate("1w"))
        .agg(low=_at(price, 0.25), mid=_at(price, 0.5), high=_at(price, 0.75))
        .sort("week")
    )
    days = weekly["week"].to_list()
    axes.fill_between(days, weekly["low"].to_list(), weekly["high"].to_list(), color=INK, alpha=0.2)
    axes.plot(days, weekly["mid"].to_list(), color=INK)
    axes.set_ylabel(f"{what}: median, quartiles")


def _at(price: pl.Expr | None, share: float) -> pl.Expr:
    return (pl.col("price") if price is None else price.exp()).quantile(share)


def _bars(axes: Axes, group: Mapping[str, Any]) -> None:
    shown = group["list"][:BARS][::-1]
    colours = [INK if one["two_years"] else WARN for one in shown]
    axes.barh([one["name"][:24] for one in shown], [one["sales"] for one in shown], color=colours)
    axes.set_xlabel(f"sales; red: under two years; {len(shown)} of {group['count']}")
    axes.tick_params(axis="y", labelsize=7)


def _ageing(axes: Axes, sales: pl.DataFrame, figures: Mapping[str, Any]) -> None:
    base = next((name for name in ("new_price", "trade_value") if f"over_{name}" in figures["prices"]), None)
    ratio = pl.col("price") / pl.col(base) if base else pl.col("price")
    aged = (
        sales.filter(pl.col("registered").is_not_null())
        .group_by(age=quality.age_years())
        .agg(low=ratio.quantile(0.1), mid=ratio.median(), high=ratio.quantile(0.9), n=pl.len())
        .filter(pl.col("n") >= quality.MIN_WEEK_ROWS, pl.col("mid").is_not_null())
        .sort("age")
    )
    years = aged["age"].to_list()
    axes.fill_between(years, aged["low"].to_list(), aged["high"].to_list(), color=INK, alpha=0.2)
    axes.plot(years, aged["mid"].to_list(), color=INK, marker="o")
    axes.set_xlabel("age in years")
    axes.set_ylabel(f"price / {base.replace('_', ' ')}" if base else "price")


def _dropped(axes: Axes, dropped: Mapping[str, Any]) -> None:
    reasons = list(dropped["reasons"].items())[::-1] or [("none", 0)]
    axes.barh([reason[:60] for reason, _ in reasons], [count for _, count in reasons], color=WARN)
    axes.set_xlabel(f"rows, of {dropped['rows_read']:,} read")
    axes.tick_params(axis="y", labelsize=7)
