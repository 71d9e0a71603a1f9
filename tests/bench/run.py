"""Measure speeds and sizes; print them and write bench.json. Run: `make bench`.

    python tests/bench/run.py [--out bench.json] [--only NAME] [--scale 0.1] [--list] [--table FILE]

Every figure is measured in this run on this machine, a peer's figure in the same run on the same input.
bench.json is a list with a row for each figure: name, value, unit, peer, peer_value, ratio (value /
peer_value), goal, met. bench.run.json beside it says on which machine, when and how (`machine`, `date`,
`command`, `scale`), and which benches could not run and why (`skipped`, `failed`). The exit code is 1 when a
goal is missed, a bench fails, or one that was asked for by name cannot run. Figures of a smaller --scale show
that a bench works, and no more.

A bench is a function of a module beside this file: it takes a folder on a disk (and `scale`, where it can be
made smaller) and yields Rows. It is named in BENCHES below, with the libraries that may be missing.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import cores
from rows import Row

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent
Measure = Callable[[Path], Iterator[Row]]


@dataclass(frozen=True, slots=True)
class Bench:
    """One part of what is measured."""

    name: str
    module: str
    needs: tuple[str, ...] = ()
    """Libraries without which it is left out."""
    one_core: bool = True
    """Whether all of it runs on one core; a bench that places its processes itself says False."""
    function: str = ""
    """Of the module; the bench's own name unless it is given."""

    def why_not(self) -> str | None:
        """Why it cannot run here; None when it can."""
        if not (HERE / f"{self.module}.py").exists():
            return f"{self.module}.py is not here"
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(missing)}" if missing else None

    def load(self, scale: float) -> Measure:
        """The function that measures it."""
        found: Callable[..., Iterator[Row]] = getattr(
            importlib.import_module(self.module), self.function or self.name
        )
        return partial(found, scale=scale) if "scale" in inspect.signature(found).parameters else found


BENCHES: Final[tuple[Bench, ...]] = (
    Bench("nmea", "sensors", ("pynmea2",)),
    Bench("pipeline", "paths", ("cwt",)),
    Bench("cose", "paths", ("cwt",), function="cose_sign1"),
    Bench("outbox", "paths", ("cwt",)),
    Bench("log", "ledgers"),
    Bench("titles", "ledgers"),
    Bench("day", "daily", ("cwt",)),
    Bench("intake", "intakeload"),
    Bench("page", "pages", ("fastapi", "httpx", "playwright"), one_core=False),
    Bench("live", "liveload", ("fastapi", "psutil", "playwright"), one_core=False),
    Bench("enrolments", "enrolload", one_core=False),
    Bench("edge", "edgeload", one_core=False),
    Bench("market", "marketload", ("polars",), one_core=False),
    Bench("value", "valueonce", ("tensorflow", "ai_edge_litert"), one_core=False),
    Bench("whole", "whole", one_core=False),
)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next(_lines(Path("/proc/cpuinfo"), "model name"), platform.processor() or platform.machine())
    memory = next(_lines(Path("/proc/meminfo"), "MemTotal"), "")
    system = next(_lines(Path("/etc/os-release"), "PRETTY_NAME", "="), platform.platform()).strip('"')
    return {
        "system": system, "kernel": platform.release(), "python": platform.python_version(),
        "arch": platform.machine(), "cpu": model, "cores": len(cores.ALL), "memory": memory,
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }  # fmt: skip


def _lines(path: Path, name: str, mark: str = ":") -> Iterator[str]:
    if path.exists():
        for line in path.read_text("utf-8").splitlines():
            key, _, value = line.partition(mark)
            if key.strip() == name:
                yield value.strip()


