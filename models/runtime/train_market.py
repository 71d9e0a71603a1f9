"""The weekly refit of a market folder: network, calibration, model file and a pack for every series."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.runtime.evaluate_valuation import LOW, POINT, Plan, Steps, calibration_scores
from models.runtime.market_data import Market
from models.runtime.net import QUANTILES
from models.runtime.refit import Fitted, refit
from models.runtime.train_network import Fit, Training, fit_network
from models.valuation.conformal import Calibration, calibrate, scores
from models.valuation.dataset import build
from models.valuation.features import features_hash
from models.valuation.modelfile import ModelMeta, write_model
from models.valuation.pack import Cutter
from models.valuation.packfile import write_pack
from models.valuation.state import last_visible, week_state
from models.valuation.table import NONE

MODEL: Final = "valuation.tflite"
PACKS: Final = "packs"


@dataclass(frozen=True, slots=True)
class Release:
    """What a refit wrote. `packs`: file name -> bytes."""

    model: Path
    sha256: str
    packs: dict[str, int]
    calibration: Calibration | None
    fitted: Fitted


def train(
    market: Market,
    before: int,
    into: Path,
    training: Training,
    tell: Callable[[str], None],
    *,
    head: bool = True,
    fit: Fit = fit_network,
) -> Release:
    """Fit on what was visible on the Monday `before`, calibrate, write model and packs. Raises ModelError
    and OSError."""
    table = market.table.take(market.table.day < before)
    data = build(table, head=head, lag=market.lag)
    plan = Plan(before, before, "frozen", training)
    steps = Steps(2, tell)
    rows, past = calibration_scores(market, data, plan, steps, fit)
    calibration = None
    if len(rows):
        anchor = table.anchor[rows]
        known = table.day[rows] < before - market.lag
        score = scores(table.y[rows], past[:, POINT], past[:, LOW])[known]
        calibration = calibrate(score, np.exp(past[:, POINT] + anchor)[known], market.bands)
    fitted = refit(data, before, training, lag=market.lag, progress=steps.within("fit"), fit=fit)
    steps.step("fitted")
    into.mkdir(parents=True, exist_ok=True)
    meta = ModelMeta(
        market=market.name,
        currency=market.currency,
        synthetic=market.synthetic,
        anchor=market.columns.anchor,
        extra=market.columns.extra,
        features=features_hash(market.columns, head=head),
        head=head,
        trained_until=before - market.lag,
        sales=len(fitted.rows),
        seeds=training.seeds,
        seed=training.seed,
        levels=QUANTILES,
        lag_days=market.lag,
        calibration=calibration,
        calibrated_on=before if calibration else None,
    )
    model = write_model(fitted.tflite, meta)
    (into / MODEL).write_bytes(model)
    packs = write_packs(market, before, into / PACKS, head=head)
    release = Release(into / MODEL, hashlib.sha256(model).hexdigest(), packs, calibration, fitted)
    (into / "index.json").write_text(
        json.dumps(index(release, meta, before), indent=1, sort_keys=True) + "\n", "utf-8"
    )
    return release


def index(release: Release, meta: ModelMeta, before: int) -> dict[str, Any]:
    """What lies in the folder."""
    return {
        "model": release.model.name,
        "sha256": release.sha256,
        "market": meta.market,
        "currency": meta.currency,
        "synthetic": meta.synthetic,
        "monday": str(np.datetime64(before, "D")),
        "packs": len(release.packs),
        "largest_pack": max(release.packs.values(), default=0),
    }


def pack_name(series: str) -> str:
    """File name of a series' pack: 16 digits of the hash of `brand/series` (names hold what file systems
    do not)."""
    return hashlib.blake2b(series.encode(), digest_size=8).hexdigest() + ".pack"


def write_packs(market: Market, before: int, into: Path, *, head: bool) -> dict[str, int]:
    """One pack a visible series, named by `pack_name`; returns name -> bytes."""
    table, columns = market.table, market.columns
    state = week_state(table, last_visible(table), before, head=head, lag=market.lag)
    cutter = Cutter(state)
    words = {code: word for word, code in columns.words["series"].items()}
    brands = {code: word for word, code in columns.words["brand"].items()}
    into.mkdir(parents=True, exist_ok=True)
    made: dict[str, int] = {}
    seen = {(int(b), int(s)) for b, s in zip(state.rows.brand, state.rows.series, strict=True) if s != NONE}
    for brand, series in sorted(seen):
        names = (brands.get(brand, ""), words[series])
        data = write_pack(
            cutter.cut(brand, series),
            columns,
            market=market.name,
            currency=market.currency,
            synthetic=market.synthetic,
            head=head,
            names=names,
        )
        name = pack_name(words[series])
        (into / name).write_bytes(data)
        made[name] = len(data)
    return made
