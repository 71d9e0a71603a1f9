"""Store histories as a CSV file: when a car was listed, for how much, when the price changed, and how it
ended.

The kind, recognised by its columns (others are ignored; plain or .gz, UTF-8):

    pushDate      day of listing, YYYY-MM-DD
    pushPrice     first price, in `unit` of the currency (Chinese files: 10,000 yuan)
    upd           JSON object of day -> new price, in the order of days; {} for none
    pullDate      day it was taken off
    withdrawDate  day it was sold; empty: taken off unsold
"""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from models.errors import ValuationError
from models.valuation.survival import Histories

COLUMNS: Final = ("pushDate", "pushPrice", "upd", "pullDate", "withdrawDate")
MAX_BYTES: Final = 256 << 20
"""Largest file read (unpacked): some million histories; a gzip bomb stops here."""
EPOCH: Final = dt.date(1970, 1, 1)
MAX_REFUSED: Final = 0.2
"""Share of lines that may be refused before the file itself is: columns have slipped."""


def read_histories(path: Path, unit: float) -> tuple[Histories, int, int]:
    """(histories, day of the last listing or price, refused lines). Raises ValuationError: not such a
    file."""
    rows: list[tuple[int, float, int, bool, float]] = []
    refused, end = 0, 0
    for row in _lines(path):
        found = _row(row, unit)
        if found is None:
            refused += 1
        else:
            rows.append(found[0])
            end = max(end, found[1])
    if not rows or refused > MAX_REFUSED * (refused + len(rows)):
        raise ValuationError(
            f"{path}: {refused:,} of {refused + len(rows):,} lines are no store histories; "
            f"look at the columns {', '.join(COLUMNS)}"
        )
    listed, price, days, sold, cut = zip(*rows, strict=True)
    histories = Histories(
        np.array(listed, np.int32), np.array(price), np.array(days, np.int32), np.array(sold), np.array(cut)
    )
    return histories, end, refused


def _lines(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream = gzip.GzipFile(fileobj=raw) if packed else raw
            data = stream.read(MAX_BYTES + 1)
    except (OSError, EOFError) as error:
        raise ValuationError(f"{path} cannot be read: {error}") from None
    if len(data) > MAX_BYTES:
        raise ValuationError(f"{path} is larger than {MAX_BYTES >> 20} MiB; split it")
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig")))
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValuationError(f"{path} has no column {', '.join(missing)}: it holds no store histories")
        yield from reader
    except UnicodeDecodeError:
        raise ValuationError(f"{path} is not UTF-8; convert it first") from None
    except csv.Error as error:
        raise ValuationError(f"{path} is no CSV file: {error}") from None


def _row(row: dict[str, str], unit: float) -> tuple[tuple[int, float, int, bool, float], int] | None:
    """One history and the day of its last price; None where the line makes no sense."""
    try:
        listed, pulled = _day(row["pushDate"]), _day(row["pullDate"])
        first = float(row["pushPrice"])
        sold = bool(row["withdrawDate"])
        ended = _day(row["withdrawDate"]) if sold else pulled
        changes = json.loads(row["upd"] or "{}")
        steps = sorted((_day(day), float(price)) for day, price in changes.items())
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None
    last = steps[-1][1] if steps else first
    if not (0 < first < 1e9 and 0 < last < 1e9) or ended < listed:
        return None
    final = max([listed, *(day for day, _ in steps)])
    return (listed, first * unit, ended - listed, sold, 1.0 - last / first), final


def _day(text: str) -> int:
    return (dt.date.fromisoformat(text) - EPOCH).days
