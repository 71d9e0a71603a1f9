"""`holdfast market ingest`: files of sales into a market folder."""

from __future__ import annotations

import contextlib
import datetime as dt
import gc
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from models.errors import MarketError
from models.market import outliers, vin
from models.market.cleaning import Cleaner, Counts, Reason, storage_schema
from models.market.mapping import Mapping, folded
from models.runtime import market_store as store
from models.runtime.market_choice import Chosen, choose, fits, recognised, safe_name
from models.runtime.market_store import Ingest, Record
from models.runtime.market_text import Broken, Table, probe

BATCH: Final = 50_000
"""Rows that are texts at one time: about 60 MB."""
WORST_SHARE: Final = 0.5
"""A file of which more than this share is refused has the wrong mapping; nothing of it is taken in."""
Progress = Callable[[str, int], None]


def ingest(
    files: Sequence[Path],
    folder: Path,
    mapping: Path | str | None = None,
    *,
    outlier_policy: str = "refuse",
    today: dt.date | None = None,
    key: bytes | None = None,
    generator: dict[str, Any] | None = None,
    progress: Progress = lambda _file, _bytes: None,
) -> list[Ingest]:
    """Take in `files`, each wholly or not at all; returns what each gave.

    `mapping` is a TOML file or the name of a built-in one; None chooses a built-in one by each header.
    `outlier_policy`: what to do with a file that has many prices absurd against cars like it ("refuse" the
    file, "drop" those rows, "keep" them). `key` makes the hashes of a new folder reproducible.
    Raises MarketError, MappingError, Busy; files before the failing one stay taken in.
    """
    chosen = choose(mapping) if mapping is not None else None
    day = today or store.today()
    done = []
    with store.writing(folder):
        secret = store.folder_key(folder, key)
        for file in files:
            with _no_cycles():
                done.append(_one(file, folder, Run(chosen, secret, day, outlier_policy, generator, progress)))
    return done


