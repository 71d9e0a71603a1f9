from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from models.errors import ConfigError
from models.limits import Limits


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_every_limit_refuses_what_cannot_be_meant(name: str, value: float) -> None:
    changes: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match=name):
        replace(Limits(), **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"still_mps": 2.0},
        {"tilt_deg": 9.0},
        {"tow_m": 300.0},
        {"cut_v": 14.0},
        {"snr_dead_dbhz": 40.0},
        {"shift_m": 31.0},
        {"case_hold_s": 61.0},
        {"watch_step_s": 130.0},
        {"path_share": 1.1},
        {"busy_share": 1.1},
    ],
)
def test_limits_that_contradict_each_other_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        replace(Limits(), **changes)
