"""Features of whole markets, week by week, and who may see what when."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from models.valuation.features import Features, features_of
from models.valuation.pack import Cutter, Pack
from models.valuation.state import LABEL_LAG_DAYS, last_visible, monday, week_state
from models.valuation.table import Bools, Floats, Ints, Table

WARM_UP_WEEKS: Final = 8
"""Weeks from the first sale that no network is fitted on: their market was hardly visible."""

CHUNK: Final = 256
"""Vehicles of a series at one time: bounds the memory of the distances."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A table sorted by day, its features, and for each row its week and whether its car was seen before."""

    table: Table
    features: Features
    week: Ints
    first_seen: Bools
    new_model: Bools
    """Whether no sale of the model was visible in the row's week."""

    def __len__(self) -> int:
        return len(self.table)


def sorted_by_day(table: Table) -> Table:
    """Rows in the order of their day; ties keep their order."""
    return table.take(np.argsort(table.day, kind="stable"))


def first_seen(table: Table) -> Bools:
    """Whether each row is the first of its car. Rows sorted by day."""
    _, first = np.unique(table.car, return_index=True)
    mask = np.zeros(len(table), dtype=np.bool_)
    mask[first] = True
    return mask


def groups(table: Table, rows: Ints) -> Iterator[tuple[int, int, Ints]]:
    """(brand, series, rows) of the given rows."""
    order = rows[np.lexsort((rows, table.series[rows], table.brand[rows]))]
    brand, series = table.brand[order], table.series[order]
    cuts = np.flatnonzero((brand[1:] != brand[:-1]) | (series[1:] != series[:-1])) + 1
    for whole in np.split(order, cuts):
        for at in range(0, len(whole), CHUNK):
            part = whole[at : at + CHUNK]
            yield int(table.brand[part[0]]), int(table.series[part[0]]), part.astype(np.int32)


def week_features(
    table: Table, again: Ints, start: int, rows: Ints, *, head: bool, lag: int = LABEL_LAG_DAYS
) -> tuple[list[tuple[Ints, Features]], Bools]:
    """Features of `rows`, seen from the Monday `start`, by series; and which of them have an unseen model."""
    state = week_state(table, again, start, head=head, lag=lag)
    cutter = Cutter(state)
    packs: dict[tuple[int, int], Pack] = {}
    found = []
    for brand, series, part in groups(table, rows):
        if (brand, series) not in packs:
            packs[brand, series] = cutter.cut(brand, series)
        found.append((part, features_of(table.take(part), packs[brand, series])))
    return found, ~np.isin(table.model[rows], state.rows.model)


def build(
    table: Table,
    *,
    head: bool,
    lag: int = LABEL_LAG_DAYS,
    weeks: Iterable[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Features of every row of `weeks` (Mondays, as days; all when None), each from its own week's state.
    Sorted by day."""
    week, again = monday(table.day), last_visible(table)
    wanted = sorted({int(w) for w in (np.unique(week) if weeks is None else weeks)})
    parts: list[tuple[Ints, Features]] = []
    new = np.zeros(len(table), dtype=np.bool_)
    for done, start in enumerate(wanted):
        rows = np.flatnonzero(week == start).astype(np.int32)
        found, unseen = week_features(table, again, start, rows, head=head, lag=lag)
        parts += found
        new[rows] = unseen
        if progress is not None:
            progress(done + 1, len(wanted))
    return Dataset(table, gather(parts, len(table)), week, first_seen(table), new)


def gather(parts: list[tuple[Ints, Features]], length: int) -> Features:
    """One `Features` of `length` rows; rows in no part are 0."""
    example = parts[0][1]
    whole = {}
    for field in fields(Features):
        one = getattr(example, field.name)
        array = np.zeros((length, *one.shape[1:]), dtype=one.dtype)
        for rows, features in parts:
            array[rows] = getattr(features, field.name)
        whole[field.name] = array
    return Features(**whole)


def fit_rows(data: Dataset, before: int, *, lag: int = LABEL_LAG_DAYS) -> Ints:
    """Rows whose label was visible on day `before`, less the market's first weeks."""
    start = int(data.table.day.min()) + 7 * WARM_UP_WEEKS
    usable = (data.table.day < before - lag) & (data.week >= start) & ~np.isnan(data.table.y)
    return np.flatnonzero(usable).astype(np.int32)


def score_rows(data: Dataset, start: int, end: int) -> Ints:
    """First-seen cars posted in [start, end]."""
    inside = (data.table.day >= start) & (data.table.day <= end) & data.first_seen & ~np.isnan(data.table.y)
    return np.flatnonzero(inside).astype(np.int32)


def errors_of(predicted: Floats, y: Floats) -> Floats:
    """Relative error of each price: predicted over true, less 1."""
    found: Floats = np.expm1(predicted - y)
    return found
