"""What `holdfast value` does: reads the files, values the vehicle, prints. Numpy and LiteRT alone.

Exit codes: 0 done; 2 the vehicle, an option or an input vector cannot be meant; 40 model, pack or sale table
are damaged or do not belong together; 1 anything else.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from models.errors import Misfit, ModelError, ValuationError
from models.runtime.value_start import Asked, read_asked
from models.valuation import modelfile, packfile
from models.valuation.appraise import EPOCH, Options, Valuation, value
from models.valuation.forced import STEPS
from models.valuation.pack import Pack
from models.valuation.policy import Policy
from models.valuation.survival import DAYS, SaleTable, read_table, sale_table
from models.valuation.vehicle import Inputs, decode, read_vehicle

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
VERIFICATION: Final = 40
BANDS: Final = {"CNY": (30_000.0, 50_000.0, 100_000.0, 200_000.0, 400_000.0)}
"""Price bands of a currency where none are asked for: those of the bound."""
MAX_SMALL: Final = 64 << 10
"""Bytes of a vehicle's file or a sale table."""


class Valuer:
    """A model and a pack, loaded and checked, ready to value vehicles of the pack's series."""

    def __init__(self, model: Path, pack: Path) -> None:
        from models.runtime.litert import Runner

        model_bytes = _bytes(model, modelfile.MAX_BYTES)
        self.model = modelfile.read_model(model_bytes)
        pack_bytes = _bytes(pack, packfile.MAX_BYTES)
        self.pack: Pack
        self.pack, self.meta = packfile.read_pack(pack_bytes)
        self.hashes = {"model": self.model.sha256, "pack": hashlib.sha256(pack_bytes).hexdigest()}
        with _silent():
            self.runner = Runner(self.model.tflite)

    def value(self, inputs: Inputs, options: Options) -> Valuation:
        """The valuation. Raises Misfit, ValuationError, ModelFileError."""
        return value(inputs, self.model.meta, self.pack, self.meta, self.runner.one, options)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """LiteRT greets on stderr, past Python; people should read what is meant for them."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def run(asked: Asked) -> int:
    """Value a vehicle and print it; the exit code."""
    try:
        valuer = Valuer(asked.model, asked.pack)
        inputs = _inputs(asked)
        if asked.step not in STEPS:
            raise ValuationError(f"the step of a forced sale is one of {', '.join(STEPS)}")
        hashes = dict(valuer.hashes)
        sales: SaleTable | None = None
        if asked.sales is not None:
            data = _bytes(asked.sales, MAX_SMALL)
            hashes["sale_table"] = hashlib.sha256(data).hexdigest()
            sales = _table(asked.sales, data)
        found = valuer.value(inputs, Options(asked.loan, sales, asked.step))
    except (Misfit, modelfile.ModelFileError, packfile.PackError) as error:
        return _failed(error, VERIFICATION)
    except ValuationError as error:
        return _failed(error, USAGE)
    except ModelError as error:
        return _failed(error, FAILED)
    except ImportError:
        message = "LiteRT is not installed here; install Holdfast with the extra [value] (x86_64, aarch64)"
        return _failed(ModelError(message), FAILED)
    if asked.as_json:
        print(json.dumps(found.as_json(hashes), ensure_ascii=False, sort_keys=True))
    else:
        print(found.sentence())
        print(_table_of(found))
    return OK


def _failed(error: Exception, code: int) -> int:
    print(f"holdfast value: {error}", file=sys.stderr)
    return code


def _bytes(path: Path, most: int) -> bytes:
    """A file's bytes; one byte more than `most` of a larger one, which its reader refuses."""
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise ValuationError(f"{path}: {error.strerror}; name a file that can be read") from None


