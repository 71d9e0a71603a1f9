"""Small files of sales for the tests of the market: rows in the form of the built-in mappings."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from click.testing import Result
from typer.testing import CliRunner

from models.__main__ import market as market_app

ROOT: Final = Path(__file__).resolve().parent.parent
US_DAY: Final = "Thu Dec 18 2014 11:30:00 GMT-0800 (PST)"
US_HEADER: Final = [
    "YEAR", "MAKE", "MODEL", "TRIM", "BODY", "TRANSMISSION", "VIN", "STATE", "CONDITION", "ODOMETER", "COLOR",
    "INTERIOR", "SELLER", "MMR", "SELLINGPRICE", "SALEDATE",
]  # fmt: skip
CN_HEADER: Final = [
    "carid", "tradeTime", "brand", "serial", "model", "mileage", "color", "cityId", "carCode",
    "transferCount", "seatings", "registerDate", "licenseDate", "country", "maketype", "modelyear",
    "displacement", "gearbox", "oiltype", "newprice",
    *(f"anonymousFeature{number}" for number in range(1, 16)), "price",
]  # fmt: skip


def us_vin(number: int) -> str:
    """An invented vehicle number of the right form; its check digit is whatever it is."""
    return f"4t1tests0du{number:06d}"


def us_row(number: int, **changes: str) -> list[str]:
    """One auction sale; `changes` by column name."""
    row = dict(
        zip(
            US_HEADER,
            ["2012", "Toyota", "Camry", "LE", "Sedan", "automatic", us_vin(number), "ca", "38", "38882",
             "red", "beige", "example rental", "13200", str(13000 + number % 700), US_DAY],
            strict=True,
        )
    )  # fmt: skip
    row.update(changes)
    return list(row.values())


def cn_row(number: int, **changes: str) -> list[str]:
    """One listing; `changes` by column name."""
    values = {
        "carid": str(number), "tradeTime": f"2021-04-{1 + number % 28:02d}", "brand": "23", "serial": "35",
        "model": str(1000 + number % 50), "mileage": f"{3 + number % 9}.5", "color": "2", "cityId": "1",
        "carCode": "1.0", "transferCount": "0", "seatings": "5", "registerDate": "2014-09-01",
        "licenseDate": f"2014-{1 + number % 12:02d}-{1 + number // 12 % 28:02d}", "country": "779419.0",
        "maketype": "2.0", "modelyear": "2013.0", "displacement": "2.0", "gearbox": "6.0", "oiltype": "1",
        "newprice": "16.98", "anonymousFeature11": "1+2,4+2", "anonymousFeature12": "4345*1797*1730",
        "anonymousFeature13": "201303.0", "price": f"{7 + number % 10 / 10:.2f}",
    }  # fmt: skip
    values.update(changes)
    return [values.get(name, "") for name in CN_HEADER]


def text(header: Sequence[str], rows: Iterable[Sequence[str]], delimiter: str = ",") -> str:
    """A table as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


def write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]], encoding: str = "utf-8") -> Path:
    """A table in a file."""
    path.write_bytes(text(header, rows).encode(encoding))
    return path


def market(*args: str | Path, timeout: float = 110) -> subprocess.CompletedProcess[str]:
    """`holdfast market ...` as a process of its own."""
    return subprocess.run(
        command(*args),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        timeout=timeout,
        check=False,
    )


def run(*args: str | Path) -> Result:
    """The same in this process: exit code, stdout and stderr."""
    return CliRunner().invoke(market_app, [str(one) for one in args])


def command(*args: str | Path) -> list[str]:
    """The command line of `holdfast market ...`."""
    return [sys.executable, "-m", "models", "market", *map(str, args)]


def environment() -> dict[str, str]:
    """Two threads, so that tests beside each other leave room."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "POLARS_MAX_THREADS": "2"}


def contents(folder: Path) -> bytes:
    """Every byte of every file below a folder, and the names."""
    return b"\n".join(
        str(path.relative_to(folder)).encode() + b"\n" + path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
