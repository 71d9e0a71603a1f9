"""A valuation: from the coarse inputs of a vehicle, a model and a market pack to amounts, reasons and flags.

Nothing here is guessed: what does not fit is refused (`Misfit`, `ValuationError`). The same inputs, model,
pack and options give the same answer.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from models.errors import Misfit, ValuationError
from models.valuation import conformal
from models.valuation.features import features_of
from models.valuation.forced import ForcedSale, Step, forced_sale
from models.valuation.modelfile import ModelMeta
from models.valuation.pack import FEW, Pack
from models.valuation.packfile import PackMeta, vehicle_columns
from models.valuation.reasons import POINT, Comparable, Infer, Reasons, comparables_of, pair_of, reasons_of
from models.valuation.survival import SaleTable
from models.valuation.table import Floats, Table, make_table
from models.valuation.vehicle import Inputs

PACK_DAYS: Final = 28
"""A pack older than four weeks misses two of the eight weeks its levels are made of."""
CALIBRATION_DAYS: Final = 35
MODEL_DAYS: Final = 180
"""Weights of half a year cost 0.7 points of error; it is said."""
EPOCH: Final = dt.date(1970, 1, 1)
SYNTHETIC: Final = (
    "SYNTHETIC: model, pack or table were made from an invented market; no real car is worth this."
)
LEVELS: Final = ("q05", "q10", "q25", "point", "q75", "q90", "q95")


@dataclass(frozen=True, slots=True)
class Options:
    """What else is asked: a loan (currency), the table for a forced sale and its step."""

    loan: float | None = None
    sales: SaleTable | None = None
    step: Step = "p90"


@dataclass(frozen=True, slots=True)
class Valuation:
    """All amounts in the currency, after declared adjustments. `quantiles`: 5 10 25 point 75 90 95 %.

    `bound`: what 90 % of such cars are worth at least; None where the model has no calibration.
    """

    inputs: Inputs
    vector: str
    model: ModelMeta
    pack: PackMeta
    anchor: float
    quantiles: tuple[float, ...]
    bound: float | None
    adjusted: float
    loan: float | None
    forced: ForcedSale | None
    comparables: tuple[Comparable, ...]
    reasons: Reasons
    notes: tuple[str, ...]
    synthetic: bool

    @property
    def point(self) -> float:
        """The value."""
        return self.quantiles[POINT]

    def as_json(self, hashes: Mapping[str, str]) -> dict[str, Any]:
        """For programs. `hashes`: SHA-256 of the files it was made from."""
        bound, cut = self.bound, self.model.calibration
        return {
            "format": 1,
            "synthetic": self.synthetic,
            "market": self.model.market,
            "currency": self.model.currency,
            "as_of": _day(self.inputs.day),
            "value": round(self.point),
            "quantiles": {n: round(v) for n, v in zip(LEVELS, self.quantiles, strict=True)},
            "bound": None if bound is None or cut is None else {
                "value": round(bound), "coverage": cut.coverage,
                "haircut": round(1.0 - bound / self.point, 4),
                "labels": sum(cut.n), "calibrated_on": _day(self.model.calibrated_on),
            },
            "loan": self._loan(),
            "forced_sale": None if self.forced is None else self.forced.as_json(),
            "adjustments": {
                "factor": round(self.adjusted, 4),
                "is": "declared by their sources; no figure of it was learned",
                "of": [
                    {"kind": a.kind, "effect": a.effect, "uncertainty": a.uncertainty, "source": a.source}
                    for a in self.inputs.attestations
                ],
            },
            "electric": self.inputs.electric,
            "comparables": [{**c.as_json(), "day": _day(c.day)} for c in self.comparables],
            "reasons": self.reasons.as_json(self.anchor),
            "notes": list(self.notes),
            "sentence": self.sentence(),
            "pack_week": _day(self.pack.monday),
            "trained_until": _day(self.model.trained_until),
            "hashes": dict(sorted(hashes.items())),
            "input": self.vector,
        }  # fmt: skip

    def _loan(self) -> dict[str, Any] | None:
        if self.loan is None:
            return None
        bound = self.bound
        return {
            "amount": self.loan,
            "ltv": round(self.loan / self.point, 4),
            "ltv_of_bound": None if bound is None else round(self.loan / bound, 4),
            "ltv_of_forced_sale": None if self.forced is None else round(self.loan / self.forced.value, 4),
        }

    def sentence(self) -> str:
        """For people."""
        money, words, q = self.model.currency, self.inputs.words, self.quantiles
        parts = [SYNTHETIC] if self.synthetic else []
        electric = "electric " if self.inputs.electric else ""
        parts.append(
            f"On {_day(self.inputs.day)} this {electric}{words['brand']} {words['series']} is worth "
            f"{q[POINT]:,.0f} {money}; eight in ten like it lie between {q[1]:,.0f} and {q[5]:,.0f}."
        )
        if self.bound is not None and self.model.calibration is not None:
            parts.append(
                f"A lender may count on {self.bound:,.0f}: "
                f"{self.model.calibration.coverage:.0%} of such cars are "
                f"worth at least their bound, a haircut of {1.0 - self.bound / self.point:.1%}."
            )
        loan = self._loan()
        if loan is not None:
            of_bound = "" if self.bound is None else f" and {loan['ltv_of_bound']:.0%} of the bound"
            parts.append(f"A loan of {self.loan:,.0f} is {loan['ltv']:.0%} of the value{of_bound}.")
        if self.forced is not None:
            parts.append(self.forced.sentence(money))
        parts.append(self.reasons.sentence(self.anchor, money))
        if self.comparables:
            share = sum(c.weight for c in self.comparables)
            parts.append(f"It leaned for {share:.0%} on {len(self.comparables)} past sales.")
        for a in self.inputs.attestations:
            parts.append(
                f"Declared by {a.source}, not learned: {a.kind} {a.effect:+.1%}, "
                f"give or take {a.uncertainty:.1%}."
            )
        return " ".join([*parts, *self.notes])


def _day(day: int | None) -> str | None:
    return None if day is None else (EPOCH + dt.timedelta(days=day)).isoformat()


def value(
    inputs: Inputs,
    model: ModelMeta,
    pack: Pack,
    meta: PackMeta,
    infer: Infer,
    options: Options = Options(),
) -> Valuation:
    """The valuation of a vehicle. `inputs` are the decoded coarse ones. Raises Misfit, ValuationError."""
    fits(model, pack, meta, inputs)
    if options.loan is not None and not 0.0 < options.loan < 1e12:
        raise ValuationError("a loan is an amount above 0")
    unknown = sorted(set(inputs.extras) - set(model.extra))
    if unknown:
        raise ValuationError(
            f"this market has no {', '.join(unknown[:5])}; it has {', '.join(model.extra) or 'no x_*'}"
        )
    car = vehicle_table(inputs, meta)
    features = features_of(pair_of(car), pack)
    outputs = infer(features, 0)
    raw = outputs["quantiles"]
    if not np.all(np.isfinite(raw)) or np.any(np.diff(raw) < 0):
        raise ValuationError("the model gave no price for this vehicle; check its figures and their units")
    anchor = float(car.anchor[0])
    effects = [(a.effect, a.uncertainty) for a in inputs.attestations]
    low, mid, high = (math.prod(1.0 + e + side * u for e, u in effects) for side in (-1.0, 0.0, 1.0))
    factor = np.array([low, low, low, mid, high, high, high])
    quantiles = tuple(float(q) for q in np.exp(raw + anchor) * factor)
    bound = bound_of(model, anchor, raw)
    if bound is not None:
        bound = min(bound * math.prod(1.0 + min(e - u, 0.0) for e, u in effects), quantiles[POINT])
    forced = None
    if options.sales is not None and bound is not None:
        forced = forced_sale(options.sales, quantiles[POINT], bound, model.currency, options.step)
    names = {code: word for word, code in meta.columns.words["region"].items()}
    return Valuation(
        inputs=inputs, vector=inputs.encode(), model=model, pack=meta, anchor=anchor, quantiles=quantiles,
        bound=bound, adjusted=mid, loan=options.loan, forced=forced,
        comparables=comparables_of(car, pack, features, outputs["attention"], names),
        reasons=reasons_of(car, pack, features, outputs, infer),
        notes=notes_of(inputs, model, pack, car),
        synthetic=model.synthetic or (options.sales is not None and options.sales.synthetic),
    )  # fmt: skip


def bound_of(model: ModelMeta, anchor: float, quantiles: Floats) -> float | None:
    """The calibrated bound before adjustments; None without a calibration."""
    if model.calibration is None:
        return None
    point, low = quantiles[POINT : POINT + 1], quantiles[1:2]
    found = conformal.bound(model.calibration, np.exp(point + anchor), point, low)
    return math.exp(min(float(found[0]), float(point[0])) + anchor)


def fits(model: ModelMeta, pack: Pack, meta: PackMeta, inputs: Inputs) -> None:
    """Refuse files that do not belong together."""
    if meta.features != model.features:
        raise Misfit(
            "the pack was made for another model (their feature hashes differ); fetch both of one release"
        )
    if (meta.market, meta.currency) != (model.market, model.currency) or meta.columns.anchor != model.anchor:
        raise Misfit(
            f"the pack is of {meta.market} in {meta.currency}, "
            f"the model of {model.market} in {model.currency}; "
            "fetch both of one market"
        )
    if meta.synthetic != model.synthetic:
        raise Misfit("one of model and pack is synthetic, the other is not; fetch both of one release")
    brand, series = inputs.words["brand"], inputs.words["series"]
    if (brand, f"{brand}/{series}") != (meta.brand, meta.series) and (brand, series) != (
        meta.brand,
        meta.series,
    ):
        raise Misfit(
            f"the pack is of {meta.series if '/' in meta.series else f'{meta.brand}/{meta.series}'}, "
            f"the vehicle is a {brand}/{series}; "
            "give the pack of its series (names are written as in the market)"
        )
    if pack.brand < 0 or pack.series < 0:
        raise ValuationError(
            f"no sale of {'this series' if pack.brand >= 0 else 'this brand'} is known to the market: "
            "its value would be a guess"
        )
    week, old = _day(meta.monday), inputs.day - meta.monday
    if old < 0:
        raise Misfit(
            f"the pack is of the week of {week}, after the day of the valuation; give an earlier pack"
        )
    if old > PACK_DAYS:
        raise Misfit(
            f"the pack is {old} days old (week of {week}), at most {PACK_DAYS} are allowed; fetch a new one"
        )
    if model.trained_until > inputs.day:
        raise Misfit(
            f"the model has seen prices of {_day(model.trained_until)}, after the day of the valuation"
        )


def vehicle_table(inputs: Inputs, meta: PackMeta) -> Table:
    """The vehicle in the pack's codes. Raises ValuationError: what the price is divided by is missing."""
    columns = vehicle_columns(meta, None)
    arrays = inputs.arrays()
    for name in columns.extra:
        arrays.setdefault(name, np.array([math.nan]))
    for name in [name for name in arrays if name.startswith("x_") and name not in columns.extra]:
        del arrays[name]
    car = make_table(arrays, columns, 1)
    if not math.isfinite(float(car.anchor[0])):
        raise ValuationError(
            f"this market's prices are set against {columns.anchor}; the vehicle's file lacks it"
        )
    return car


def notes_of(inputs: Inputs, model: ModelMeta, pack: Pack, car: Table) -> tuple[str, ...]:
    """What a reader must know beside the figures."""
    found = []
    if inputs.electric:
        found.append("Electric: its battery's state is not known to the model.")
    count = int((pack.sales.series == pack.series).sum())
    if count < FEW:
        found.append(
            f"Few sales ({count}) of the series are known: the interval is wide and leans on the brand."
        )
    if car.model[0] < 0:
        found.append("No sale of this version is known; it is valued by its series.")
    if inputs.words.get("region") and car.region[0] < 0:
        found.append("The region is not known to the market; it is left out.")
    if inputs.odometer_km is None:
        found.append("The mileage is not known; an average one was assumed.")
    if model.calibration is None:
        found.append("The model has no calibrated bound: nothing should be lent on it.")
    elif model.calibrated_on is not None and inputs.day - model.calibrated_on > CALIBRATION_DAYS:
        found.append(f"The bound was calibrated {inputs.day - model.calibrated_on} days ago.")
    if inputs.day - model.trained_until > MODEL_DAYS:
        found.append(
            f"The model was trained {inputs.day - model.trained_until} days ago; errors grow with its age."
        )
    return tuple(found)
