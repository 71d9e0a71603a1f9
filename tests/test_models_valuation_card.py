"""The model card: complete or not at all, and honest about parts that add nothing."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from models.errors import ValuationError
from models.runtime.card_write import write_card
from models.valuation.card import PARTS, REQUIRED, card, markdown

WHOLE = {"n": 3000, "mape": 7.9, "median_ape": 5.5, "within_8": 66.0, "within_22": 95.0, "wape": 7.1}


def given(**other: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "model": {
            "sha256": "ab" * 32, "market": "small", "currency": "XTS", "synthetic": True, "seeds": 3,
            "seed": 1,
            "weights": 110_000, "bytes": 690_000, "trained_until": "2025-06-01",
        },
        "data": {
            "sales": 32_000, "cars": 30_000, "first": "2023-01-01", "last": "2025-06-30",
            "files": ["syn.csv"],
            "dropped": 12, "label_lag_days": 14, "label_filter": "0.02 < price / list price < 2.5",
        },
        "splits": {
            "fit": "to 2025-02-28", "calibrate": "to 2025-04-30",
            "test": "to 2025-06-30", "first_seen_only": True,
        },
        "metrics": dict(WHOLE),
        "ablation": {
            "lstm": {**WHOLE, "mape": 7.93}, "regions": {**WHOLE, "mape": 7.85},
            "comparables": {**WHOLE, "mape": 8.6}, "market": {**WHOLE, "mape": 8.05},
            "head": {**WHOLE, "mape": 7.6},
        },
        "calibration": {
            "coverage": 89.7, "low": 88.6, "high": 91.3, "haircut": 13.1, "labels": 900, "window_days": 56,
        },
        "peers": {"LightGBM": {**WHOLE, "mape": 8.44}, "straight line": {"n": 3000, "mape": 43.0}},
    }  # fmt: skip
    return {**found, **other}


def test_a_card_says_what_each_part_adds_also_where_it_adds_nothing() -> None:
    parts = card(given())["ablation"]
    assert parts["comparables"]["adds"] == pytest.approx(0.7) and parts["comparables"]["verdict"] == "helps"
    assert "adds nothing" in parts["lstm"]["verdict"] and "adds nothing" in parts["regions"]["verdict"]
    assert parts["head"]["verdict"] == "costs accuracy"
    assert "| LSTM over weekly market sequences | 7.93 | +0.03 | adds nothing" in markdown(card(given()))


def test_a_card_names_its_peers_its_bound_and_who_should_not_use_it() -> None:
    text = markdown(card(given()))
    assert "| LightGBM | 3,000 | 8.44 |" in text and "| straight line | 3,000 | 43.00 | - |" in text
    assert "89.7 % of the test cars" in text and "## Who should not use it" in text
    assert "14 days after it was posted" in text and "- syn.csv" in text


def test_synthetic_stands_on_top_and_only_where_it_is_so() -> None:
    assert markdown(card(given())).splitlines()[2].startswith("**SYNTHETIC")
    real = given(model={**given()["model"], "synthetic": False})
    assert "SYNTHETIC" not in markdown(card(real)) and card(real)["synthetic"] is False


@pytest.mark.parametrize("section", [*REQUIRED, "peers"])
def test_without_a_section_there_is_no_card(section: str) -> None:
    found = given()
    del found[section]
    with pytest.raises(ValuationError, match=f"no model card without {section}"):
        card(found)


@pytest.mark.parametrize("part", PARTS)
def test_without_the_ablation_of_every_part_nothing_is_written(part: str, tmp_path: Path) -> None:
    found = copy.deepcopy(given())
    del found["ablation"][part]
    with pytest.raises(ValuationError, match=rf"ablation\.{part}"):
        write_card(tmp_path, found)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [{"mape": float("nan")}, {"mape": -1.0}, {"within_8": 97.0}, {"within_22": 101.0}, {"mape": True}],
)
def test_metrics_that_no_run_measured_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValuationError, match="run the evaluation again"):
        card(given(metrics={**WHOLE, **change}))


def test_both_files_are_written_and_say_the_same(tmp_path: Path) -> None:
    made = write_card(tmp_path, given())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["card.json", "card.md"]
    assert json.loads((tmp_path / "card.json").read_text()) == made
    assert (tmp_path / "card.md").read_text() == markdown(made)
