"""NMEA receivers: what is a fix, what is none, and what may not be believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import reduce
from operator import xor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.reading import FixQuality, Position, PositionVoid, Reading, Refusal, SkyView, VoidReason
from firmware_bridge.sensors.nmea import NmeaDecoder
from firmware_bridge.timekeeper import YEAR_NS, Now
from firmware_bridge.wire.stamp import NS

LAT, LON = 48.1314, 11.5497
PLACE = "4807.88400,N,01132.98200,E"
FREE = Now(1_000, 0, False, 0)


def utc(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000) * 1_000_000


def line(body: str, end: str = "\r\n") -> bytes:
    return f"${body}*{reduce(xor, body.encode(), 0):02X}{end}".encode()


def rmc(
    time: str = "120010.00",
    status: str = "A",
    place: str = PLACE,
    motion: str = "0.05,",
    date: str = "201126",
    tail: str = ",,,A",
    talker: str = "GN",
) -> bytes:
    return line(f"{talker}RMC,{time},{status},{place},{motion},{date}{tail}")


def gga(time: str = "120010.00", quality: str = "1", place: str = PLACE, talker: str = "GN") -> bytes:
    return line(f"{talker}GGA,{time},{place},{quality},09,0.95,520.0,M,47.0,M,,")


def decode(data: bytes, now: Now = FREE) -> tuple[list[Reading], Counter[str]]:
    items = NmeaDecoder("gnss").feed(data, now)
    readings = [item for item in items if not isinstance(item, Refusal)]
    return readings, Counter(item.reason for item in items if isinstance(item, Refusal))


def fixes(data: bytes, now: Now = FREE) -> list[Position]:
    return [item for item in decode(data, now)[0] if isinstance(item, Position)]


def voids(data: bytes) -> list[VoidReason]:
    return [item.reason for item in decode(data)[0] if isinstance(item, PositionVoid)]


# ---- what decides -------------------------------------------------------------------------------


def test_f01_status_field_alone_decides(shared_data: Callable[[str], Path]) -> None:
    readings, refused = decode(shared_data("field/F01.nmea").read_bytes())
    positions = [item for item in readings if isinstance(item, Position)]
    assert not refused
    assert [item.utc_ns for item in positions] == [
        utc(f"2026-11-20T20:07:{second}+00:00") for second in ("28.5", "29.5", "30", "31.5", "32")
    ]
    for item in positions:
        assert (item.lat_deg, item.lon_deg) == pytest.approx((LAT, LON), abs=1e-6)
    assert [item.quality for item in positions[:2]] == [FixQuality.AUTONOMOUS, FixQuality.DIFFERENTIAL]
    assert sum(isinstance(item, PositionVoid) for item in readings) == 1


@pytest.mark.parametrize("nav_status", ["V", "C", "S", "U", ""])
def test_navigational_status_is_never_the_fix_status(nav_status: str) -> None:
    assert len(fixes(rmc(tail=f",,,A,{nav_status}"))) == 1


@pytest.mark.parametrize("talker", ["GP", "GN", "GL", "GA", "GB", "BD", "QZ", "GI", "GQ", "YD", "II", "IN"])
def test_every_talker(talker: str) -> None:
    assert len(fixes(rmc(talker=talker))) == 1


@pytest.mark.parametrize("tail", ["", ",003.3", ",003.3,E", ",003.3,E,A", ",,,A,V"])
def test_forms_of_every_edition(tail: str) -> None:
    assert len(fixes(rmc(tail=tail))) == 1


@pytest.mark.parametrize("mode", ["N", "M", "S"])
def test_valid_status_with_a_void_mode_is_void(mode: str) -> None:
    assert voids(rmc(tail=f",,,{mode}")) == [VoidReason.MODE]


def test_void_status_with_a_place_is_no_position() -> None:
    assert voids(rmc(status="V")) == [VoidReason.STATUS]
    assert fixes(rmc(status="V")) == []


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_rmc_wins_over_a_gga_that_claims_a_fix(order: tuple[int, int]) -> None:
    first = rmc("120009.00") + gga("120009.00")
    pair = (rmc(status="V"), gga(quality="1"))
    readings, _ = decode(first + pair[order[0]] + pair[order[1]])
    assert [type(item) for item in readings] == [Position, PositionVoid]


def test_unknown_status_is_refused() -> None:
    readings, refused = decode(rmc(status="X"))
    assert readings == []
    assert refused == {"bad_status": 1}


MODES = [
    (",,,A", FixQuality.AUTONOMOUS),
    (",,,D", FixQuality.DIFFERENTIAL),
    (",,,P", FixQuality.PRECISE),
    (",,,R", FixQuality.RTK_FIXED),
    (",,,F", FixQuality.RTK_FLOAT),
    (",,,E", FixQuality.ESTIMATED),
    (",,", FixQuality.AUTONOMOUS),
]


@pytest.mark.parametrize(("tail", "quality"), MODES)
def test_mode_indicator(tail: str, quality: FixQuality) -> None:
    (position,) = fixes(rmc(tail=tail))
    assert position.quality is quality
    assert position.estimated is (quality is FixQuality.ESTIMATED)


@pytest.mark.parametrize("tail", [",,,A", ",,", ",,,D"])
def test_gga_quality_six_marks_the_epoch_as_estimated(tail: str) -> None:
    (position,) = fixes(gga(quality="6") + rmc(tail=tail))
    assert position.estimated


def test_gga_of_another_epoch_marks_nothing() -> None:
    positions = fixes(rmc("120008.00") + gga("120009.00", quality="6") + rmc("120010.00"))
    assert [item.estimated for item in positions] == [False, False]


def test_gga_refines_what_an_old_rmc_does_not_say() -> None:
    assert fixes(gga(quality="2") + rmc(tail=",,"))[0].quality is FixQuality.DIFFERENTIAL
    assert fixes(gga(quality="4") + rmc(tail=",,,D"))[0].quality is FixQuality.RTK_FIXED


@pytest.mark.parametrize("quality", ["7", "8"])
def test_manual_and_simulated_positions_are_void(quality: str) -> None:
    assert voids(gga(quality=quality) + rmc()) == [VoidReason.MODE]
    alone = gga("120010.00", quality=quality) + gga("120011.00", quality=quality)
    assert voids(alone) == [VoidReason.MODE] * 2


# ---- one position an epoch ----------------------------------------------------------------------


def test_gga_before_and_after_rmc_gives_one_position() -> None:
    before = b"".join(gga(f"1200{n}.00") + rmc(f"1200{n}.00") for n in range(10, 20))
    after = b"".join(rmc(f"1200{n}.00") + gga(f"1200{n}.00") for n in range(10, 20))
    assert len(fixes(before)) == 10
    assert len(fixes(after)) == 10


def test_receiver_without_rmc_gives_one_position_an_epoch() -> None:
    gll = [line(f"GNGLL,{PLACE},1200{n}.00,A,A") for n in range(10, 20)]
    both = b"".join(gga(f"1200{n}.00") + gll[n - 10] for n in range(10, 20))
    assert len(fixes(both)) == 10
    assert len(fixes(b"".join(gll))) == 10
    assert len(fixes(b"".join(gga(f"1200{n}.00") for n in range(10, 20)))) == 10


def test_very_first_gga_is_held_until_the_kind_of_receiver_is_known() -> None:
    decoder = NmeaDecoder("gnss")
    assert decoder.feed(gga("120010.00"), FREE) == []
    later = Now(2_000, 0, False, 0)
    items = decoder.feed(gga("120011.00"), later)
    assert [item.t_ns for item in items] == [1_000, 2_000]
    assert len(decoder.feed(gga("120012.00"), later)) == 1


def test_rmc_that_appears_late_takes_over_without_doubling() -> None:
    data = gga("120010.00") + gga("120011.00") + rmc("120011.00") + gga("120012.00") + rmc("120012.00")
    assert len(fixes(data)) == 3


def test_rmc_that_disappears_lets_gga_take_over() -> None:
    data = rmc("120000.00") + b"".join(gga(f"1200{n:02}.00") for n in range(1, 30))
    positions = fixes(data)
    assert len(positions) == 1 + 19  # after ten seconds without RMC, each epoch of GGA
    times = [item.utc_ns for item in positions]
    assert len(set(times)) == len(times)


def test_several_talkers_in_one_epoch_are_one_position() -> None:
    data = b"".join(rmc(f"1200{n}.00", talker=t) for n in range(10, 20) for t in ("GP", "GL", "GN"))
    assert len(fixes(data)) == 10


def test_no_fix_without_rmc_is_void() -> None:
    empty = b"".join(gga(f"1200{n}.00", quality="0", place=",,,") for n in range(10, 13))
    assert voids(empty) == [VoidReason.STATUS] * 3
    timeless = line("GPGGA,,,,,,0,00,99.99,,,,,,") * 3
    assert voids(timeless) == [VoidReason.STATUS] * 3


@pytest.mark.parametrize(
    ("tail", "expected"), [(",A,N", "mode"), (",V,N", "status"), (",A,M", "mode"), (",V", "status")]
)
def test_gll_says_when_it_is_void(tail: str, expected: str) -> None:
    data = b"".join(line(f"GPGLL,{PLACE},1200{n}.00{tail}") for n in (10, 11))
    assert voids(data) == [VoidReason(expected)] * 2


def test_estimated_gll_is_marked() -> None:
    positions = fixes(b"".join(line(f"GPGLL,{PLACE},1200{n}.00,A,E") for n in (10, 11)))
    assert [item.estimated for item in positions] == [True, True]


def test_unknown_gga_quality_is_refused() -> None:
    readings, refused = decode(gga("120010.00", "9") + gga("120011.00", "X"))
    assert readings == []
    assert refused == {"bad_quality": 2}


# ---- places -------------------------------------------------------------------------------------


def test_f09_right_place_or_counted_refusal(shared_data: Callable[[str], Path]) -> None:
    lines = shared_data("field/F09.nmea").read_bytes().splitlines(keepends=True)
    outcome: list[tuple[float, float] | str] = []
    for sentence in lines:
        readings, refused = decode(sentence)
        places = [(i.lat_deg, i.lon_deg) for i in readings if isinstance(i, Position)]
        assert len(places) <= 1
        outcome.append(places[0] if places else " ".join(sorted(refused)))
    right = pytest.approx((LAT, LON), abs=1e-6)
    assert outcome[0] == right  # unpadded longitude, decoded by the digits left of the point
    assert outcome[1] == "minutes_out_of_range"
    assert outcome[2] == "minutes_out_of_range"
    assert outcome[3] == pytest.approx((LAT, 180.0), abs=1e-6)
    assert outcome[4] == "longitude_out_of_range"
    assert outcome[5] == pytest.approx((90.0, LON), abs=1e-6)
    assert outcome[6] == "latitude_out_of_range"
    assert outcome[7] == "hemisphere_missing"
    assert outcome[8] == "hemisphere_unknown"
    assert outcome[9] == "coordinate_signed"
    assert isinstance(outcome[10], str)
    assert "hemisphere_unknown" in outcome[10]
    assert outcome[11] == right


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("4807.8840,N,,E", "coordinate_missing"),
        (",N,01132.9820,E", "coordinate_missing"),
        ("48O7.8840,N,01132.9820,E", "coordinate_malformed"),
        ("nan,N,01132.9820,E", "coordinate_malformed"),
        ("4807.8840,N,1e3,E", "coordinate_malformed"),
        ("4807.88.40,N,01132.9820,E", "coordinate_malformed"),
        ("07.8840,N,01132.9820,E", "coordinate_malformed"),
        ("480007.8840,N,01132.9820,E", "coordinate_malformed"),
        (" 4807.884,N,01132.9820,E", "coordinate_malformed"),
        ("4_07.8840,N,01132.9820,E", "coordinate_malformed"),
        (".,N,01132.9820,E", "coordinate_malformed"),
        ("+4807.8840,N,01132.9820,E", "coordinate_signed"),
        ("4807.8840,N,-01132.9820,E", "coordinate_signed"),
        ("4807.8840,n,01132.9820,E", "hemisphere_unknown"),
        ("4807.8840,N,01132.9820,", "hemisphere_missing"),
        ("4807.8840,E,01132.9820,N", "hemisphere_unknown"),
        ("4799.9999,N,01132.9820,E", "minutes_out_of_range"),
        ("9100.0000,N,01132.9820,E", "latitude_out_of_range"),
        ("4807.8840,S,18100.0000,W", "longitude_out_of_range"),
        ("0000.0000,N,00000.0000,E", "null_island"),
    ],
)
def test_wrong_places_are_refused_by_name(place: str, reason: str) -> None:
    readings, refused = decode(rmc(place=place))
    assert readings == []
    assert refused == {reason: 1}
    alone = decode(gga("120010.00", place=place) + gga("120011.00", place=place))
    assert alone == ([], Counter({reason: 2}))


@pytest.mark.parametrize(
    ("place", "lat", "lon"),
    [
        ("4807.88400,S,01132.98200,W", -LAT, -LON),
        ("4807,N,01132,E", 48 + 7 / 60, 11 + 32 / 60),
        ("4807.,N,01132.,E", 48 + 7 / 60, 11 + 32 / 60),
        ("807.8840,N,132.9820,E", 8.1314, 1.5497),
        ("9000.0000,S,18000.0000,W", -90.0, -180.0),
        ("0000.0001,N,00000.0000,E", 0.0001 / 60, 0.0),
        ("5959.999999,N,17959.999999,E", 60 - 1e-6 / 60, 180 - 1e-6 / 60),
    ],
)
def test_right_places(place: str, lat: float, lon: float) -> None:
    (position,) = fixes(rmc(place=place))
    assert (position.lat_deg, position.lon_deg) == pytest.approx((lat, lon), abs=1e-9)


@given(
    st.integers(0, 89),
    st.integers(0, 5_999_999),
    st.integers(0, 179),
    st.integers(0, 5_999_999),
    st.sampled_from("NS"),
    st.sampled_from("EW"),
)
def test_every_place_is_read_back(d: int, m: int, e: int, n: int, north: str, east: str) -> None:
    place = (
        f"{d:02}{m // 100_000:02}.{m % 100_000:05},{north},{e:03}{n // 100_000:02}.{n % 100_000:05},{east}"
    )
    positions = fixes(rmc(place=place))
    if not d + m + e + n:
        assert positions == []
        return
    lat = (d + m / 6_000_000) * (1 if north == "N" else -1)
    lon = (e + n / 6_000_000) * (1 if east == "E" else -1)
    assert (positions[0].lat_deg, positions[0].lon_deg) == pytest.approx((lat, lon), abs=1e-10)


# ---- the other fields ---------------------------------------------------------------------------


def test_what_the_sentences_of_an_epoch_say_together() -> None:
    data = gga() + line("GNGST,120010.00,5.0,,,,1.3,1.3,2.0") + rmc(motion="10.0,123.4")
    (position,) = fixes(data)
    assert position.speed_mps == pytest.approx(5.144444, abs=1e-5)
    assert position.course_deg == 123.4
    assert position.altitude_m == 520.0
    assert position.hdop == 0.95
    assert position.satellites == 9
    assert position.accuracy_m == pytest.approx(1.838, abs=1e-3)
    assert position.t_ns == FREE.mono_ns
    assert position.utc_ns == utc("2026-11-20T12:00:10+00:00")


def test_speed_from_vtg_where_rmc_has_none() -> None:
    vtg = line("GPVTG,45.0,T,,M,20.0,N,37.0,K,A")
    (position,) = fixes(gga() + vtg + rmc(motion=","))
    assert position.speed_mps == pytest.approx(10.28889, abs=1e-4)
    assert position.course_deg == 45.0
    void = line("GPVTG,45.0,T,,M,20.0,N,37.0,K,N")
    (position,) = fixes(gga() + void + rmc(motion=","))
    assert position.speed_mps is None


def test_hdop_from_gsa_where_there_is_no_gga() -> None:
    gsa = line("GPGSA,A,3,04,17,13,23,,,,,,,,,2.7,2.5,1.0")
    positions = fixes(rmc("120009.00") + gsa + rmc("120010.00"))
    assert [item.hdop for item in positions] == [None, 2.5]


def test_figures_that_are_too_old_are_not_used() -> None:
    positions = fixes(gga("120010.00") + rmc("120010.00") + rmc("120011.00") + rmc("120012.00"))
    assert [item.satellites for item in positions] == [9, 9, None]


@pytest.mark.parametrize("knots", ["-1.0", "1e3", "nan", "inf", "1001", "9999999", "x", "1.2.3"])
def test_absurd_speed_costs_the_speed_only(knots: str) -> None:
    readings, refused = decode(rmc(motion=f"{knots},"))
    (position,) = readings
    assert isinstance(position, Position)
    assert position.speed_mps is None
    assert refused == {"bad_speed": 1}


@pytest.mark.parametrize("course", ["-1", "360.1", "nan", "N"])
def test_absurd_course_costs_the_course_only(course: str) -> None:
    readings, refused = decode(rmc(motion=f"5.0,{course}"))
    (position,) = readings
    assert isinstance(position, Position)
    assert position.course_deg is None
    assert position.speed_mps is not None
    assert refused == {"bad_course": 1}


def test_malformed_figures_of_gga_and_gst_are_left_out() -> None:
    odd = line(f"GNGGA,120010.00,{PLACE},1,9x,abc,1e9,M,,M,,") + line("GNGST,120010.00,,,,,nan,1.0,")
    (position,) = fixes(odd + rmc())
    assert (position.hdop, position.altitude_m, position.satellites, position.accuracy_m) == (None,) * 4


# ---- times and dates ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "ms"),
    [("000000", 0), ("235959.999", 86_399_999), ("120010.5", 43_210_500), ("235960", 86_400_000)],
)
def test_time_of_day(time: str, ms: int) -> None:
    (position,) = fixes(rmc(time))
    assert position.utc_ns == utc("2026-11-20T00:00:00+00:00") + ms * 1_000_000


@pytest.mark.parametrize(
    "time", ["240000", "126000", "120061", "12001", "1200100", "12:00:10", "120010,00", "-20010", "120010.x"]
)
def test_impossible_time_is_refused(time: str) -> None:
    readings, refused = decode(rmc(time))
    assert not any(isinstance(item, Position) and item.utc_ns is not None for item in readings)
    assert sum(refused.values()) >= 1


def test_position_without_a_time_is_kept_undated() -> None:
    (position,) = fixes(rmc(""))
    assert position.utc_ns is None


FLOOR = utc("2026-11-18T11:06:40+00:00")


@pytest.mark.parametrize(
    ("date", "reason"),
    [
        ("090180", "date_distrusted"),
        ("060180", "date_distrusted"),
        ("311299", "date_distrusted"),
        ("171126", "date_distrusted"),
        ("050406", "date_distrusted"),
        ("010179", "date_distrusted"),
        ("310226", "bad_date"),
        ("001126", "bad_date"),
        ("201326", "bad_date"),
        ("20112", "bad_date"),
        ("2011x6", "bad_date"),
    ],
)
def test_date_that_cannot_be_now_costs_the_date_only(date: str, reason: str) -> None:
    readings, refused = decode(rmc(date=date), Now(1, 0, False, FLOOR))
    (position,) = readings
    assert isinstance(position, Position)
    assert position.utc_ns is None
    assert refused == {reason: 1}


def test_date_against_a_synchronised_host() -> None:
    host = utc("2026-11-20T12:00:12+00:00")
    assert fixes(rmc(), Now(1, host, True, FLOOR))[0].utc_ns == host - 2 * NS
    assert fixes(rmc(date="221126"), Now(1, host, True, FLOOR))[0].utc_ns is None
    assert fixes(rmc(date="221126"), Now(1, host, False, FLOOR))[0].utc_ns is not None


def test_date_of_a_void_epoch_is_not_counted() -> None:
    readings, refused = decode(rmc(status="V", place=",,,", date="060180"), Now(1, 0, False, FLOOR))
    assert [type(item) for item in readings] == [PositionVoid]
    assert not refused


def gga_dates(data: bytes, now: Now = FREE) -> list[str | None]:
    return [
        None if item.utc_ns is None else datetime.fromtimestamp(item.utc_ns / 1e9, UTC).isoformat()[:19]
        for item in fixes(data, now)
    ]


def test_gga_without_any_date_stays_undated() -> None:
    pair = gga("235959.00") + gga("000000.00")
    assert gga_dates(pair) == [None, None]
    unsynced = Now(1, utc("2026-11-20T00:00:00+00:00"), False, 0)
    assert gga_dates(pair, unsynced) == [None, None]


def test_gga_is_dated_within_twelve_hours_of_a_synchronised_host() -> None:
    pair = gga("235959.00") + gga("000000.00")
    expected = ["2026-11-19T23:59:59", "2026-11-20T00:00:00"]
    for host in ("2026-11-19T23:59:50+00:00", "2026-11-20T00:00:10+00:00"):
        assert gga_dates(pair, Now(1, utc(host), True, 0)) == expected


def test_gga_is_dated_by_zda() -> None:
    zda = line("GPZDA,235958.00,19,11,2026,00,00")
    assert gga_dates(zda + gga("235959.00") + gga("000000.00")) == [
        "2026-11-19T23:59:59",
        "2026-11-20T00:00:00",
    ]


@pytest.mark.parametrize("body", ["GPZDA,120000.00,19,11,1980,,", "GPZDA,120000.00,,,,,"])
def test_zda_before_its_receiver_knows_the_date_dates_nothing(body: str) -> None:
    assert gga_dates(line(body) + gga("120001.00") + gga("120002.00")) == [None, None]


@pytest.mark.parametrize("body", ["GPZDA,120000.00,31,02,2026,,", "GPZDA,120000.00,1x,02,2026,,"])
def test_malformed_zda_is_counted(body: str) -> None:
    assert decode(line(body)) == ([], Counter({"bad_date": 1}))


def test_trusted_date_holds_for_twelve_hours_only() -> None:
    decoder = NmeaDecoder("gnss")
    decoder.feed(line("GPZDA,120000.00,20,11,2026,,"), Now(0, 0, False, 0))
    late = Now(13 * 3600 * NS, 0, False, 0)
    items = decoder.feed(gga("010000.00") + gga("010001.00"), late)
    assert [item.utc_ns for item in items if isinstance(item, Position)] == [None, None]


def test_twenty_years_after_the_build_nothing_is_believed() -> None:
    late = datetime.fromtimestamp((FLOOR + 21 * YEAR_NS) / 1e9, UTC).strftime("%d%m%y")
    assert fixes(rmc(date=late), Now(1, 0, False, FLOOR))[0].utc_ns is None


# ---- the sky ------------------------------------------------------------------------------------


def views(data: bytes) -> list[tuple[int, int, float | None]]:
    return [
        (item.satellites_in_view, item.satellites_heard, item.snr_max_dbhz)
        for item in decode(data)[0]
        if isinstance(item, SkyView)
    ]


GPS = [
    line("GPGSV,2,1,05,23,78,065,35,13,69,222,40,04,52,293,41,20,49,093,"),
    line("GPGSV,2,2,05,32,20,092,28"),
]
GLONASS = line("GLGSV,1,1,02,68,78,065,22,70,69,222,")


def test_sky_of_all_constellations_once_an_epoch() -> None:
    epoch = b"".join(GPS) + GLONASS
    data = rmc("120009.00") + epoch + rmc("120010.00") + epoch + rmc("120011.00")
    assert views(data) == [(7, 5, 41.0), (7, 5, 41.0)]


def test_sky_without_any_time_is_told_when_the_cycle_repeats() -> None:
    assert views((b"".join(GPS) + GLONASS) * 3) == [(7, 5, 41.0)] * 2


def test_jammed_sky_hears_nothing() -> None:
    deaf = line("GPGSV,1,1,04,23,78,065,,13,69,222,,04,52,293,,20,49,093,")
    none = line("GPGSV,1,1,00")
    assert views(deaf + rmc()) == [(4, 0, None)]
    assert views(none + rmc()) == [(0, 0, None)]
    assert views(line("GPGSV,1,1,,,,,") + rmc()) == [(0, 0, None)]


def test_satellite_on_two_signals_counts_once() -> None:
    first = line("GPGSV,1,1,03,23,78,065,35,13,69,222,40,04,52,293,,1")
    second = line("GPGSV,1,1,02,23,78,065,30,13,69,222,45,8")
    assert views(first + second + rmc()) == [(3, 2, 45.0)]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("GPGSV,1,1,02,23,78,065,7,13,69,222,8", (2, 2, 8.0)),
        ("GPGSV,1,1,02,23,78,065,xx,13,69,222,00", (2, 0, None)),
        ("GPGSV,1,1,02,23,78,065,100,13,69,222,39", (2, 1, 39.0)),
        ("GPGSV,1,1,9999,23,78,065,20", (0, 1, 20.0)),
        ("GPGSV,1,1,02,23,78", (2, 0, None)),
    ],
)
def test_odd_gsv_fields(body: str, expected: tuple[int, int, float | None]) -> None:
    assert views(line(body) + rmc()) == [expected]


def test_gsv_too_short_is_malformed() -> None:
    assert decode(line("GPGSV,1,1"))[1] == {"malformed": 1}


def test_endless_gsv_cycle_is_bounded() -> None:
    decoder = NmeaDecoder("gnss")
    items: list[Reading | Refusal] = []
    for n in range(2000):
        items += decoder.feed(line(f"GPGSV,9,2,05,{n},78,065,35"), FREE)
    assert all(isinstance(item, SkyView) and item.satellites_heard <= 64 for item in items)
    assert len(items) == 2000 // 64


# ---- lines of others ----------------------------------------------------------------------------


def test_other_sentences_are_counted_and_proprietary_ones_not_mistaken() -> None:
    data = (
        line("PGRMC,A,215.1,100,6378137.000,298.257223563,0.0,0.0,0.0,A,3,1,1,4,30")
        + line("PUBX,00,120010.00")
        + line("GPTXT,01,01,02,ANTSTATUS=OK")
        + line("GNGNS,120010.00,,,,,NN,00,99.99,,,,,V")
        + b"!AIVDM,1,1,,A,15RTgt0PAso;90TKcjM8h6g208CQ,0*4A\r\n"
    )
    readings, refused = decode(data)
    assert readings == []
    assert refused == {"unhandled": 5}


@pytest.mark.parametrize(
    "body",
    ["GPRMC,120010.00,A", "GPRMC,", "GPGGA,120010.00", "GPGLL,1,2", "GPGST,1", "GPZDA,1"],
)
def test_sentences_cut_short_but_with_a_right_sum_are_malformed(body: str) -> None:
    readings, refused = decode(line(body))
    assert readings == []
    assert refused == {"malformed": 1}


def test_on_time_tells_every_epoch_even_where_the_place_is_refused() -> None:
    told: list[tuple[str, int, int | None, bool]] = []
    decoder = NmeaDecoder("gnss", on_time=lambda *epoch: told.append(epoch))
    decoder.feed(
        rmc("120010.00") + rmc("120011.00", "V") + rmc("120012.00", place="4860.0,N,01132.9,E"), FREE
    )
    base = utc("2026-11-20T00:00:00+00:00")
    assert told == [
        ("gnss", ms, base + ms * 1_000_000, valid)
        for ms, valid in ((43_210_000, True), (43_211_000, False), (43_212_000, False))
    ]


def test_reset_forgets_the_receiver() -> None:
    decoder = NmeaDecoder("gnss")
    decoder.feed(rmc() + gga()[:30], FREE)
    decoder.reset()
    assert decoder.held == 0
    assert decoder.feed(gga("120011.00"), FREE) == []


# ---- anything at all ----------------------------------------------------------------------------

STORY = b"".join(
    (b"\x00", rmc("120009.00"), *GPS, GLONASS, gga(), rmc(), b"$GPRMC,12\r\n", rmc("120011.00", "V"))
)


@given(st.integers(1, 200))
def test_any_portioning_gives_the_same(portion: int) -> None:
    decoder = NmeaDecoder("gnss")
    items = [
        item for at in range(0, len(STORY), portion) for item in decoder.feed(STORY[at : at + portion], FREE)
    ]
    assert items == NmeaDecoder("gnss").feed(STORY, FREE)


fields = st.lists(
    st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="$*!"), max_size=11),
    max_size=20,
)
kinds = st.sampled_from(["RMC", "GGA", "GLL", "GSV", "GSA", "GST", "VTG", "ZDA"])


@given(st.lists(st.tuples(kinds, fields), max_size=8))
def test_no_intact_sentence_raises(sentences: list[tuple[str, list[str]]]) -> None:
    data = b"".join(line(",".join([f"GP{kind}", *body])) for kind, body in sentences)
    for item in NmeaDecoder("gnss").feed(data + rmc(), FREE):
        assert isinstance(item, (Position, PositionVoid, SkyView, Refusal))


@given(st.integers(0, len(STORY)), st.binary(max_size=60))
def test_garbage_anywhere_invents_no_place(at: int, noise: bytes) -> None:
    for item in NmeaDecoder("gnss").feed(STORY[:at] + noise + STORY[at:], FREE):
        if isinstance(item, Position):
            assert (item.lat_deg, item.lon_deg) == pytest.approx((LAT, LON), abs=1e-6)
