"""A market folder: the sales as one Parquet file, which also carries the record of every ingest.

    FOLDER/sales.parquet   rows sorted by seen_on, then row_id; the record stands in its metadata
    FOLDER/key             32 random bytes, 0600: without it no hash of a vehicle can be tested
    FOLDER/lock            held by the one process that writes

Rows and record change by one rename, so a process killed at any point leaves the state before or after.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from models.errors import Busy, MarketError
from models.market import schema, vin
from models.market.cleaning import storage_schema

SALES: Final = "sales.parquet"
KEY: Final = "key"
LOCK: Final = "lock"
RECORD: Final = "holdfast.market"
"""Key of the record within the Parquet file's metadata."""
FORMAT: Final = 1
MAX_LISTED: Final = 200
"""Refused rows that are listed one by one for each ingest; the counts are always complete."""
ROW_GROUP: Final = 131_072


@dataclass(slots=True)
class Ingest:
    """What one file gave. `refused` counts rows by reason, `listed` says [line, reason, column, detail]."""

    file: str
    sha256: str
    mapping: str
    mapping_sha256: str
    encoding: str
    delimiter: str
    rows: int = 0
    added: int = 0
    again: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    listed: list[list[Any]] = field(default_factory=list)
    unreadable: dict[str, int] = field(default_factory=dict)
    out_of_range: dict[str, int] = field(default_factory=dict)
    check_digits: int = 0
    no_vin: int = 0
    before_registration: int = 0
    outliers: int = 0
    first: str = ""
    last: str = ""


@dataclass(slots=True)
class Record:
    """The folder's record. `synthetic`: sales of our own making, which must be said wherever they show."""

    currency: str
    synthetic: bool = False
    generator: dict[str, Any] = field(default_factory=dict)
    ingests: list[Ingest] = field(default_factory=list)

    def to_json(self) -> str:
        """The record as it stands in the file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Raises MarketError for a record of another format."""
        try:
            raw = json.loads(text)
            if raw.pop("format") != FORMAT:
                raise MarketError(
                    "the market folder was written by another version; ingest the files into a new one"
                )
            ingests = [Ingest(**one) for one in raw.pop("ingests")]
            return cls(ingests=ingests, **raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise MarketError(
                f"the record in {SALES} is damaged ({error}); ingest the files into a new folder"
            ) from None


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Make the folder where there is none, and hold it. Raises Busy, MarketError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise MarketError(f"{folder}: {error.strerror}; name a folder that you may write to") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"another process writes to {folder}; wait until it is done, then run again") from None
        yield
    finally:
        os.close(handle)


def folder_key(folder: Path, make: bytes | None = None) -> bytes:
    """The folder's key, made on first use (random unless `make` is given). Raises MarketError."""
    path = folder / KEY
    if not path.exists():
        if (folder / SALES).exists():
            raise MarketError(
                f"{path} is gone: the cars of {SALES} cannot be matched; put it back or use a new folder"
            )
        _put(path, make or secrets.token_bytes(vin.KEY_BYTES), mode=0o600)
    key = path.read_bytes()
    if len(key) != vin.KEY_BYTES:
        raise MarketError(f"{path} holds {len(key)} bytes, a key has {vin.KEY_BYTES}; put the right one back")
    return key


def read_record(folder: Path) -> Record | None:
    """The folder's record; None where nothing was ingested. Raises MarketError for a damaged file."""
    path = folder / SALES
    if not path.exists():
        return None
    try:
        text = pl.read_parquet_metadata(path).get(RECORD)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _damaged(path, error) from None
    if text is None:
        raise MarketError(f"{path} was not written by `holdfast market`; name another folder")
    return Record.from_json(text)


def read_sales(folder: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The sales, sorted by seen_on, then row_id. Raises MarketError: there are none, or a damaged file."""
    path = folder / SALES
    if not path.exists():
        raise MarketError(
            f"{folder} holds no sales; fill it with `holdfast market ingest FILE --into {folder}`"
        )
    try:
        return pl.read_parquet(path, columns=list(columns) if columns is not None else None)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> MarketError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return MarketError(f"{path} cannot be read ({first}); restore it, or ingest the files into a new folder")


def as_arrays(sales: pl.DataFrame, columns: Sequence[str] | None = None) -> dict[str, np.ndarray[Any, Any]]:
    """Columns as numpy arrays.

    Numbers and truth values: float64 (row_id: uint64), NaN where unknown. Days: datetime64[D], NaT where
    unknown. Texts: object arrays of str, "" where unknown.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name in columns if columns is not None else sales.columns:
        values = sales[name]
        if values.dtype == pl.UInt64:
            arrays[name] = values.to_numpy()
        elif values.dtype == pl.String:
            arrays[name] = np.array(values.fill_null("").to_list(), dtype=object)
        elif values.dtype == pl.Date:
            arrays[name] = values.to_numpy().astype("datetime64[D]")
        else:
            arrays[name] = values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return arrays


def commit(folder: Path, sales: pl.DataFrame, record: Record) -> None:
    """Replace the folder's sales and record at one blow. Call it under `writing`. Raises MarketError."""
    path, part = folder / SALES, folder / f"{SALES}.part"
    ordered = sales.sort("seen_on", "row_id")
    try:
        ordered.write_parquet(
            part,
            compression="zstd",
            compression_level=3,
            row_group_size=ROW_GROUP,
            metadata={RECORD: record.to_json()},
        )
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
        _sync(folder)
    except OSError as error:
        raise MarketError(
            f"{part}: {error.strerror or error}; free space or permissions, then run again"
        ) from None


def union(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Sales of several sources as one table: every canonical column, and the `x_` ones of all."""
    extras = sorted({name for part in parts for name in part.columns if name.startswith(schema.EXTRA_PREFIX)})
    wanted = storage_schema(extras)
    if not parts:
        return pl.DataFrame(schema=wanted)
    whole = pl.concat(parts, how="diagonal")
    return whole.select(whole[name] if name in whole.columns else pl.lit(None, dtype=kind).alias(name)
                        for name, kind in wanted.items())  # fmt: skip


def today() -> dt.date:
    """The day it is, in UTC."""
    return dt.datetime.now(dt.UTC).date()


def _put(path: Path, data: bytes, mode: int) -> None:
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