def run_one(bench: Bench, scale: float) -> tuple[list[Row], str | None]:
    """The rows of one bench, printed as they come; and what went wrong."""
    rows: list[Row] = []
    try:
        # Not /tmp: where that is memory, a commit would cost nothing.
        with (
            tempfile.TemporaryDirectory(prefix="bench-", dir=ROOT / "build") as folder,
            cores.only(cores.first() if bench.one_core else cores.ALL),
        ):
            for row in bench.load(scale)(Path(folder)):
                rows.append(row)
                print(row.line(), flush=True)
    # Whatever is wrong with one bench, the others are still wanted: it is told, and the run ends with 1.
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return rows, f"{type(error).__name__}: {error}"
    return rows, None


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def measure(chosen: Sequence[Bench], options: argparse.Namespace) -> int:
    """Run the benches, write the file after each; the exit code."""
    (ROOT / "build").mkdir(exist_ok=True)
    document: dict[str, Any] = {
        "machine": machine(), "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "tests/bench/run.py", *sys.argv[1:]]), "scale": options.scale,
        "skipped": {}, "failed": {},
    }  # fmt: skip
    figures: list[dict[str, object]] = []
    load = os.getloadavg()[0]
    if load > len(cores.ALL) / 2:
        print(
            f"load {load:.1f} on {len(cores.ALL)} cores: others are at work here, the figures suffer",
            flush=True,
        )
    missed: list[str] = []
    for number, bench in enumerate(chosen, 1):
        head = f"[{number}/{len(chosen)}] {bench.name}"
        if why := bench.why_not():
            print(f"{head}: skipped, {why}", flush=True)
            document["skipped"][bench.name] = why
        else:
            print(f"{head} ...", flush=True)
            begun = time.monotonic()
            rows, trouble = run_one(bench, options.scale)
            print(f"{head}: {time.monotonic() - begun:.0f} s", flush=True)
            figures += [row.as_json() for row in rows]
            missed += [row.name for row in rows if row.met is False]
            if trouble is not None:
                document["failed"][bench.name] = trouble
        document["missed"] = missed
        _write(options.out, figures)
        _write(options.out.with_suffix(".run.json"), document)
    said = [f"{options.out}: {len(figures)} figures"]
    for word, names in (
        ("goals missed", missed), ("failed", document["failed"]), ("skipped", document["skipped"]),
    ):  # fmt: skip
        if names:
            said.append(f"{word}: {', '.join(names)}")
    print("; ".join(said))
    return 1 if missed or document["failed"] or (options.only and document["skipped"]) else 0


def table(path: Path) -> str:
    """The rows of a bench.json as they stand in BENCHMARKS.md."""
    lines = ["| name | value | unit | peer | ratio | goal |", "|---|---|---|---|---|---|"]
    for row in json.loads(path.read_text("utf-8")):
        value = f"{row['value']:,.0f}" if abs(row["value"]) >= 1000 else f"{row['value']:g}"
        peer = "" if row["peer"] is None else f"{row['peer']} {row['peer_value']:,.0f}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        goal = "" if row["goal"] is None else f"{row['goal']}: {'met' if row['met'] else '**missed**'}"
        lines.append(f"| `{row['name']}` | {value} | {row['unit']} | {peer} | {ratio} | {goal} |")
    return "\n".join(lines)


def listing() -> str:
    """Every bench, and whether it can run here."""
    return "\n".join(f"{bench.name:<12} {bench.why_not() or 'can run'}" for bench in BENCHES)


def _scale(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: a scale is above 0 and at most 1")
    return value


def main() -> int:
    """Measure what is asked for; the exit code."""
    names = [bench.name for bench in BENCHES]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "bench.json")
    parser.add_argument("--only", choices=names, action="append", metavar="NAME", help=", ".join(names))
    parser.add_argument(
        "--scale", type=_scale, default=1.0, help="make what can be made smaller so much smaller"
    )
    parser.add_argument("--list", action="store_true", help="name the benches and whether they can run here")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print a bench.json as Markdown")
    options = parser.parse_args()
    if options.list or options.table:
        print(listing() if options.list else table(options.table))
        return 0
    return measure([b for b in BENCHES if not options.only or b.name in options.only], options)


if __name__ == "__main__":
    sys.exit(main())
