"""Which mapping a file of sales is read with: named, recognised by its header, or guessed to be filled in."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from models.errors import MappingError
from models.market import builtin, guess, vin
from models.market.mapping import Mapping, parse
from models.runtime.market_text import Broken, Table, probe

MAX_MAPPING_BYTES: Final = 1 << 20
"""A mapping is a page of text."""
SAMPLE_ROWS: Final = 200
"""Rows that a guessed mapping looks at."""
MAX_SHOWN: Final = 60
"""Columns that an error message lists."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A mapping, and the digest of its text."""

    mapping: Mapping
    sha256: str


def choose(mapping: Path | str) -> Chosen:
    """The mapping in a file, or the built-in one of that name. Raises MappingError."""
    if str(mapping) in builtin.TEXTS:
        return Chosen(builtin.builtin(str(mapping)), _digest(builtin.TEXTS[str(mapping)]))
    try:
        with Path(mapping).open("rb") as file:
            data = file.read(MAX_MAPPING_BYTES + 1)
        text = data[:MAX_MAPPING_BYTES].decode("utf-8-sig")
    except OSError as error:
        known = ", ".join(builtin.TEXTS)
        raise MappingError(
            f"mapping {mapping}: {error.strerror}; name a TOML file, or one of {known}"
        ) from None
    except UnicodeDecodeError:
        raise MappingError(f"mapping {mapping} is not UTF-8 text") from None
    return Chosen(parse(text), _digest(text))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def recognised(file: Path, header: Sequence[str]) -> Chosen:
    found = builtin.recognise(header)
    if found is None:
        columns = ", ".join(
            vin.shape(name, 40) if _vin_like(name) else name[:40] for name in header[:MAX_SHOWN]
        )
        raise MappingError(
            f"{safe_name(file)}: no built-in mapping fits its columns ({columns}).\n"
            f"  Print one to fill in with `holdfast market mapping {safe_name(file)}`, save it, and pass it"
            " with --mapping."
        )
    return Chosen(found, _digest(builtin.TEXTS[found.name]))


def template(file: Path) -> str:
    """A mapping for `file` in TOML: the built-in one that fits, or guesses to correct. Raises MarketError."""
    seen = probe(file, lambda _: None)
    table = Table(file, seen.encoding)
    try:
        found = builtin.recognise(table.header)
        if found is not None:
            return builtin.TEXTS[found.name]
        rows = [item[1] for item in itertools.islice(table, SAMPLE_ROWS) if not isinstance(item, Broken)]
        text = guess.template(table.header, rows)
    finally:
        table.close()
    if table.delimiter != ",":
        text = f"delimiter = {guess.quoted(table.delimiter)}\n{text}"
    return f"encoding = {guess.quoted(seen.encoding)}\n{text}"


def _vin_like(text: str) -> bool:
    return len(text.strip()) == vin.VIN_CHARS and any(char.isdigit() for char in text)


def safe_name(path: Path) -> str:
    """The file's name as it may be shown: a vehicle number in it is masked."""
    name = pl.select(pl.lit(path.name).str.replace_all(vin.INSIDE, "(vehicle number)")).item()
    return str(name)


def fits(name: str, mapping: Mapping, header: Sequence[str]) -> None:
    if missing := mapping.missing(header):
        raise MappingError(
            f"{name}: mapping {mapping.name} reads columns that are not there: {', '.join(missing)}.\n"
            f"  The file has: {', '.join(column[:40] for column in header[:MAX_SHOWN])}.\n"
            "  Correct the mapping, or print one to fill in with `holdfast market mapping FILE`."
        )
