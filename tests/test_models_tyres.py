from __future__ import annotations

from firmware_bridge.reading import Tyre, Wheel
from models.limits import Limits
from models.tyres import TyreWatch

IDS = {wheel: f"0000000{int(wheel) + 1}" for wheel in Wheel}


def say(t: int, number: int, *, rolling: bool | None = False, degc: float = 10.0, kpa: float = 220.0) -> Tyre:
    return Tyre(t, "board", f"0000000{number}", kpa, degc, rolling)


def test_strangers_are_ignored() -> None:
    watch = TyreWatch(Limits(), IDS)
    assert not watch.take(say(1, 9, rolling=True))
    assert watch.rolling_ns is None and watch.heard_ns is None and not watch.judgeable()


def test_two_known_sensors_can_be_judged_one_of_one_too() -> None:
    watch = TyreWatch(Limits(), IDS)
    watch.take(say(1, 1))
    assert not watch.judgeable()
    watch.take(say(2, 2))
    assert watch.judgeable() and watch.known() == 2 and len(watch) == 4
    single = TyreWatch(Limits(), {Wheel.FRONT_LEFT: "00000001"})
    single.take(say(1, 1))
    assert single.judgeable()
    assert not TyreWatch(Limits(), {}).judgeable()


def test_standing_counts_after_a_moment_and_for_proven_switches() -> None:
    watch = TyreWatch(Limits(), IDS)
    watch.take(say(1, 1, rolling=True))
    for number in (1, 2, 3):
        watch.take(say(10, number, rolling=False if number < 3 else None))
    assert watch.still_since(5, proven=False) == 2
    assert watch.still_since(5, proven=True) == 1
    assert watch.still_since(10, proven=False) == 0


def test_warming_is_seen_against_the_start_of_the_movement() -> None:
    watch = TyreWatch(Limits(), IDS)
    watch.take(say(1, 1, degc=10))
    watch.take(say(2, 1, degc=25))
    assert not watch.warmed
    watch.mark()
    watch.take(say(3, 1, degc=28))
    watch.take(say(3, 2, degc=60))
    assert not watch.warmed
    watch.take(say(4, 1, degc=29.5))
    assert watch.warmed
    watch.forget_mark()
    assert not watch.warmed


def test_pressure_alone_shows_it_too() -> None:
    watch = TyreWatch(Limits(), IDS)
    watch.take(say(1, 1))
    watch.mark()
    watch.take(say(2, 1, kpa=227.0))
    assert watch.warmed
