from __future__ import annotations

from firmware_bridge.reading import SkyView
from models.limits import Limits
from models.sky import Sky

S = 1_000_000_000


def view(t_s: float, heard: int, snr: float | None, *, in_view: int = 12, jam: bool | None = None) -> SkyView:
    return SkyView(round(t_s * S), "gnss", in_view, heard, snr, jam)


def test_void_counts_from_the_first_void_after_a_fix() -> None:
    sky = Sky(Limits())
    sky.unfixed(1 * S)
    assert sky.void_since_ns is None
    sky.fixed(2 * S)
    sky.unfixed(3 * S)
    sky.unfixed(9 * S)
    assert sky.void_since_ns == 3 * S
    sky.fixed(10 * S)
    assert sky.void_since_ns is None and sky.fixed_since_ns == 10 * S


def test_a_receiver_that_slept_begins_anew() -> None:
    sky = Sky(Limits())
    sky.fixed(0)
    sky.unfixed(1 * S)
    sky.unfixed(1000 * S)
    assert sky.void_since_ns == 1000 * S
    assert sky.speaking(1050 * S) and not sky.speaking(1200 * S)


def test_at_one_blow_or_fading() -> None:
    sky = Sky(Limits())
    sky.view(view(0, 10, 44))
    sky.view(view(1, 0, None))
    assert sky.dead_since_ns == S and sky.sudden
    sky.view(view(2, 10, 44))
    assert sky.dead_since_ns is None
    sky.view(view(3, 6, 28))
    sky.view(view(5, 3, 24))
    sky.view(view(6, 1, 15))
    assert sky.dead_since_ns == 6 * S and not sky.sudden


def test_dead_from_the_start_or_with_few_in_view_means_nothing() -> None:
    sky = Sky(Limits())
    sky.view(view(0, 0, None))
    assert sky.dead_since_ns is None
    sky.view(view(1, 10, 44))
    sky.view(view(2, 0, None, in_view=3))
    assert sky.dead_since_ns is None


def test_the_indicator_lasts_as_long_as_it_is_said() -> None:
    sky = Sky(Limits())
    sky.view(view(1, 5, 30, jam=True))
    sky.view(view(2, 5, 30, jam=True))
    assert sky.flag_since_ns == S
    sky.view(view(3, 5, 30))
    assert sky.flag_since_ns is None
