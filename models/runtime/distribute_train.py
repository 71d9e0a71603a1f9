"""`holdfast train valuation`: model, packs, model card and the bound's first weeks, out of a market folder.

    OUT/valuation.tflite   the model          OUT/packs/*.pack      a market pack a series
    OUT/index.json         what lies here     OUT/card.md, .json    the model card
    OUT/haircut.json       the bound week by week, with its notices

Exit codes: 0 done, 1 failed (too little history, a full disk), 2 the command line cannot be meant, 12 busy.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from models.errors import Busy, ModelError, ValuationError

EPOCH: Final = dt.date(1970, 1, 1)
RELEASE_TOLERANCE: Final = 2e-3
"""Most that ln of a price may differ between a release and its rebuilding elsewhere: what another processor's
order of additions does to a whole training."""


DEMO_MARKET: Final[dict[str, Any]] = {
    "seed": 1,
    "cars": 12_000,
    "start": dt.date(2023, 1, 1),
    "end": dt.date(2025, 6, 29),
    "crash": None,
}
"""The market of the demo model: two and a half years, so that a bound can be calibrated."""
DEMO_SEEDS: Final = 1
DEMO_EPOCHS: Final = 8
"""One network, few passes: small, quick to make again, and nobody lends on it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The command line. `before`: Monday from which nothing is seen; None: the one after the last sale."""

    market: Path
    out: Path
    seeds: int = 3
    seed: int = 1
    epochs: int = 0
    before: str | None = None
    head: bool = True
    card: bool = True
    workers: int = 1
    gpus: bool = False
    threads: int = 2


def train(asked: Asked) -> int:
    """Run the command; the exit code."""
    try:
        _train(asked, _teller())
    except Busy as error:
        return _failed(error, 12)
    except ValuationError as error:
        return _failed(error, 2)
    except ModelError as error:
        return _failed(error, 1)
    except OSError as error:
        return _failed(error, 1)
    return 0


def _failed(error: Exception, code: int) -> int:
    print(f"holdfast train: {error}", file=sys.stderr)
    return code


def _teller() -> Callable[[str], None]:
    begun = time.monotonic()
    return lambda line: print(f"{time.monotonic() - begun:7.0f} s  {line}", file=sys.stderr, flush=True)


def _train(asked: Asked, tell: Callable[[str], None]) -> None:
    if asked.gpus and asked.workers > 1:
        raise ValuationError("either --gpus or --workers: GPUs are used by one process")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's greetings are not for people
    from models.runtime import market_data, processors
    from models.runtime.distribute_fit import fitter
    from models.runtime.train_market import train as train_market
    from models.runtime.train_network import Training

    processors.prepare(asked.threads)
    market = market_data.load(asked.market)
    before = _before(asked.before, int(market.table.day.max()))
    training = Training(seeds=asked.seeds, seed=asked.seed, epochs=asked.epochs)
    fit = fitter(asked.out / "work", asked.workers, gpus=asked.gpus, tell=tell)
    if market.synthetic:
        tell("SYNTHETIC market: the model shows how the system works and prices no real car")
    release = train_market(market, before, asked.out, training, tell, head=asked.head, fit=fit)
    tell(f"{release.model}: {release.model.stat().st_size:,} bytes, {len(release.packs)} packs")
    if asked.card:
        _card(asked, market, before, training, release, tell, fit)
    print(json.dumps({"model": str(release.model), "sha256": release.sha256, "packs": len(release.packs)}))


def demo(out: Path, compare: Path | None, *, card: bool) -> int:
    """The released demo model, made anew from its seed and compared; the exit code."""
    from models.market.generator import Plan
    from models.runtime.distribute_compare import compare_releases
    from models.runtime.market_generate import generate
    from models.runtime.market_store import SALES

    folder = out / "market"
    try:
        if not (folder / SALES).exists():
            generate(Plan(**DEMO_MARKET), folder)
        _train(Asked(folder, out, seeds=DEMO_SEEDS, epochs=DEMO_EPOCHS, card=card), _teller())
        if compare is None:
            return 0
        found = compare_releases(out, compare)
    except ModelError as error:
        return _failed(error, 1)
    except OSError as error:
        return _failed(error, 1)
    same = "equal to the byte" if found.same else f"ln of a price differs by {found.worst:.2e} at most"
    print(f"{out} and {compare}: {same}; {found.cars} cars of {found.packs} packs")
    return 0 if found.same or found.worst <= RELEASE_TOLERANCE else 1


def _before(text: str | None, last: int) -> int:
    """The Monday asked for, or the one after the last sale."""
    if text is None:
        return last - (last - 4) % 7 + 7
    try:
        day = (dt.date.fromisoformat(text) - EPOCH).days
    except ValueError:
        raise ValuationError(f"--before {text} is no date; write YYYY-MM-DD") from None
    if (day - 4) % 7:
        raise ValuationError(f"--before {text} is no Monday; weeks begin on Mondays")
    return day


def _card(
    asked: Asked, market: Any, before: int, training: Any, release: Any, tell: Callable[[str], None], fit: Any
) -> None:
    from models.runtime.card_measure import measure
    from models.runtime.card_write import write_card
    from models.runtime.market_store import read_record

    found = measure(
        market, before, training, head=asked.head, threads=asked.threads, tell=tell,
        progress=lambda what: _within(what, tell), fit=fit,
    )  # fmt: skip
    record = read_record(asked.market)
    ingests = [] if record is None else record.ingests
    table = market.table
    filters = "0.02 < price / list price < 2.5" if market.columns.anchor == "new_price" else "price > 0"
    given = {
        **found.given,
        "model": {
            "sha256": release.sha256, "market": market.name, "currency": market.currency,
            "synthetic": market.synthetic, "seeds": training.seeds, "seed": training.seed,
            "weights": found.given["weights"], "bytes": release.model.stat().st_size,
            "trained_until": _day(before - market.lag), "head": asked.head,
        },
        "data": {
            "sales": len(table), "cars": len({int(car) for car in table.car}),
            "first": _day(int(table.day.min())), "last": _day(int(table.day.max())),
            "files": [f"{one.file} (SHA-256 {one.sha256})" for one in ingests],
            "dropped": market.dropped + sum(sum(one.refused.values()) for one in ingests),
            "label_lag_days": market.lag, "label_filter": filters,
        },
    }  # fmt: skip
    write_card(asked.out, given)
    weeks = [week.as_json() for week in found.weeks]
    text = json.dumps(
        {"synthetic": market.synthetic, "coverage": found.policy.coverage, "weeks": weeks}, indent=1
    )
    (asked.out / "haircut.json").write_text(text + "\n", "utf-8")
    tell(f"{asked.out / 'card.md'}: MAPE {found.given['metrics']['mape']:.2f} % on the last eight weeks")


def _within(what: str, tell: Callable[[str], None]) -> Callable[[int, int, float], None]:
    """Progress of one fit with the time left, every five seconds."""
    begun = told = time.monotonic()

    def inner(part: int, parts: int, loss: float) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= 5.0:
            told = now
            tell(
                f"{what}: {part}/{parts}, loss {loss:.4f}, {(now - begun) / part * (parts - part):.0f} s left"
            )

    return inner


def _day(day: int) -> str:
    return (EPOCH + dt.timedelta(days=day)).isoformat()
