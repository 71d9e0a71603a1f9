"""What `holdfast evaluate valuation` does and prints. Exit codes as in `market_tool`."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models.errors import ModelError
from models.runtime.market_tool import EXIT_FAILED, EXIT_USAGE, guarded, say
from models.valuation.metrics import figures_table

EPOCH = dt.date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Asked:
    """The command line of an evaluation."""

    market: str
    files: Sequence[Path]
    test_from: str
    test_to: str | None
    mode: str
    json_file: Path | None = None
    pictures: Path | None = None
    seeds: int = 5
    seed: int = 1
    epochs: int = 0
    head: bool = True
    anchor: str | None = None
    lag: int | None = None
    baselines: bool = True
    bound: bool = True
    threads: int = 2


def day_of(text: str) -> int:
    """Days since 1970-01-01. Raises ValueError."""
    return (dt.date.fromisoformat(text) - EPOCH).days


def evaluate(asked: Asked) -> int:
    """Score a market's files and print the figures; returns the exit code."""
    try:
        start = day_of(asked.test_from)
        end = day_of(asked.test_to) if asked.test_to else None
    except ValueError:
        say("evaluate: give dates as YYYY-MM-DD")
        return EXIT_USAGE
    if asked.mode not in ("frozen", "rolling") or asked.anchor not in (
        None,
        "new_price",
        "trade_value",
        "none",
    ):
        say("evaluate: --mode is frozen or rolling; --anchor is new_price, trade_value or none")
        return EXIT_USAGE
    if end is not None and end < start:
        say("evaluate: --test-to lies before --test-from")
        return EXIT_USAGE
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    def work() -> int:
        try:
            return run(asked, start, end)
        except ModelError as error:
            say(f"evaluate: {error}")
            return EXIT_FAILED

    return guarded(work)


def run(asked: Asked, start: int, end: int | None) -> int:
    """The work of `evaluate`."""
    from models.runtime import evaluate_pictures, evaluate_valuation
    from models.runtime.market_data import load_files
    from models.runtime.processors import prepare
    from models.runtime.train_network import Training
    from models.valuation.dataset import build

    began = time.monotonic()
    prepare(asked.threads)
    anchor: Any = asked.anchor
    market = load_files(asked.files, asked.market, anchor=anchor, lag=asked.lag, progress=say)
    last = int(market.table.day[-1])
    plan = evaluate_valuation.Plan(
        start,
        min(last if end is None else end, last),
        _mode(asked.mode),
        Training(seeds=asked.seeds, seed=asked.seed, epochs=asked.epochs),
        asked.baselines,
        asked.bound,
        asked.threads,
    )
    visible = market.table.take(market.table.day <= plan.test_to)
    say(f"{len(visible)} sales; features of every week from what was visible {market.lag} days before it")
    data = build(visible, head=asked.head, lag=market.lag)
    say(f"features made in {time.monotonic() - began:.0f} s")
    figures, scored = evaluate_valuation.evaluate(market, data, plan, say)
    figures["head"] = asked.head
    figures["seconds"] = round(time.monotonic() - began, 1)
    if asked.pictures is not None:
        made = evaluate_pictures.draw(market, data, scored, figures, asked.pictures, head=asked.head)
        say(f"{len(made)} pictures in {asked.pictures}")
    tell(figures)
    put(figures, asked.json_file)
    return 0


def _mode(text: str) -> Literal["frozen", "rolling"]:
    return "rolling" if text == "rolling" else "frozen"


def tell(figures: dict[str, Any]) -> None:
    """The figures, to people."""
    synthetic = "SYNTHETIC sales; " if figures["synthetic"] else ""
    say(
        f"\n{synthetic}{figures['market']}, {figures['mode']}, {figures['test_from']} to "
        f"{figures['test_to']}, label lag {figures['label_lag_days']} days; {figures['filter']}"
    )
    say(figures_table(figures["methods"]))
    for name, row in figures["differences"].items():
        say(
            f"network - {name:<18} {row['difference']:+.2f} points of MAPE "
            f"[{row['low']:+.2f}, {row['high']:+.2f}], ratio {row['ratio']:.3f}"
        )
    for name in ("month", "band", "model"):
        say(f"\nby {name}")
        say(figures_table(figures["by"][name]))
    bound = figures["coverage"]["all"]
    if bound.get("n"):
        say(
            f"\n90 % bound: covers {bound['coverage']:.1f} % of {bound['n']} (chance allows "
            f"{bound['range'][0]:.1f} to {bound['range'][1]:.1f}), mean haircut {bound['haircut']:.1f} %"
        )
        for name in ("month", "band"):
            for label, row in figures["coverage"][name].items():
                mark = "" if row["inside"] else "  OUTSIDE"
                covered = f"{row['coverage']:6.1f} % of {row['n']:<6}"
                say(f"  {label:<14} {covered} haircut {row['haircut']:5.1f} %{mark}")
    model = figures["model"]
    say(
        f"\nmodel {model['bytes']} bytes, sha256 {model['sha256'][:16]}, Keras and LiteRT differ by at "
        f"most {model['keras_litert_max_ln_difference']:.1e} of ln price; {figures['seconds']:.0f} s"
    )


def put(figures: dict[str, Any], file: Path | None) -> None:
    """The figures as JSON, to a file or (`-`) to stdout."""
    if file is None:
        return
    text = json.dumps(figures, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    if str(file) == "-":
        sys.stdout.write(text)
    else:
        file.write_text(text, encoding="utf-8")