def _inputs(asked: Asked) -> Inputs:
    if (asked.vehicle is None) == (asked.vector is None):
        raise ValuationError("give either --vehicle FILE or --input VECTOR")
    if asked.vector is not None:
        if asked.on is not None:
            raise ValuationError("an input vector has its day; leave --on out")
        return decode(asked.vector.strip())
    assert asked.vehicle is not None
    raw = _json(asked.vehicle, _bytes(asked.vehicle, MAX_SMALL))
    return read_vehicle(raw, _day(asked.on))


def _json(path: Path, data: bytes) -> Any:
    if len(data) > MAX_SMALL:
        raise ValuationError(f"{path} is larger than {MAX_SMALL >> 10} KiB; it is not what it should be")
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValuationError(f"{path} is no JSON in UTF-8: {error}") from None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _table(path: Path, data: bytes) -> SaleTable:
    try:
        return read_table(_json(path, data))
    except ValuationError as error:
        raise Misfit(f"{path}: {error}") from None


def _day(on: str | None) -> int:
    try:
        day = dt.datetime.now(dt.UTC).date() if on is None else dt.date.fromisoformat(on)
    except ValueError:
        raise ValuationError(f"--on {on} is no date; write YYYY-MM-DD") from None
    return (day - EPOCH).days


def _table_of(found: Valuation) -> str:
    """The comparables for people."""
    lines = [f"{'weight':>7} {'price':>12} {'sold':>11} {'age':>5} {'km':>9}  region"]
    lines += [
        f"{c.weight:>7.0%} {c.price:>12,.0f} {(EPOCH + dt.timedelta(days=c.day)).isoformat():>11} "
        f"{c.age:>5.1f} {c.km:>9,.0f}  {c.region}{'' if c.same_model else ', other version'}"
        f"{'' if c.same_series else ', other series'}"
        for c in found.comparables
    ]
    return "\n".join([*lines, f"input {found.vector}"])


def forced_sale_table(file: Path, out: Path, currency: str, unit: float, edges: str | None) -> int:
    """Write the sale table of a file of store histories. Raises ValuationError."""
    from models.runtime.value_histories import read_histories

    bands = BANDS.get(currency, ()) if edges is None else _edges(edges)
    histories, end, refused = read_histories(file, unit)
    names = [Policy(edges=bands).band_name(number) for number in range(len(bands) + 1)]
    table = sale_table(histories, bands, currency, names, end)
    part = out.with_name(f"{out.name}.part")
    part.write_text(json.dumps(table.as_json(), sort_keys=True, indent=1) + "\n", "utf-8")
    part.replace(out)
    print(
        f"{table.used:,} of {table.total:,} histories used, listed until {_date(table.until)} "
        f"(later ones lean to quick sales); {refused:,} lines refused"
    )
    for band in (table.whole, *table.bands):
        within = ", ".join(f"{d} d {w[0]:.0%}" for d, w in zip(DAYS, band.within, strict=True))
        borrowed = "" if band.own else " (too few: those of all prices)"
        print(f"{band.name}: {band.n:,} cars; sold within {within}; cuts p90 {band.cut_p90[0]:.1%}{borrowed}")
    print(table.as_json()["assumption"])
    return OK


def _edges(text: str) -> tuple[float, ...]:
    try:
        return Policy(edges=tuple(float(edge) for edge in text.split(","))).edges
    except ValueError:
        raise ValuationError(f"--bands {text} are no numbers; write 30000,50000,100000") from None


def _date(day: int) -> str:
    return (EPOCH + dt.timedelta(days=day)).isoformat()


def main(text: str) -> int:
    """The process that `value_start` became."""
    return run(read_asked(text))


def guarded(work: Callable[[], int]) -> int:
    """Run a command; what a closed pipe or the disk says ends as a sentence."""
    try:
        return work()
    except ModelError as error:
        print(f"holdfast: {error}", file=sys.stderr)
        return USAGE if isinstance(error, ValuationError) else FAILED
    except OSError as error:
        print(f"holdfast: {error.filename or ''} {error.strerror or error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
