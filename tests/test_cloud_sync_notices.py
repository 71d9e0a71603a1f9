"""Who is told, when, in which words."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st

from cloud_sync import notices
from cloud_sync.notices import Decision, Item, Matter, Notice, QuietHours, Rule
from cloud_sync.words import Words, parameters

WORDS_DIR = Path(notices.__file__).parent / "page" / "words"
NOW = 1_796_100_000_000
EVERY_DAY = frozenset(range(7))
RULE = Rule(7, "fund", "Night watch", emails=("a@fund.example",), webhooks=(1,))


def catalogue(language: str) -> dict[str, str]:
    found: dict[str, str] = json.loads((WORDS_DIR / language / "notice.json").read_text("utf-8"))
    return found


EN, ZH = Words("en", catalogue("en")), Words("zh", catalogue("zh"))


def utc(_: int) -> int:
    return 0


def in_zone(name: str) -> notices.Offset:
    zone = ZoneInfo(name)

    def offset(wall_ms: int) -> int:
        shift = datetime.fromtimestamp(wall_ms / 1000, zone).utcoffset()
        assert shift is not None
        return int(shift.total_seconds())

    return offset


def ms(text: str, zone: str = "UTC", fold: int = 0) -> int:
    moment = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return int(moment.timestamp() * 1000)


def matter(state: str = "open", severity: int = 500, number: int = 1, **changes: Any) -> Matter:
    return replace(Matter(f"car-{number}.{'0' * 32}.1", "north", "left_region", state, severity), **changes)


def incident(**changes: Any) -> dict[str, Any]:
    row = {
        "id": f"car-1.{'0' * 32}.1", "device": "car-1", "name": "Blue van", "branch": "north",
        "cause": "moved_without_wheels", "state": "open", "device_open": True, "severity": 900,
        "confidence": 0.82, "sentence": "The car moves 41 m, no wheel turns.",
        "sentence_zh": "车辆移动 41 米，车轮未转。",
        "opened": {"at": "2026-12-01T04:40:00.000Z", "unc_ms": 250, "source": "gnss"},
        "updated_at": "2026-12-01T04:41:00.000Z", "closed_at": None, "assignee": None, "version": 0,
        "clock": "live", "place": {"lat": 31.23, "lon": 121.47, "name": "Depot North", "distance_m": 1200},
        "title_state": "pledged",
    }  # fmt: skip
    return row | changes


def decide(
    rule: Rule, what: Matter, known: Notice | None = None, *, recent: tuple[int, ...] = (), at: int = NOW
) -> Decision:
    return notices.decide(rule, what, known, recent, at, utc)


# --- who ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "what", "told"),
    [
        (RULE, matter(), True),
        (replace(RULE, branches=frozenset({"north"})), matter(), True),
        (replace(RULE, branches=frozenset({"south"})), matter(), False),
        (replace(RULE, branches=frozenset({"north"})), matter(branch=None), False),
        (replace(RULE, causes=frozenset({"left_region"})), matter(), True),
        (replace(RULE, causes=frozenset({"silent"})), matter(), False),
        (replace(RULE, min_severity=500), matter(), True),
        (replace(RULE, min_severity=501), matter(), False),
        (replace(RULE, enabled=False), matter(), False),
        (RULE, matter("escalated"), True),
        (RULE, matter("acknowledged"), False),
        (RULE, matter("closed", acted=True), False),
        (RULE, matter("closed"), True),  # it came and went, and nobody has looked
    ],
)
def test_a_rule_tells_of_its_own_business_alone(rule: Rule, what: Matter, told: bool) -> None:
    assert (decide(rule, what).kind == "alert") is told


def test_one_that_becomes_grave_enough_is_told_then() -> None:
    rule = replace(RULE, min_severity=600)
    assert decide(rule, matter(severity=599)) == Decision()
    assert decide(rule, matter(severity=600)).kind == "alert"


def test_the_same_state_is_told_once_and_later_ones_are_changes() -> None:
    first = decide(RULE, matter()).notice
    assert first is not None
    assert decide(RULE, matter(severity=900), first) == Decision()
    second = decide(RULE, matter("acknowledged"), first)
    assert second.kind == "change"
    assert second.notice is not None
    assert decide(RULE, matter("acknowledged"), second.notice) == Decision()
    closed = decide(RULE, matter("closed"), second.notice)
    assert closed.kind == "change"
    again = decide(RULE, matter("open"), closed.notice, at=NOW + 5)
    assert again.kind == "alert"
    assert again.notice is not None
    assert again.notice.told_ms == NOW + 5


# --- quiet hours ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "days", "at", "quiet"),
    [
        ("22:00", "06:00", EVERY_DAY, "2026-12-01T21:59:59", False),
        ("22:00", "06:00", EVERY_DAY, "2026-12-01T22:00:00", True),
        ("22:00", "06:00", EVERY_DAY, "2026-12-02T05:59:59", True),
        ("22:00", "06:00", EVERY_DAY, "2026-12-02T06:00:00", False),
        ("12:00", "13:00", EVERY_DAY, "2026-12-01T12:30:00", True),
        ("12:00", "13:00", EVERY_DAY, "2026-12-01T13:00:00", False),
        # 2026-12-01 is a Tuesday (1): its night belongs to it, beyond midnight too
        ("22:00", "06:00", frozenset({1}), "2026-12-02T05:00:00", True),
        ("22:00", "06:00", frozenset({1}), "2026-12-02T22:30:00", False),
        ("22:00", "06:00", frozenset({1}), "2026-12-01T05:00:00", False),
        ("22:00", "06:00", frozenset({6}), "2026-12-07T05:00:00", True),  # Sunday's night ends on Monday
        ("08:00", "08:00", frozenset({1}), "2026-12-01T08:00:00", True),  # a whole day
        ("08:00", "08:00", frozenset({1}), "2026-12-02T07:59:00", True),
        ("08:00", "08:00", frozenset({1}), "2026-12-02T08:00:00", False),
    ],
)
def test_quiet_hours(start: str, end: str, days: frozenset[int], at: str, quiet: bool) -> None:
    hours = quiet_hours(start, end, days=days)
    assert notices.is_quiet(hours, 500, ms(at), utc) is quiet
    shanghai = ms(at, "Asia/Shanghai")
    assert notices.is_quiet(hours, 500, shanghai, in_zone("Asia/Shanghai")) is quiet
    assert notices.is_quiet(hours, 700, ms(at), utc) is False


def quiet_hours(start: str, end: str, days: frozenset[int] = EVERY_DAY) -> QuietHours:
    first, last = (int(text[:2]) * 60 + int(text[3:]) for text in (start, end))
    return QuietHours(first, last, days, 700)


@pytest.mark.parametrize(
    ("at", "fold", "quiet"),
    [
        # Berlin, 2027-03-28: 02:00 becomes 03:00
        ("2027-03-28T01:59:59", 0, False),
        ("2027-03-28T03:00:00", 0, True),  # hours that begin at 02:30 begin with the next minute there is
        ("2027-03-28T04:59:59", 0, True),
        ("2027-03-28T05:00:00", 0, False),
        # 2026-10-25: 03:00 becomes 02:00
        ("2026-10-25T02:29:00", 0, False),
        ("2026-10-25T02:30:00", 0, True),
        ("2026-10-25T02:29:00", 1, False),
        ("2026-10-25T02:30:00", 1, True),
        ("2026-10-25T04:59:00", 0, True),
        ("2026-10-25T05:00:00", 0, False),
    ],
)
def test_quiet_hours_over_a_change_of_time(at: str, fold: int, quiet: bool) -> None:
    now_ms = ms(at, "Europe/Berlin", fold)
    assert notices.is_quiet(quiet_hours("02:30", "05:00"), 0, now_ms, in_zone("Europe/Berlin")) is quiet


@given(st.integers(0, 4_000_000_000_000), st.integers(0, 1439), st.integers(0, 1439))
def test_the_weekday_is_that_of_the_calendar(now_ms: int, start: int, end: int) -> None:
    moment = datetime.fromtimestamp(now_ms // 1000, UTC)
    minute = moment.hour * 60 + moment.minute
    began = moment.weekday() if start < end or minute >= start else (moment.weekday() - 1) % 7
    inside = start <= minute < end if start < end else (minute >= start or minute < end)
    hours = QuietHours(start, end, frozenset({began}), 1001)
    assert notices.is_quiet(hours, 1000, now_ms, utc) is inside


NIGHT = replace(RULE, quiet=quiet_hours("22:00", "06:00"))
EVENING, MORNING = ms("2026-12-01T23:00:00"), ms("2026-12-02T06:00:00")


def test_at_night_only_what_is_grave_wakes_and_the_rest_comes_in_the_morning() -> None:
    light = decide(NIGHT, matter(severity=699), at=EVENING)
    assert light.kind is None
    assert light.notice is not None
    assert (light.notice.status, light.notice.why) == ("held", "quiet")
    assert decide(NIGHT, matter(severity=700), at=EVENING).kind == "alert"
    assert notices.due(NIGHT, [light.notice], MORNING - 1000, utc) == []
    assert notices.due(NIGHT, [light.notice], MORNING, utc) == [light.notice]
    told = notices.told(light.notice, MORNING)
    assert (told.status, told.told_ms, told.why) == ("told", MORNING, "")


def test_what_grows_grave_at_night_is_told_then() -> None:
    held = decide(NIGHT, matter(severity=500), at=EVENING).notice
    assert decide(NIGHT, matter(severity=500), held, at=EVENING + 1) == Decision()
    grown = decide(NIGHT, matter(severity=800), held, at=EVENING + 1)
    assert grown.kind == "alert"


@pytest.mark.parametrize("state", ["acknowledged", "assigned", "confirmed", "refuted", "closed"])
def test_what_somebody_took_on_at_night_is_not_told_in_the_morning(state: str) -> None:
    held = decide(NIGHT, matter(), at=EVENING).notice
    dropped = decide(NIGHT, matter(state, acted=True), held, at=EVENING + 60_000)
    assert dropped.kind is None
    assert dropped.notice is not None
    assert dropped.notice.status == "dropped"
    assert decide(NIGHT, matter("open"), dropped.notice, at=MORNING).kind == "alert"  # opened again


def test_what_passed_at_night_by_itself_is_told_in_the_morning() -> None:
    held = decide(NIGHT, matter(), at=EVENING).notice
    passed = decide(NIGHT, matter("closed"), held, at=EVENING + 60_000).notice
    assert passed is not None
    assert (passed.status, passed.state) == ("held", "closed")
    assert notices.due(NIGHT, [passed], MORNING, utc) == [passed]
    told = notices.told(passed, MORNING)
    assert decide(NIGHT, matter("closed"), told, at=MORNING) == Decision()


def test_what_was_told_and_passes_is_a_change() -> None:
    first = decide(RULE, matter()).notice
    assert decide(RULE, matter("closed"), first).kind == "change"


def test_what_was_dropped_stays_so() -> None:
    gone = Notice(matter().id, "dropped", "closed", 500, NOW)
    assert decide(RULE, matter("closed"), gone) == Decision()


# --- storms --------------------------------------------------------------------------------------------


def test_a_storm_becomes_messages_up_to_the_limit_and_one_digest() -> None:
    rule = replace(RULE, digest_after=3, digest_s=60)
    sent: list[int] = []
    held: list[Notice] = []
    for number in range(10):
        at = NOW + number * 1000
        made = decide(rule, matter(number=number, severity=number), recent=tuple(sent), at=at)
        assert made.notice is not None
        if made.kind == "alert":
            sent.append(at)
        else:
            held.append(made.notice)
    assert len(sent) == 3
    assert len(held) == 7
    assert {notice.due_ms for notice in held} == {NOW + 60_000}
    assert notices.due(rule, held, NOW + 59_999, utc) == []
    released = notices.due(rule, held, NOW + 60_000, utc)
    assert [notice.severity for notice in released] == [9, 8, 7, 6, 5, 4, 3]  # the worst first, none lost


def test_a_storm_that_lasts_into_the_night_is_told_in_the_morning() -> None:
    rule = replace(NIGHT, digest_after=1, digest_s=600)
    late = ms("2026-12-01T21:59:00")
    held = decide(rule, matter(), recent=(late,), at=late).notice
    assert held is not None
    assert held.why == "storm"
    assert notices.due(rule, [held], late + 600_000, utc) == []
    assert notices.due(rule, [held], MORNING, utc) == [held]


def test_what_is_held_in_a_storm_stays_in_it_when_it_changes() -> None:
    rule = replace(RULE, digest_after=1)
    held = decide(rule, matter(), recent=(NOW,)).notice
    grown = decide(rule, matter("escalated", 990), held, recent=(NOW,), at=NOW + 1)
    assert grown.kind is None
    assert grown.notice is not None
    assert (grown.notice.status, grown.notice.severity, grown.notice.state) == ("held", 990, "escalated")


def test_a_clock_that_goes_back_holds_nothing_for_ever() -> None:
    held = Notice("a", "held", "open", 1, NOW, "storm", NOW + 300_000)
    assert notices.due(RULE, [held], NOW - 86_400_000, utc) == [held]
    told = Notice("a", "told", "open", 1, NOW, told_ms=NOW)
    rule = replace(RULE, escalate_after_s=3600)
    assert notices.escalations(rule, [told], NOW - 86_400_000, utc) == ["a"]
    assert notices.escalations(rule, [told], NOW - 1000, utc) == []  # a second of correction is nothing


def test_a_rule_that_is_off_keeps_what_it_holds() -> None:
    held = Notice("a", "held", "open", 1, NOW, "quiet")
    assert notices.due(replace(RULE, enabled=False), [held], NOW, utc) == []
    assert notices.due(RULE, [held], NOW, utc) == [held]


# --- escalation ------------------------------------------------------------------------------------------

BOSS = replace(RULE, escalate_after_s=600, escalate_to=("boss@fund.example",))


def test_what_nobody_acknowledges_is_escalated_once_and_its_people_told() -> None:
    first = decide(BOSS, matter()).notice
    assert first is not None
    assert notices.escalations(BOSS, [first], NOW + 599_999, utc) == []
    assert notices.escalations(BOSS, [first], NOW + 600_000, utc) == [first.incident]
    raised = decide(BOSS, matter("escalated"), first, at=NOW + 600_000)
    assert raised.kind == "alert"
    assert raised.notice is not None
    assert raised.notice.told_ms == NOW
    assert notices.escalations(BOSS, [raised.notice], NOW + 9_999_999, utc) == []
    assert notices.addressees(BOSS, first, "escalated") == ("boss@fund.example",)
    assert notices.addressees(BOSS, None, "escalated") == ("a@fund.example", "boss@fund.example")
    assert notices.addressees(BOSS, None, "open") == ("a@fund.example",)
    assert notices.addressees(RULE, first, "escalated") == ("a@fund.example",)


@pytest.mark.parametrize(
    "notice",
    [
        Notice("a", "told", "acknowledged", 1, NOW, told_ms=NOW),
        Notice("a", "held", "open", 1, NOW, "storm", NOW),
        Notice("a", "dropped", "closed", 1, NOW),
    ],
)
def test_only_what_was_told_and_left_is_escalated(notice: Notice) -> None:
    assert notices.escalations(BOSS, [notice], NOW + 86_400_000, utc) == []
    assert notices.escalations(replace(BOSS, escalate_after_s=None), [notice], NOW + 86_400_000, utc) == []


def test_nothing_light_is_escalated_at_night() -> None:
    rule = replace(NIGHT, escalate_after_s=600)
    told = Notice("a", "told", "open", 500, EVENING - 7_200_000, told_ms=EVENING - 7_200_000)
    assert notices.escalations(rule, [told], EVENING, utc) == []
    assert notices.escalations(rule, [replace(told, severity=700)], EVENING, utc) == ["a"]
    assert notices.escalations(rule, [told], MORNING, utc) == ["a"]


# --- words -----------------------------------------------------------------------------------------------


def test_both_languages_say_the_same_things() -> None:
    en, zh = catalogue("en"), catalogue("zh")
    assert list(en) == sorted(en)
    assert en.keys() == zh.keys()
    assert {code: parameters(text) for code, text in en.items()} == {
        code: parameters(text) for code, text in zh.items()
    }
    assert [text for text in zh.values() if text.isascii()] == []
    assert [text for text in en.values() if any("\u4e00" <= char <= "\u9fff" for char in text)] == []


def compose(row: dict[str, Any], words: Words = EN, rule: Rule = RULE, **more: Any) -> notices.Message:
    item = Item(row, more.pop("next", [("notice.all", {"link": "x"})]))
    return notices.compose(rule, item, words, "https://hf.example/", more.pop("offset", utc))


def test_a_message_says_what_how_sure_when_where_what_to_do_and_where_to_read_on() -> None:
    message = compose(incident())
    assert message.subject == "Blue van (north) – moved without its wheels turning"
    for part in (
        "The car moves 41 m, no wheel turns.",
        "2026-12-01 04:40:00 UTC ± 0.2 s (satellite time)",
        "1.2 km from Depot North (grid 31.23, 121.47, to about a kilometre)",
        "sure (0.82 of 1 on the detector's own scale, not a calibrated probability)",
        "What to do\n1. All open incidents: x",
        f"https://hf.example/#/incident/car-1.{'0' * 32}.1",
        "“Night watch”",
    ):
        assert part in message.text
    assert "notice." not in message.text


def test_a_message_in_chinese_holds_no_english_sentence() -> None:
    message = compose(incident(), ZH, offset=in_zone("Asia/Shanghai"))
    assert message.subject == "Blue van（north）——车轮未转动而车辆移动"
    assert "车辆移动 41 米，车轮未转。" in message.text
    assert "2026-12-01 12:40:00 (UTC+08:00)" in message.text
    assert "The car" not in message.text
    assert "notice." not in message.text


@pytest.mark.parametrize("words", [EN, ZH])
@pytest.mark.parametrize(
    "state", ["open", "escalated", "acknowledged", "assigned", "confirmed", "refuted", "closed"]
)
@pytest.mark.parametrize(
    "cause", ["moved_without_wheels", "removed_or_opened", "left_region", "jammed", "silent"]
)
def test_every_state_and_cause_has_its_words(words: Words, state: str, cause: str) -> None:
    row = incident(
        state=state, cause=cause, place=None, branch=None, confidence=0.1, assignee="Li", version=1,
        opened={"at": "2026-12-01T04:40:00.000Z", "unc_ms": None, "source": "received"},
    )  # fmt: skip
    message = compose(row, words)
    assert "notice." not in message.subject + message.text
    assert ("What to do" in message.text or "应对措施" in message.text) is (
        state not in ("closed", "refuted")
    )


@pytest.mark.parametrize(
    ("clock", "mark", "zh"), [("simulated", "[SIMULATED] ", "[模拟] "), ("replay", "[REPLAY] ", "[回放] ")]
)
def test_what_is_not_live_is_marked_first(clock: str, mark: str, zh: str) -> None:
    message = compose(incident(clock=clock))
    assert message.subject.startswith(mark)
    assert message.text.startswith(mark.strip("[] "))
    assert compose(incident(clock=clock), ZH).subject.startswith(zh)
    digest = notices.compose_digest(
        RULE, [Item(incident()), Item(incident(clock=clock))], EN, "https://h", NOW, utc
    )
    assert digest.subject.startswith(mark)
    assert mark.strip() in digest.text


@given(st.text())
def test_no_name_begins_another_line(text: str) -> None:
    line = notices.clean(text)
    assert line == line.strip()
    assert len(line.splitlines()) <= 1
    assert not any(char in line for char in "\r\n\x00\x1b\u202e\u2028\u2029\u0085")
    assert len(line) <= notices.MAX_LINE_CHARS


def test_a_hostile_name_stays_a_name() -> None:
    name = "van\r\nBcc: all@evil.example\r\n\r\n<script>\u202egnp"
    message = compose(incident(name=name, branch=name, sentence=name), rule=replace(RULE, name=name))
    assert message.subject.startswith("van Bcc: all@evil.example <script> gnp")
    assert "\n" not in message.subject
    lines = message.text.split("\n")
    assert [line for line in lines if line.startswith(("Bcc", "<script"))] == []
    assert len(message.subject) <= notices.MAX_SUBJECT_CHARS


def test_the_exact_position_is_nowhere() -> None:
    row = incident()
    event = notices.cloud_event(compose(row), "msg_1")
    assert "31.2304" not in json.dumps(event)
    assert event["data"]["incident"]["place"] == row["place"]


def test_an_event_is_one_of_cloudevents() -> None:
    event = notices.cloud_event(compose(incident()), "msg_1")
    message = HTTPMessage({"content-type": "application/cloudevents+json"}, json.dumps(event).encode())
    read = from_structured(message, JSONFormat())
    assert read.get_id() == "msg_1"
    assert read.get_source() == "urn:holdfast:fund:car-1"
    assert read.get_type() == "net.holdfast.incident.open.v1"
    assert read.get_subject() == f"car-1.{'0' * 32}.1"
    assert read.get_time() == datetime(2026, 12, 1, 4, 41, tzinfo=UTC)
    assert read.get_data()["link"].endswith(f"/#/incident/car-1.{'0' * 32}.1")


def test_a_digest_lists_the_worst_first_and_loses_none() -> None:
    rows = [incident(id=f"car-{n}.{'0' * 32}.1", severity=n, name=f"Van {n}") for n in range(150)]
    message = notices.compose_digest(RULE, [Item(row) for row in rows], EN, "https://h", NOW, utc)
    assert message.subject == "150 incidents wait; the worst: moved without its wheels turning"
    assert message.text.index("Van 149") < message.text.index("Van 148")
    assert "… and 100 more on the page." in message.text
    data = message.data
    named = [entry["incident"]["id"] for entry in data["incidents"]] + data["others"]
    assert sorted(named) == sorted(row["id"] for row in rows)
    assert data["count"] == 150
    assert message.type == "net.holdfast.incident.digest.v1"


def test_a_message_keeps_its_id_and_another_has_another() -> None:
    one = notices.message_id("fund", "webhook:1", [Item(incident())], "alert")
    assert one == notices.message_id("fund", "webhook:1", [Item(incident())], "alert")
    others = {
        notices.message_id("other", "webhook:1", [Item(incident())], "alert"),
        notices.message_id("fund", "webhook:2", [Item(incident())], "alert"),
        notices.message_id("fund", "webhook:1", [Item(incident(state="escalated"))], "alert"),
        notices.message_id("fund", "webhook:1", [Item(incident(version=1))], "alert"),
        notices.message_id("fund", "webhook:1", [Item(incident())], "digest"),
    }
    assert one not in others
    assert len(others) == 5
