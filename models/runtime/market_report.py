"""`holdfast market report`: the quality of a folder's sales as figures, text and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from models.errors import MarketError
from models.market import quality
from models.runtime import market_store as store
from models.runtime.market_store import Ingest

SHOWN: Final = 12
"""Regions and brands in the text; the JSON has more."""
SHOWN_ROWS: Final = 10
"""Refused rows in the text; the JSON has more."""


def measure(folder: Path) -> dict[str, Any]:
    """Every figure of the report. Raises MarketError where the folder holds no sales."""
    record = store.read_record(folder)
    sales = store.read_sales(folder)
    if record is None or not sales.height:
        raise MarketError(
            f"{folder} holds no sales; fill it with `holdfast market ingest FILE --into {folder}`"
        )
    figures = {"currency": record.currency, "synthetic": record.synthetic, "generator": record.generator,
               **quality.measure(sales)}  # fmt: skip
    figures["dropped"] = _dropped(record.ingests)
    figures["outliers"] = sum(one.outliers for one in record.ingests if not _dropped_outliers(one))
    figures["notices"] = quality.notices(figures)
    return figures


def _dropped_outliers(ingest: Ingest) -> bool:
    return any("cars like it" in reason for reason in ingest.refused)


def _dropped(ingests: list[Ingest]) -> dict[str, Any]:
    reasons: dict[str, int] = {}
    for one in ingests:
        for reason, count in one.refused.items():
            reasons[reason] = reasons.get(reason, 0) + count
    rows, refused = sum(one.rows for one in ingests), sum(reasons.values())
    return {
        "rows_read": rows,
        "rows": refused,
        "share": round(refused / rows, 6) if rows else 0.0,
        "reasons": dict(sorted(reasons.items(), key=lambda item: -item[1])),
        "repeated_rows": sum(one.again for one in ingests),
        "files": [asdict(one) for one in ingests],
    }


def text(figures: Mapping[str, Any]) -> str:
    """The report for people."""
    lines = [
        *_head(figures),
        "",
        "Notices",
        *([f"  - {one}" for one in figures["notices"]] or ["  none"]),
        "",
        *_time(figures),
        *_coverage("Regions", figures["regions"]),
        *_coverage("Brands", figures["brands"]),
        *_prices(figures),
        *_gone(figures["dropped"]),
    ]
    return "\n".join(lines)


def _head(figures: Mapping[str, Any]) -> list[str]:
    span, names = figures["span"], figures["names"]
    title = "SYNTHETIC sales (made up, for demo and tests)" if figures["synthetic"] else "Sales"
    first = f"{title}: {figures['sales']:,} of {figures['cars']:,} cars, {span['first']} to {span['last']}"
    second = f"  {names['brands']} brands, {names['series']} series, {names['models']} models"
    second += f" ({names['models_with_one_sale']} with a single sale), {figures['regions']['count']} regions,"
    return [
        f"{first} ({span['days']} days), prices in {figures['currency']}",
        f"{second} {names['electric']} electric",
    ]


def _time(figures: Mapping[str, Any]) -> list[str]:
    gap, again = figures["gaps"], figures["again"]
    weeks = f"Weeks: {len(figures['weeks'])}, median {gap['median_week']} sales"
    cars = f"Same car again: {again['rows']} rows ({again['share']:.1%})"
    if again["rows"]:
        cars += f", median {again['median_days']:.0f} days later; the price differs"
        cars += f" {again['price_difference_median']:.1%} median, {again['price_difference_mean']:.1%} mean;"
        cars += f" mileage falls in {again['mileage_falls']}"
    return [f"{weeks}, {gap['empty_weeks']} without any, {gap['thin_weeks']} thin", cars]


def _coverage(title: str, group: Mapping[str, Any]) -> list[str]:
    head = f"{title}: {group['count']}, {group['with_two_years']} with two years; the 12 largest hold"
    head += f" {group['share_of_12_largest']:.0%} of the sales; unknown in {group['unknown']} rows"
    lines = ["", head]
    for one in group["list"][:SHOWN]:
        mark = "" if one["two_years"] else "  under two years"
        lines.append(
            f"  {one['name'][:24]:24} {one['sales']:>8,}  {one['first']} to {one['last']}"
            f"  {one['weeks_without_sales']:>3} weeks without{mark}"
        )
    if group["count"] > SHOWN:
        lines.append(f"  and {group['count'] - SHOWN} more (see --json)")
    return lines


def _prices(figures: Mapping[str, Any]) -> list[str]:
    lines = ["", "Prices"]
    for name, title in (("price", "price"), ("over_new_price", "price / price new"),
                        ("over_trade_value", "price / trade value")):  # fmt: skip
        if name in figures["prices"]:
            at = figures["prices"][name]
            lines.append(
                f"  {title:20} 0.1 % {at['0.001']:>12,.2f}"
                f"   median {at['0.5']:>12,.2f}   99.9 % {at['0.999']:>12,.2f}"
            )
    unknown = [f"{name} {share:.1%}" for name, share in figures["unknown"].items() if 0 < share < 1]
    lines.append("Unknown values: " + (", ".join(unknown) or "none"))
    never = [name for name, share in figures["unknown"].items() if share == 1]
    if never:
        lines.append("Not in the source: " + ", ".join(never))
    return lines


def _gone(dropped: Mapping[str, Any]) -> list[str]:
    again = f"{dropped['repeated_rows']} were the same row again"
    lines = ["", f"Dropped: {dropped['rows']} of {dropped['rows_read']:,} rows read; {again}"]
    lines += [f"  {count:>8}  {reason}" for reason, count in dropped["reasons"].items()]
    listed = [(one["file"], *row) for one in dropped["files"] for row in one["listed"]]
    for file, line, reason, column, detail in listed[:SHOWN_ROWS]:
        where = f", {column}" if column else ""
        lines.append(f"  {file} line {line}: {reason}{where}" + (f" ({detail})" if detail else ""))
    if len(listed) > SHOWN_ROWS:
        lines.append(f"  and {len(listed) - SHOWN_ROWS} more (see --json)")
    return lines


def draw(folder: Path, figures: Mapping[str, Any], into: Path) -> list[Path]:
    """Write the pictures; returns their paths."""
    from models.runtime import market_pictures

    return market_pictures.draw(store.read_sales(folder), figures, into)