@contextlib.contextmanager
def _no_cycles() -> Iterator[None]:
    """Rows are lists of texts without cycles; looking for some among millions doubles the time of reading."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@dataclass(frozen=True, slots=True)
class Run:
    """What one call of `ingest` holds for each of its files."""

    chosen: Chosen | None
    key: bytes
    today: dt.date
    policy: str
    generator: dict[str, Any] | None
    progress: Progress


def _one(file: Path, folder: Path, run: Run) -> Ingest:
    name, given = safe_name(file), run.chosen
    record = store.read_record(folder)
    seen = probe(file, lambda count: run.progress(name, count))
    encoding = (given.mapping.encoding if given else "") or seen.encoding
    delimiter = given.mapping.delimiter if given else ""
    table = Table(file, encoding, delimiter, lambda count: run.progress(name, count))
    try:
        chosen = given or recognised(file, table.header)
        fits(name, chosen.mapping, table.header)
        entry = Ingest(name, seen.sha256, chosen.mapping.name, chosen.sha256, table.encoding, table.delimiter)
        if record is not None:
            _same_market(name, record, entry, chosen.mapping)
            if any(one.sha256 == entry.sha256 for one in record.ingests):
                return _again(record, entry)
        old = store.read_sales(folder) if record is not None else None
        new = _rows(table, chosen.mapping, run, entry, None if old is None else old["row_id"])
    finally:
        table.close()
    _plausible(name, entry)
    whole, fresh = _judge_outliers(name, old, new, entry, run.policy)
    entry.added = fresh.height
    if fresh.height:
        entry.first, entry.last = str(fresh["seen_on"].min()), str(fresh["seen_on"].max())
    record = record or Record(chosen.mapping.currency, chosen.mapping.synthetic, run.generator or {})
    record.ingests.append(entry)
    store.commit(folder, whole, record)
    return entry


def _again(record: Record, entry: Ingest) -> Ingest:
    """The very file with the very mapping: all its rows are there."""
    first = next(one for one in record.ingests if one.sha256 == entry.sha256)
    entry.rows, entry.again = first.rows, first.rows - sum(first.refused.values())
    entry.refused = dict(first.refused)
    return entry


def _same_market(name: str, record: Record, entry: Ingest, mapping: Mapping) -> None:
    if record.synthetic != mapping.synthetic:
        kind = ("synthetic", "real") if record.synthetic else ("real", "synthetic")
        raise MarketError(
            f"{name}: the folder holds {kind[0]} sales; {kind[1]} ones go into a folder of their own"
        )
    if record.currency != mapping.currency:
        raise MarketError(
            f"{name}: its prices are {mapping.currency}, the folder's are {record.currency};"
            " each currency goes into a folder of its own"
        )
    if any(
        one.sha256 == entry.sha256 and one.mapping_sha256 != entry.mapping_sha256 for one in record.ingests
    ):
        raise MarketError(
            f"{name} was taken in before with another mapping;"
            " to map it anew, ingest all files into a new folder"
        )


def _rows(table: Table, mapping: Mapping, run: Run, entry: Ingest, have: pl.Series | None) -> pl.DataFrame:
    """The file's new rows, typed; counts go into `entry`."""
    place = {folded(column): at for at, column in enumerate(table.header)}
    wanted = [(name, place[name]) for name in mapping.sources]
    vin_at = place[folded(mapping.vin)] if mapping.vin else None
    cleaner = Cleaner(mapping, run.key, run.today)
    parts: list[pl.DataFrame] = []
    counts = Counts()
    for lines, rows, wholes in _batches(table, entry):
        names = [vin.row_id(row, whole, vin_at, run.key) for row, whole in zip(rows, wholes, strict=True)]
        ids = pl.Series("row_id", np.array(names, dtype=np.uint64))
        texts = [pl.Series(name, [row[at] for row in rows], dtype=pl.String) for name, at in wanted]
        cleaned = cleaner.clean(pl.DataFrame([ids, *texts]))
        counts.add(cleaned.counts)
        for row, reason, column in cleaned.refused:
            _refuse(entry, lines[row], reason, column, _detail(mapping, column, rows[row], place))
        parts.append(cleaned.kept)
    entry.listed.sort()
    entry.unreadable, entry.out_of_range = counts.unreadable, counts.out_of_range
    entry.check_digits, entry.no_vin = counts.check_digits, counts.no_vin
    entry.before_registration = counts.before_registration
    kept = pl.concat(parts) if parts else pl.DataFrame(schema=storage_schema(cleaner.extras))
    first = kept["row_id"].is_first_distinct()
    fresh = kept.filter(first if have is None else first & ~kept["row_id"].is_in(have.implode()))
    entry.again = kept.height - fresh.height
    return fresh


def _batches(table: Table, entry: Ingest) -> Iterator[tuple[list[int], list[list[str]], list[str]]]:
    """Line numbers, fields and joined fields of rows of the right width, many at a time."""
    items = iter(table)
    while some := list(itertools.islice(items, BATCH)):
        entry.rows += len(some)
        found: list[tuple[int, list[str]]] = []
        for item in some:
            if isinstance(item, Broken):
                _refuse(entry, item.line, item.reason, "", item.detail)
            else:
                found.append(item)
        lines, rows = [line for line, _ in found], [fields for _, fields in found]
        wholes = [vin.SEPARATOR.join(fields) for fields in rows]
        damaged = {at for at, whole in enumerate(wholes) if "\x00" in whole or "\ufffd" in whole}
        for at in sorted(damaged):
            _refuse(entry, lines[at], Reason.DAMAGED, "", "")
        if damaged:
            good = [at for at in range(len(rows)) if at not in damaged]
            lines, rows, wholes = (
                [lines[at] for at in good], [rows[at] for at in good], [wholes[at] for at in good],
            )  # fmt: skip
        if rows:
            yield lines, rows, wholes


def _refuse(entry: Ingest, line: int, reason: Reason, column: str, detail: str) -> None:
    entry.refused[reason.value] = entry.refused.get(reason.value, 0) + 1
    if len(entry.listed) < store.MAX_LISTED:
        entry.listed.append([line, reason.value, column, detail])


