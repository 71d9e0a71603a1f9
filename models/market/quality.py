"""How good the sales of a folder are, in figures. Works on the table and the ingests' counts alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from models.market import schema

TWO_YEARS_DAYS: Final = 730
"""A region's seasons must be seen twice before its prices are believed."""
THIN: Final = 0.25
"""A week with less than this share of the median week is thin."""
JUMP: Final = 0.15
"""A week whose prices leave the eight before it by more than this share: a crash, or another unit."""
JUMP_WEEKS: Final = 8
MIN_WEEK_ROWS: Final = 20
"""Fewer sales say nothing about a week's level."""
KM_SLACK: Final = 1000.0
"""Kilometres by which a rounded reading may fall between two sales of a car."""
MOST: Final = 200
"""Regions, brands and weeks without sales that are listed."""


def measure(sales: pl.DataFrame) -> dict[str, Any]:
    """Every figure of the quality report that follows from the sales themselves."""
    weeks = by_week(sales)
    return {
        "sales": sales.height,
        "cars": sales["car"].n_unique() if sales.height else 0,
        "span": _span(sales),
        "weeks": weeks,
        "gaps": gaps(weeks),
        "jumps": jumps(sales),
        "again": seen_again(sales),
        "prices": _prices(sales),
        "regions": _groups(sales, "region"),
        "brands": _groups(sales, "brand"),
        "names": _names(sales),
        "unknown": _unknown(sales),
    }


def _span(sales: pl.DataFrame) -> dict[str, Any]:
    first, last = sales["seen_on"].min(), sales["seen_on"].max()
    if not isinstance(first, dt.date) or not isinstance(last, dt.date):
        return {"first": "", "last": "", "days": 0, "needed_days": TWO_YEARS_DAYS, "enough": False}
    days = (last - first).days + 1
    return {"first": str(first), "last": str(last), "days": days, "needed_days": TWO_YEARS_DAYS,
            "enough": days >= TWO_YEARS_DAYS}  # fmt: skip


def by_week(sales: pl.DataFrame) -> list[dict[str, Any]]:
    """Sales of each week (named by its Monday) from the first to the last, weeks without any included."""
    if not sales.height:
        return []
    counted = sales.group_by(week=pl.col("seen_on").dt.truncate("1w")).agg(sales=pl.len())
    low, high = counted["week"].min(), counted["week"].max()
    every = pl.select(week=pl.date_range(pl.lit(low), pl.lit(high), "1w"))
    full = every.join(counted, on="week", how="left").with_columns(pl.col("sales").fill_null(0)).sort("week")
    return [{"week": str(week), "sales": count} for week, count in full.iter_rows()]


