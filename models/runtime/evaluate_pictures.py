"""Pictures of an evaluation: calibration, error by band, one car over time, haircut over weeks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.runtime.evaluate_valuation import Scored
from models.runtime.market_data import Market
from models.valuation.dataset import Dataset
from models.valuation.features import features_of
from models.valuation.pack import Cutter
from models.valuation.state import last_visible, monday, week_state
from models.valuation.table import Floats, Table

SIZE: Final = (9.0, 4.5)
DPI: Final = 110
INK: Final = "#1f4e79"
WARN: Final = "#b03a2e"
LEVELS: Final = (0.05, 0.10, 0.25, 0.5, 0.75, 0.90, 0.95)
WEEKS_SHOWN: Final = 26


def draw(
    market: Market, data: Dataset, scored: Scored, figures: Mapping[str, Any], into: Path, *, head: bool
) -> list[Path]:
    """Write the four pictures into the folder `into`, made where it is missing. Raises OSError."""
    into.mkdir(parents=True, exist_ok=True)
    paintings: tuple[tuple[str, str, Callable[[Axes], None]], ...] = (
        (
            "calibration",
            "Share of prices below each quantile",
            lambda axes: _calibration(axes, market, scored),
        ),
        ("bands", "Error by band of the predicted price", lambda axes: _bands(axes, figures)),
        (
            "one_car",
            "One car's value over time",
            lambda axes: _one_car(axes, market, data, scored, head=head),
        ),
        ("haircut", "Haircut and coverage of the bound by week", lambda axes: _haircut(axes, figures)),
    )
    made = []
    for name, title, paint in paintings:
        figure = Figure(figsize=SIZE, layout="constrained")
        axes: Axes = figure.subplots()
        axes.set_title(f"{title} (SYNTHETIC)" if figures["synthetic"] else title)
        paint(axes)
        axes.spines[["top", "right"]].set_visible(False)
        path = into / f"{name}.png"
        figure.savefig(path, dpi=DPI, metadata={"Software": None})
        made.append(path)
    return made


def _calibration(axes: Axes, market: Market, scored: Scored) -> None:
    y = market.table.y[scored.rows]
    share = [float((y <= column).mean()) for column in scored.quantiles.T]
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    axes.plot(LEVELS, share, marker="o", color=INK)
    axes.set_xlabel("quantile")
    axes.set_ylabel("share of prices below it")


def _bands(axes: Axes, figures: Mapping[str, Any]) -> None:
    bands = figures["by"]["band"]
    names = sorted(bands, key=lambda name: (not name.startswith("<"), name.startswith(">"), len(name), name))
    place = np.arange(len(names))
    axes.bar(place - 0.2, [bands[name]["mape"] for name in names], width=0.4, color=INK, label="MAPE")
    axes.bar(
        place + 0.2, [bands[name]["median_ape"] for name in names], width=0.4, color=WARN, label="median"
    )
    axes.set_xticks(place, [f"{name}\nn {bands[name]['n']}" for name in names])
    axes.set_ylabel("%")
    axes.legend()


def aged(car: Table, day: int) -> Table:
    """The same car, with its mileage, on another day."""
    years = (day - int(car.day[0])) / 365.2425
    return replace(car, day=np.array([day], dtype=np.int32), age=np.maximum(car.age + years, 0.0))


def over_time(
    market: Market, data: Dataset, scored: Scored, place: int, *, head: bool
) -> tuple[list[int], Floats]:
    """Mondays, and the value with its 10 and 90 % quantiles of one scored car in the weeks around its
    sale."""
    row = scored.rows[place : place + 1]
    car = market.table.take(row)
    again = last_visible(market.table)
    middle = int(monday(car.day)[0])
    days = [
        middle + 7 * week for week in range(-WEEKS_SHOWN, 9) if middle + 7 * week <= int(market.table.day[-1])
    ]
    found = []
    for day in days:
        pack = Cutter(week_state(market.table, again, day, head=head, lag=market.lag)).cut(
            int(car.brand[0]), int(car.series[0])
        )
        quantiles = scored.last.runner.one(features_of(aged(car, day), pack))["quantiles"]
        found.append(np.exp(quantiles[[1, 3, 5]] + car.anchor[0]))
    return days, np.stack(found)


def _one_car(axes: Axes, market: Market, data: Dataset, scored: Scored, *, head: bool) -> None:
    place = int(np.argmin(np.abs(scored.value - np.median(scored.value))))
    days, values = over_time(market, data, scored, place, head=head)
    when: Any = [dt.date(1970, 1, 1) + dt.timedelta(days=day) for day in days]
    axes.fill_between(when, values[:, 0], values[:, 2], color=INK, alpha=0.2, label="10 to 90 %")
    axes.plot(when, values[:, 1], color=INK, label="value")
    sold: Any = dt.date(1970, 1, 1) + dt.timedelta(days=int(market.table.day[scored.rows[place]]))
    axes.scatter([sold], [scored.price[place]], color=WARN, label="price", zorder=3)
    axes.set_ylabel(market.currency)
    axes.legend()


def _haircut(axes: Axes, figures: Mapping[str, Any]) -> None:
    weeks = [week for week in figures["coverage_weekly"] if week.get("n")]
    when: Any = [dt.date.fromisoformat(week["week"]) for week in weeks]
    axes.plot(when, [week["haircut"] for week in weeks], marker="o", color=INK, label="mean haircut, %")
    axes.plot(
        when,
        [100 - week["coverage"] for week in weeks],
        marker="o",
        color=WARN,
        label="prices below the bound, %",
    )
    axes.axhline(10, color="grey", linewidth=1)
    axes.set_ylim(bottom=0)
    axes.legend()
