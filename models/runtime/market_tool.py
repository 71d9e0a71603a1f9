"""What `holdfast market` does and prints. Each function returns the exit code; `--json` goes to stdout alone.

Exit codes: 0 done, 2 the command line or a mapping cannot be meant, 12 another process writes to the folder,
13 a permission is in the way, 1 what was asked for failed.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

from models.errors import Busy, MappingError, MarketError

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_BUSY: Final = 12
EXIT_PERMISSION: Final = 13
POLICIES: Final = ("refuse", "drop", "keep")


def say(text: str) -> None:
    """To people."""
    print(text, file=sys.stderr)


def guarded(work: Callable[[], int]) -> int:
    """Run a command; errors that are ours, and the disk's, as one sentence and an exit code."""
    try:
        return work()
    except Busy as error:
        say(f"market: {error}")
        return EXIT_BUSY
    except MappingError as error:
        say(f"market: {error}")
        return EXIT_USAGE
    except MarketError as error:
        say(f"market: {error}")
        return EXIT_FAILED
    except PermissionError as error:
        say(f"market: {error.filename}: {error.strerror}: run this as the owner of the folder")
        return EXIT_PERMISSION
    except ModuleNotFoundError as error:
        say(f"market: {error.name} is not installed: this command needs the extra [train] (make train-env)")
        return EXIT_FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        say(f"market: {error.filename or 'the disk'}: {error.strerror}: see to that and run it again")
        return EXIT_FAILED


@contextmanager
def progress_bar(files: Sequence[Path], passes: int = 2) -> Iterator[Callable[[str, int], None]]:
    """A bar over the bytes of `files`, read `passes` times; silent where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from models.runtime.market_text import unpacked_size

    total = sum(unpacked_size(file) for file in files) * passes
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total or None)
        yield lambda name, count: bar.update(task, advance=count, description=name)


def ingest(files: Sequence[Path], into: Path, mapping: str | None, policy: str, *, as_json: bool) -> int:
    """Take files in, one after the other."""
    from models.runtime import market_choice, market_ingest

    if policy not in POLICIES:
        say(f"market: --outliers is one of {', '.join(POLICIES)}")
        return EXIT_USAGE
    if missing := [file for file in files if not file.is_file()]:
        say(f"market: no file {market_choice.safe_name(missing[0])}")
        return EXIT_USAGE
    with progress_bar(files) as progress:
        done = market_ingest.ingest(files, into, mapping, outlier_policy=policy, progress=progress)
    for entry in done:
        say(market_ingest.sentence(entry))
    if as_json:
        print(json.dumps([asdict(entry) for entry in done], ensure_ascii=False, indent=1))
    return 0


def mapping(file: Path) -> int:
    """Print a mapping with guesses."""
    from models.runtime import market_choice

    if not file.is_file():
        say(f"market: no file {market_choice.safe_name(file)}")
        return EXIT_USAGE
    print(market_choice.template(file), end="")
    return 0


def report(folder: Path, json_file: Path | None, pictures: Path | None) -> int:
    """The quality report."""
    from models.runtime import market_report

    figures = market_report.measure(folder)
    text = market_report.text(figures)
    if json_file is not None and str(json_file) == "-":
        print(json.dumps(figures, ensure_ascii=False, indent=1))
        say(text)
    else:
        print(text)
        if json_file is not None:
            json_file.write_text(json.dumps(figures, ensure_ascii=False, indent=1) + "\n", "utf-8")
    if pictures is not None:
        for path in market_report.draw(folder, figures, pictures):
            say(f"wrote {path}")
    return 0


def generate(
    into: Path, seed: int, cars: int, days: tuple[str, str, str | None], csv: Path | None, *, as_json: bool
) -> int:
    """Make a synthetic market and take it in."""
    from models.market.generator import Plan
    from models.runtime import market_generate, market_ingest

    try:
        start, end = dt.date.fromisoformat(days[0]), dt.date.fromisoformat(days[1])
        crash = dt.date.fromisoformat(days[2]) if days[2] else None
        plan = Plan(seed, cars, start, end, crash)
    except ValueError as error:
        say(f"market: {error}; days are written 2024-06-30")
        return EXIT_USAGE
    entry = market_generate.generate(plan, into, csv)
    say(f"synthetic market, seed {seed}: {market_ingest.sentence(entry)}")
    if as_json:
        print(json.dumps(asdict(entry), ensure_ascii=False, indent=1))
    return 0
