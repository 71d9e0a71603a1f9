from __future__ import annotations

from firmware_bridge.reading import Power, PowerState
from models.limits import Limits
from models.supply import Supply

S = 1_000_000_000


def report(t_s: int, volts: float, *, opened: bool = False, next_s: int = 60) -> Power:
    return Power(t_s * S, "board", volts, PowerState.PARKED_WATCH, opened, next_s)


def test_a_cut_needs_a_supply_before_it() -> None:
    supply = Supply(Limits())
    supply.take(report(1, 0.0))
    assert supply.cut_ns is None
    supply.take(report(2, 12.5))
    supply.take(report(3, 0.0))
    supply.take(report(4, 0.1))
    assert supply.cut_ns == 3 * S
    supply.take(report(5, 12.5))
    assert supply.cut_ns is None


def test_the_case_counts_reports_in_a_row() -> None:
    supply = Supply(Limits())
    supply.take(report(1, 12.5, opened=True))
    supply.take(report(2, 12.5, opened=True))
    assert (supply.case_open_ns, supply.case_reports) == (S, 2)
    supply.take(report(3, 12.5))
    assert (supply.case_open_ns, supply.case_reports) == (None, 0)
    assert supply.sound_since_ns == 3 * S


def test_the_engine_and_the_age_of_what_is_known() -> None:
    supply = Supply(Limits())
    assert not supply.fresh(0) and not supply.engine_since(0)
    supply.take(report(10, 14.1))
    supply.take(report(20, 12.6))
    assert supply.engine_since(10 * S) and not supply.engine_since(11 * S)
    assert supply.fresh(199 * S) and not supply.fresh(201 * S)


def test_an_announced_pause_is_never_negative() -> None:
    supply = Supply(Limits())
    supply.take(report(1, 12.0, next_s=-7))
    assert supply.next_report_s == 0
