"""The lower bound for lending: conformal by band, the watch over it, and a crash that it follows and comes
back from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ValuationError
from models.valuation.policy import Policy, Scored, bounds_of, calibrate
from models.valuation.table import Floats, Ints
from models.valuation.watch import Alarm, Finding, Watch, advance, chance, judge, replay, sentence

EDGES = (30_000.0, 100_000.0)


def market(
    days: int, a_day: int, seed: int, shift: Floats | None = None, noise: float = 0.08, spread: float = 0.1
) -> Scored:
    """A market whose true prices lie `shift[day]` (ln) off the points, with normal noise."""
    draw = np.random.default_rng(seed)
    made = np.repeat(np.arange(4, 4 + days), a_day).astype(np.int32)
    point = draw.uniform(math.log(10_000), math.log(300_000), len(made))
    off = np.zeros(days) if shift is None else shift
    y = point + draw.normal(0.0, noise, len(made)) + off[made - 4]
    return Scored(made, (made + 14).astype(np.int32), np.exp(point), point, point - spread, y)


def mondays(scored: Scored) -> list[int]:
    return list(range(4, int(scored.made.max()) + 1, 7))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.3), st.floats(-0.2, 0.2))
def test_a_bound_never_lies_above_its_point_and_holds_on_labels_like_those_it_was_made_of(
    seed: int, noise: float, off: float
) -> None:
    scored = market(60, 60, seed, np.full(60, off), noise)
    policy = Policy(edges=EDGES)
    monday = 4 + 56
    found = calibrate(policy, scored, monday)
    assert found is not None
    bound = bounds_of(found, scored)
    assert np.all(bound <= scored.point)
    fresh = market(60, 60, seed + 1, np.full(60, off), noise)
    kept = float((fresh.y >= bounds_of(found, fresh)).mean())
    assert kept > 0.85
    if off <= 0:  # where the points are not too low, the bound is no lower than the promise needs
        assert kept < 0.95


def test_no_label_is_used_before_its_day() -> None:
    scored = market(80, 40, 3)
    policy, monday = Policy(edges=EDGES), 4 + 63
    late = scored.visible >= monday
    assert late.any()
    y = scored.y.copy()
    y[late] = y[late][::-1] - 5.0
    shuffled = Scored(scored.made, scored.visible, scored.value, scored.point, scored.low, y)
    assert calibrate(policy, scored, monday) == calibrate(policy, shuffled, monday)


def test_too_few_labels_give_no_bound_and_say_so() -> None:
    scored = market(20, 3, 1)
    policy = Policy(edges=EDGES)
    assert calibrate(policy, scored, 24) is None
    reports, bounds = replay(policy, scored, mondays(scored))
    assert np.all(np.isnan(bounds))
    assert "nothing should be lent" in sentence(policy, reports[0])


def test_a_thin_band_leans_on_the_whole_market() -> None:
    scored, policy = market(60, 40, 5), Policy(edges=EDGES)
    dear = np.flatnonzero((policy.band(scored.value) == 2) & (scored.visible < 60))
    y = scored.y.copy()
    y[dear[:3]] -= 2.0
    odd = Scored(scored.made, scored.visible, scored.value, scored.point, scored.low, y)
    few = odd.take(np.setdiff1d(np.arange(len(scored)), dear[3:]).astype(np.int32))
    found = calibrate(policy, few, 60)
    assert found is not None and found.n[2] == 3
    assert found.bands[2] > found.overall - 1.2  # its own three say about -20


@given(st.integers(1, 3000), st.sampled_from([0.05, 0.01, 0.001]))
@settings(max_examples=60, deadline=None)
def test_the_range_of_chance_holds_all_but_its_share(n: int, significance: float) -> None:
    low, high = chance(n, 0.9, significance)
    assert 0 <= low <= high <= n
    logs = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)])
    mass = np.exp(logs + np.arange(n + 1) * math.log(0.9) + (n - np.arange(n + 1)) * math.log(0.1))
    assert mass[:low].sum() <= significance / 2 + 1e-9
    assert mass[high + 1 :].sum() <= significance / 2 + 1e-9
    assert mass[: low + 1].sum() > significance / 2 - 1e-9  # one more would be too many
    assert mass[high:].sum() > significance / 2 - 1e-9


def test_the_range_of_chance_is_that_of_the_tables() -> None:
    assert chance(300, 0.9, 0.05) == (259, 280)  # +-3.4 points at n 300


@pytest.mark.parametrize(
    ("kept", "n", "finding"),
    [
        (70, 79, Finding.TOO_FEW),
        (90, 100, Finding.HOLDS),
        (75, 100, Finding.TOO_LOW),
        (100, 100, Finding.TOO_CONSERVATIVE),
    ],
)
def test_a_count_is_judged_in_both_directions(kept: int, n: int, finding: Finding) -> None:
    assert judge(Policy(), np.arange(n) < kept, 0.01).finding is finding


def test_one_odd_week_raises_nothing_and_one_good_week_clears_nothing() -> None:
    policy, alarm = Policy(), Alarm()
    for found in (Finding.TOO_LOW, Finding.HOLDS, Finding.TOO_LOW, Finding.TOO_CONSERVATIVE, Finding.TOO_LOW):
        alarm = advance(policy, alarm, found, 11)
        assert alarm.finding is Finding.HOLDS
    alarm = advance(policy, alarm, Finding.TOO_FEW, 18)  # an empty week breaks no row
    alarm = advance(policy, alarm, Finding.TOO_LOW, 25)
    assert alarm.finding is Finding.TOO_LOW and alarm.since == 25
    alarm = advance(policy, alarm, Finding.HOLDS, 32)
    alarm = advance(policy, alarm, Finding.TOO_LOW, 39)
    alarm = advance(policy, alarm, Finding.HOLDS, 46)
    assert alarm.finding is Finding.TOO_LOW
    alarm = advance(policy, alarm, Finding.HOLDS, 53)
    assert alarm.finding is Finding.HOLDS and alarm.since is None


@given(st.lists(st.sampled_from(list(Finding)), max_size=40))
def test_a_notice_needs_two_weeks_in_a_row(found: list[Finding]) -> None:
    policy, alarm, judged = Policy(), Alarm(), []
    for week, finding in enumerate(found):
        if finding is not Finding.TOO_FEW:
            judged.append(finding)
        after = advance(policy, alarm, finding, week)
        if after.finding is not alarm.finding:
            assert judged[-2:] == [after.finding, after.finding]
        alarm = after


def test_a_crash_is_noticed_followed_and_left_behind() -> None:
    days = 70 * 7
    crash, mended = 25 * 7, 35 * 7  # prices fall by 30 %; ten weeks later the network is refitted
    shift = np.zeros(days)
    shift[crash:mended] = math.log(0.7)
    scored = market(days, 60, 11, shift)
    policy = Policy(edges=EDGES)
    reports, bounds = replay(policy, scored, mondays(scored))
    haircut = {r.monday: r.haircut for r in reports}

    def mean(first: int, last: int) -> float:
        return float(np.mean([haircut[4 + 7 * w] for w in range(first, last)]))

    kept = scored.y >= bounds

    def coverage(first: int, last: int) -> float:
        rows = (scored.made >= 4 + 7 * first) & (scored.made < 4 + 7 * last)
        return float(kept[rows].mean())

    calm = mean(14, 25)
    assert 0.88 < coverage(14, 25) < 0.92
    assert 0.08 < calm < 0.12  # the smallest that holds: 1.28 standard deviations of 8 %
    assert coverage(25, 27) < 0.2  # no label has told yet
    assert mean(30, 35) > calm + 0.2 and coverage(30, 35) > 0.85
    assert mean(58, 70) < calm + 0.02 and 0.87 < coverage(58, 70) < 0.93
    changes = [(n.monday // 7, n.change, n.finding) for r in reports for n in r.notices if "whole" in n.band]
    raised = {finding: week for week, change, finding in reversed(changes) if change == "raised"}
    assert 27 <= raised[Finding.TOO_LOW] <= 31
    assert raised[Finding.TOO_CONSERVATIVE] >= 35
    assert reports[-1].raised == ()
    assert not [n for r in reports if r.monday < 4 + 7 * 25 for n in r.notices if "whole" in n.band]


def test_the_watch_says_what_it_found_and_takes_weeks_in_order() -> None:
    scored = market(30 * 7, 60, 2)
    off = Scored(
        scored.made,
        scored.visible,
        scored.value,
        scored.point,
        scored.low,
        scored.y - 0.4 * (scored.made > 150),
    )
    policy = Policy(edges=EDGES)
    reports, _ = replay(policy, off, mondays(off))
    notice = next(n for r in reports for n in r.notices if "whole" in n.band)
    assert "too low" in notice.sentence(policy) and "lend less" in notice.sentence(policy)
    assert notice.as_json()["finding"] == "too low"
    text = sentence(policy, next(r for r in reports if r.notices))
    assert "Notices" in text and "whole market" in text
    watch = Watch(policy)
    watch.week(11, off, off.take(np.zeros(0, np.int32)))
    with pytest.raises(ValuationError, match="order of time"):
        watch.week(4, off, off.take(np.zeros(0, np.int32)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Policy(coverage=0.999),
        lambda: Policy(edges=(3.0, 3.0)),
        lambda: Policy(edges=(-1.0,)),
        lambda: Policy(significance=0.7),
        lambda: Policy(least=0),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(make: object) -> None:
    with pytest.raises(ValuationError):
        make()  # type: ignore[operator]


def test_columns_of_unequal_length_are_refused() -> None:
    one: Ints = np.zeros(1, np.int32)
    with pytest.raises(ValuationError, match="one length"):
        Scored(one, one, np.zeros(2), np.zeros(1), np.zeros(1), np.zeros(1))


def test_bands_have_names() -> None:
    policy = Policy(edges=EDGES)
    assert [policy.band_name(b) for b in range(3)] == [
        "below 30,000",
        "30,000 to 100,000",
        "100,000 and more",
    ]
    assert list(policy.band(np.array([29_999.0, 30_000.0, 500_000.0]))) == [0, 1, 2]
    assert Policy().band_name(0) == "all prices"