def gaps(weeks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Runs of weeks without sales, and thin weeks; the first and last may be cut off and are not judged."""
    runs: list[dict[str, Any]] = []
    for week in weeks:
        if week["sales"]:
            continue
        monday = dt.date.fromisoformat(week["week"])
        if runs and dt.date.fromisoformat(runs[-1]["to"]) + dt.timedelta(days=7) == monday:
            runs[-1] = {**runs[-1], "to": week["week"], "weeks": runs[-1]["weeks"] + 1}
        else:
            runs.append({"from": week["week"], "to": week["week"], "weeks": 1})
    counts = sorted(week["sales"] for week in weeks if week["sales"])
    median = counts[len(counts) // 2] if counts else 0
    thin = [week["week"] for week in weeks[1:-1] if 0 < week["sales"] < THIN * median]
    return {"empty_weeks": sum(run["weeks"] for run in runs), "runs": runs[:MOST], "median_week": median,
            "thin_weeks": len(thin), "thin": thin[:MOST]}  # fmt: skip


def level(sales: pl.DataFrame) -> pl.Expr | None:
    """ln price against what the car cost new, or the trade's valuation; None where the table has neither."""
    for name in ("new_price", "trade_value"):
        if name in sales.columns and sales[name].null_count() < sales.height / 2:
            return (pl.col("price") / pl.col(name)).log()
    return None


def age_years() -> pl.Expr:
    """Whole years since the first registration; null where that is unknown."""
    return ((pl.col("seen_on") - pl.col("registered")).dt.total_days() / 365.25).floor()


def jumps(sales: pl.DataFrame) -> list[dict[str, Any]]:
    """Weeks whose median price level leaves that of the eight weeks before it by more than JUMP.

    The level is held against cars of the same age, so that a week of old cars is no crash.
    """
    price = level(sales)
    if price is None:
        price = pl.col("price").log() - pl.col("price").log().median().over("brand", "series", "model_year")
    else:
        price = price - price.median().over(age_years())
    weekly = (
        sales.select(price.alias("level"), week=pl.col("seen_on").dt.truncate("1w"))
        .group_by("week")
        .agg(pl.col("level").median(), sales=pl.len())
        .filter(pl.col("sales") >= MIN_WEEK_ROWS)
        .sort("week")
        .with_columns(before=pl.col("level").shift(1).rolling_median(JUMP_WEEKS, min_samples=JUMP_WEEKS // 2))
        .with_columns(change=(pl.col("level") - pl.col("before")).exp() - 1.0)
        .filter(pl.col("change").abs() > JUMP)
    )
    return [
        {"week": str(row["week"]), "change": round(row["change"], 4), "sales": row["sales"]}
        for row in weekly.iter_rows(named=True)
    ]


def seen_again(sales: pl.DataFrame) -> dict[str, Any]:
    """Cars that were sold or listed more than once, how their prices differ, and mileages that fall."""
    later = (
        sales.select("car", "seen_on", "row_id", "price", "odometer_km")
        .filter(pl.len().over("car") > 1)
        .sort("car", "seen_on", "row_id")
        .with_columns(
            days=(pl.col("seen_on") - pl.col("seen_on").shift(1).over("car")).dt.total_days(),
            change=(pl.col("price") / pl.col("price").shift(1).over("car") - 1.0).abs(),
            driven=pl.col("odometer_km") - pl.col("odometer_km").shift(1).over("car"),
        )
        .filter(pl.col("days").is_not_null())
    )
    falling = later.filter(pl.col("driven") < -KM_SLACK)
    return {
        "rows": later.height,
        "share": round(later.height / sales.height, 5) if sales.height else 0.0,
        "same_day": int((later["days"] == 0).sum()),
        "median_days": _number(later["days"].median()),
        "price_difference_median": _number(later["change"].median(), 5),
        "price_difference_mean": _number(later["change"].mean(), 5),
        "mileage_falls": falling.height,
        "mileage_falls_most_km": _number(-_float(falling["driven"].min())) if falling.height else None,
    }


def _prices(sales: pl.DataFrame) -> dict[str, Any]:
    at = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
    figures: dict[str, Any] = {"price": {str(share): _number(sales["price"].quantile(share)) for share in at}}
    for name in ("new_price", "trade_value"):
        ratio = (sales["price"] / sales[name]).drop_nulls()
        if len(ratio):
            figures[f"over_{name}"] = {str(share): _number(ratio.quantile(share), 4) for share in at}
    return figures


def _groups(sales: pl.DataFrame, name: str) -> dict[str, Any]:
    """Sales, span and weeks without sales of each region or brand, the largest first."""
    weeks = sales.select(pl.col("seen_on").dt.truncate("1w").n_unique()).item() if sales.height else 0
    grouped = (
        sales.filter(pl.col(name).is_not_null())
        .group_by(name)
        .agg(sales=pl.len(), first=pl.col("seen_on").min(), last=pl.col("seen_on").max(),
             weeks=pl.col("seen_on").dt.truncate("1w").n_unique())
        .with_columns(days=(pl.col("last") - pl.col("first")).dt.total_days() + 1)
        .sort(["sales", name], descending=[True, False])
    )  # fmt: skip
    enough = int((grouped["days"] >= TWO_YEARS_DAYS).sum())
    top12 = int(grouped["sales"].head(12).sum())
    return {
        "count": grouped.height,
        "with_two_years": enough,
        "share_of_12_largest": round(top12 / sales.height, 4) if sales.height else 0.0,
        "unknown": int(sales[name].null_count()),
        "list": [
            {"name": row[name], "sales": row["sales"], "first": str(row["first"]), "last": str(row["last"]),
             "days": row["days"], "two_years": row["days"] >= TWO_YEARS_DAYS,
             "weeks_without_sales": weeks - row["weeks"]}
            for row in grouped.head(MOST).iter_rows(named=True)
        ],
    }  # fmt: skip


def _names(sales: pl.DataFrame) -> dict[str, Any]:
    models = sales.group_by("brand", "series", "model").len()
    return {
        "brands": sales["brand"].n_unique() if sales.height else 0,
        "series": sales.select(pl.struct("brand", "series").n_unique()).item() if sales.height else 0,
        "models": models.height,
        "models_with_one_sale": int((models["len"] == 1).sum()),
        "electric": int(sales["electric"].sum() or 0),
    }


def _unknown(sales: pl.DataFrame) -> dict[str, float]:
    return {
        name: round(sales[name].null_count() / sales.height, 5) if sales.height else 0.0
        for name in sales.columns
        if not (name in schema.BY_NAME and schema.BY_NAME[name].required)
    }


def _float(value: Any) -> float:
    return float(value) if value is not None else 0.0


def _number(value: Any, digits: int = 2) -> float | None:
    return None if value is None else round(float(value), digits)


def first_jumps(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first week of each run of jumps the same way within eight weeks."""
    firsts: list[Mapping[str, Any]] = []
    last: Mapping[str, Any] | None = None
    for jump in found:
        near = last is not None and (
            (dt.date.fromisoformat(jump["week"]) - dt.date.fromisoformat(last["week"])).days <= 7 * JUMP_WEEKS
            and (jump["change"] < 0) == (last["change"] < 0)
        )
        if not near:
            firsts.append(jump)
        last = jump
    return firsts


def notices(figures: Mapping[str, Any]) -> list[str]:
    """What a reader must know before a value is made from these sales, one sentence each."""
    said = []
    span, gap, again, regions = figures["span"], figures["gaps"], figures["again"], figures["regions"]
    if figures["synthetic"]:
        said.append("These sales are synthetic: nobody made them, and no car may be valued by them.")
    if not span["enough"]:
        said.append(
            f"The sales span {span['days']} days; a region needs {TWO_YEARS_DAYS}: its seasons seen twice."
        )
    elif short := regions["count"] - regions["with_two_years"]:
        said.append(f"{short} of {regions['count']} regions span less than two years.")
    if gap["empty_weeks"]:
        runs = ", ".join(
            f"{run['from']} to {run['to']}" if run["weeks"] > 1 else run["from"] for run in gap["runs"][:5]
        )
        said.append(
            f"{gap['empty_weeks']} weeks have no sale ({runs}): values across them rest on older prices."
        )
    if gap["thin_weeks"]:
        said.append(f"{gap['thin_weeks']} weeks have less than a quarter of the usual sales.")
    for jump in first_jumps(figures["jumps"])[:5]:
        verb = "fell" if jump["change"] < 0 else "rose"
        said.append(
            f"In the week of {jump['week']} prices {verb} by {abs(jump['change']):.0%} against the eight"
            " weeks before: a crash, or another unit or currency."
        )
    if again["mileage_falls"]:
        said.append(f"{again['mileage_falls']} cars came back with fewer kilometres than before.")
    dropped = figures["dropped"]
    if dropped["rows"] and dropped["share"] > 0.01:
        said.append(f"{dropped['share']:.1%} of all rows were refused; see the reasons.")
    if figures["outliers"]:
        said.append(
            f"{figures['outliers']} kept prices are under a quarter or over four times of cars like them."
        )
    return said