def _detail(mapping: Mapping, column: str, row: list[str], place: dict[str, int]) -> str:
    """What stood there, masked: letters as a, digits as 9. Prices and days are said as they are."""
    source = mapping.columns.get(column)
    text = " ".join(row[place[folded(name)]] for name in source.columns) if source else ""
    said = (
        column in ("price", "seen_on") and len(text) < vin.VIN_CHARS and any(char.isdigit() for char in text)
    )
    return text if said else vin.shape(text)


def _plausible(name: str, entry: Ingest) -> None:
    refused = sum(entry.refused.values())
    if entry.rows == 0:
        raise MarketError(f"{name} has a header and no rows")
    if refused > entry.rows * WORST_SHARE:
        worst = sorted(entry.refused.items(), key=lambda item: -item[1])[:3]
        reasons = "; ".join(f"{count} x {reason}" for reason, count in worst)
        raise MarketError(
            f"{name}: {refused} of {entry.rows} rows would be refused ({reasons}). Nothing was taken in:"
            f" mapping {entry.mapping} does not fit this file, or the file is damaged."
        )
    kept = entry.rows - refused
    for counts, what in (
        (entry.unreadable, "cannot be read"),
        (entry.out_of_range, "lies outside its range"),
    ):
        for column, count in counts.items():
            if count > kept * WORST_SHARE:
                raise MarketError(
                    f"{name}: {column} {what} in {count} of {kept} rows: another unit, format or column"
                    f" than mapping {entry.mapping} says. Nothing was taken in; correct [columns.{column}]."
                )


def _judge_outliers(
    name: str, old: pl.DataFrame | None, new: pl.DataFrame, entry: Ingest, policy: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The whole table and its new rows, after the policy on prices absurd against cars like them."""
    odd = outliers.absurd(old, new)
    entry.outliers = int(odd.sum())
    if policy == "drop" and entry.outliers:
        entry.refused[Reason.OUTLIER.value] = entry.outliers
        new = new.filter(~odd)
    elif policy == "refuse" and outliers.too_many(entry.outliers, new.height):
        raise MarketError(
            f"{name}: {entry.outliers} of {new.height} prices are under a quarter or over four times of"
            " cars like them: another unit or currency, or a poisoned file. Nothing was taken in.\n"
            "  Look at the file; then pass --outliers drop to leave those rows out, or --outliers keep."
        )
    return store.union([old, new] if old is not None else [new]), new


def sentence(entry: Ingest) -> str:
    """What one file gave, in a line or a few."""
    refused = sum(entry.refused.values())
    if entry.rows and not entry.added and entry.again:
        return f"{entry.file}: all {entry.again} sales are there already, nothing added"
    days = f" ({entry.first} to {entry.last})" if entry.added else ""
    first = (
        f"{entry.file}: {entry.added} sales added{days}, {entry.again} were there already,"
        f" {refused} of {entry.rows} rows refused; mapping {entry.mapping}, {entry.encoding}"
    )
    lines = [first]
    lines += [f"  refused {count}: {reason}" for reason, count in sorted(entry.refused.items())]
    lines += [f"  unknown {count}: {name} cannot be read" for name, count in sorted(entry.unreadable.items())]
    lines += [
        f"  unknown {count}: {name} out of its range" for name, count in sorted(entry.out_of_range.items())
    ]
    if entry.check_digits:
        lines.append(f"  noted {entry.check_digits}: vehicle numbers with a wrong check digit (kept)")
    if entry.no_vin:
        lines.append(
            f"  noted {entry.no_vin}: sales without a vehicle number (each counts as a car of its own)"
        )
    if entry.before_registration:
        lines.append(f"  unknown {entry.before_registration}: registered after the sale")
    if entry.outliers and Reason.OUTLIER.value not in entry.refused:
        lines.append(f"  noted {entry.outliers}: prices absurd against cars like them (kept)")
    return "\n".join(lines)
