"""The model card: what a model was made of, how good it is, what each part adds, and who should not use it.

It is written by the run that made the model, from what that run measured. Nothing of it can be left out:
without one of its inputs there is no card. Figures are given as they were measured, also where a part adds
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from models.errors import ValuationError

PARTS: Final = ("lstm", "regions", "comparables", "market", "head")
"""Parts whose ablation must be given."""
NAMES: Final = {
    "lstm": "LSTM over weekly market sequences", "regions": "attention over regions",
    "comparables": "attention over comparable sales", "market": "market means and indexes",
    "head": "depreciation head, linear in brand x mileage",
}  # fmt: skip
METRICS: Final = ("n", "mape", "median_ape", "within_8", "within_22", "wape")
NOISE: Final = 0.1
"""Points of MAPE by which two seeds of the same network differ: less is no effect."""

LIMITS: Final = (
    "A price is what was asked or hammered in the data; a forced sale brings less, and no data holds one.",
    "Nothing is known of a car's accidents, care or battery beyond what the vehicle's file declares.",
    "A crash of prices is followed only as its labels become visible: two weeks and more.",
    "Thin series lean on their brand; brands and series without a sale are refused.",
)
NOT_FOR: Final = (
    "anybody who sells or buys one certain car: half of the cars lie further off than the median error",
    "lending without the lower bound, or on a model without a calibration",
    "another market, currency or kind of sale than the one named above",
    "collectors' cars, cars older than 30 years, commercial vehicles, damaged cars",
    "decisions about people: it knows cars alone",
)

REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {
    "model": (
        "sha256",
        "market",
        "currency",
        "synthetic",
        "seeds",
        "seed",
        "weights",
        "bytes",
        "trained_until",
    ),
    "data": ("sales", "cars", "first", "last", "files", "dropped", "label_lag_days", "label_filter"),
    "splits": ("fit", "calibrate", "test", "first_seen_only"),
    "metrics": METRICS,
    "ablation": PARTS,
    "calibration": ("coverage", "low", "high", "haircut", "labels", "window_days"),
}  # fmt: skip


def card(given: Mapping[str, Any]) -> dict[str, Any]:
    """The card as JSON, checked. `given`: the sections of `REQUIRED`, and `peers`: metrics of other methods
    by name.

    `ablation`: for each part the metrics without it. Raises ValuationError naming everything that is missing.
    """
    missing = []
    for section, names in REQUIRED.items():
        found = given.get(section)
        if not isinstance(found, Mapping):
            missing.append(section)
            continue
        missing += [f"{section}.{name}" for name in names if found.get(name) is None]
    peers = given.get("peers")
    if not isinstance(peers, Mapping) or not peers:
        missing.append("peers")
    if missing:
        raise ValuationError(
            f"no model card without {', '.join(missing)}: run the evaluation that measures it"
        )
    _plausible(given["metrics"], "metrics")
    for name in PARTS:
        _plausible({**given["metrics"], **given["ablation"][name]}, f"ablation.{name}")
    whole = float(given["metrics"]["mape"])
    parts = {name: _part(name, given["ablation"][name], whole) for name in PARTS}
    sections = {name: dict(given[name]) for name in REQUIRED if name != "ablation"}
    return {
        "format": 1, "synthetic": bool(given["model"]["synthetic"]), **sections, "ablation": parts,
        "peers": {name: dict(value) for name, value in given["peers"].items()},
        "limits": list(LIMITS), "not_for": list(NOT_FOR),
    }  # fmt: skip


def _part(name: str, without: Mapping[str, Any], whole: float) -> dict[str, Any]:
    """What a part adds. `mape_with`: where the model goes without it, the error with it."""
    adds = float(without["mape"]) - float(without.get("mape_with", whole))
    return {
        "is": NAMES[name],
        "in_the_model": "mape_with" not in without,
        "mape_without": without["mape"],
        "adds": round(adds, 3),
        "verdict": _verdict(adds),
    }


def _plausible(metrics: Mapping[str, Any], where: str) -> None:
    """Refuse metrics that no run can have measured: gaps, negative errors, shares over 100 %."""
    for name in ("mape", "median_ape", "within_8", "within_22"):
        value = metrics[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1000.0:
            raise ValuationError(f"{where}.{name} of {value!r} was not measured; run the evaluation again")
    if metrics["within_8"] > metrics["within_22"] or metrics["within_22"] > 100.0:
        raise ValuationError(f"{where}: more cars within 8 % than within 22 %; run the evaluation again")


def _verdict(adds: float) -> str:
    if abs(adds) < NOISE:
        return "adds nothing that seeds do not hide"
    return "helps" if adds > 0 else "costs accuracy"


def markdown(made: Mapping[str, Any]) -> str:
    """The card for people."""
    model, data, splits, cut = made["model"], made["data"], made["splits"], made["calibration"]
    seen = "first-seen cars alone" if splits["first_seen_only"] else "every listing"
    found = [f"# Model card: {model['market']} ({model['currency']})"]
    if made["synthetic"]:
        found.append("**SYNTHETIC: trained on an invented market. It prices no real car.**")
    found += [
        (
            f"Model `{model['sha256']}`, {model['seeds']} seeds from {model['seed']}, "
            f"{model['weights']:,} weights, "
            f"{model['bytes']:,} bytes, trained on prices until {model['trained_until']}."
        ),
        "## Data",
        (
            f"{data['sales']:,} sales of {data['cars']:,} cars, {data['first']} to {data['last']}; "
            f"{data['dropped']:,} rows dropped. Label filter: {data['label_filter']}. "
            f"A price is learned from {data['label_lag_days']} days after it was posted."
        ),
        _list(data["files"]),
        "## Splits",
        f"Fit: {splits['fit']}. Calibration: {splits['calibrate']}. Test: {splits['test']}, {seen}.",
        "## Errors",
        _table({"this model": made["metrics"], **made["peers"]}),
        "## What each part adds",
        (
            "Error without the part less error of the whole (points of MAPE); above 0 the part helps. "
            f"Differences under {NOISE} are those of seeds."
        ),
        "\n".join(
            [
                "| part | MAPE without | adds | |",
                "|---|---|---|---|",
                *(
                    f"| {part['is']} | {part['mape_without']:.2f} | {part['adds']:+.2f} | {part['verdict']} |"
                    for part in made["ablation"].values()
                ),
            ]
        ),
        "## The bound for lending",
        (
            f"{cut['coverage']:.1f} % of the test cars were worth at least their bound (chance allows "
            f"{cut['low']:.1f} to {cut['high']:.1f}); mean haircut {cut['haircut']:.1f} %; "
            f"{cut['labels']:,} labels of the last {cut['window_days']} days."
        ),
        "## Limits",
        _list(made["limits"]),
        "## Who should not use it",
        _list(made["not_for"]),
    ]
    return "\n\n".join(found) + "\n"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    head = [
        "| | n | MAPE % | median % | within 8 % | within 22 % | WAPE % |",
        "|---|---|---|---|---|---|---|",
    ]
    found = []
    for name, row in rows.items():
        cells = [_cell(row.get(metric)) for metric in METRICS]
        found.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(head + found)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"
