"""`holdfast status`: what a node sees, decided and owes, and what to do; with the edge and without it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edge_kit import NODE, config
from edge_live import Live

from edge import pipeline as pipelines
from edge.__main__ import status as app
from edge.pipeline import Pipeline, PortFigures
from edge.runtime import show
from edge.runtime.uplink_state import NAME, UplinkState
from edge.status import Level, Work, as_json, exit_code, judge, ports_of, span, worst
from firmware_bridge.reading import FixQuality, Position, Refusal, Relay, Tyre
from firmware_bridge.timekeeper import Now
from firmware_bridge.wire.stamp import NS
from models.verdict import Action, Cause, Verdict

PORTS = NODE + '[[port]]\nname = "gnss"\npath = "/dev/x"\nprotocol = "nmea"\nbaud = 38400\n'
WORK = Work("ab", 5, 2, 1, 0, 0, 2, 4096, 0, 0, 0, "ok", 1.0, {}, 100 * NS, 90 * NS)


@pytest.fixture
def live() -> Iterator[Callable[..., Live]]:
    made: list[Live] = []

    def make(*args: object, **kwargs: object) -> Live:
        made.append(Live(*args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for node in made:
        node.close()


def told(pipeline: Pipeline, work: Work = WORK, **more: object) -> dict[str, Any]:
    names = {"tenant": "tenant-a", "device": "car-1", "kind": "vehicle"}
    extra = {"port_config": ports_of(config(PORTS)), "reload": None, **more}
    return dict(json.loads(as_json(names, pipeline, work, 5000, extra)))


def fix(second: float) -> Position:
    return Position(round(second * NS), "gnss", 47.0, 8.0, FixQuality.AUTONOMOUS, speed_mps=0.0)


# ---- what it sees ------------------------------------------------------------------------------------


def test_rate_age_and_refusals_are_each_ports_own() -> None:
    parsed = config(PORTS + '[[port]]\nname = "board"\npath = "/dev/y"\nprotocol = "board"\n')
    pipeline = Pipeline(parsed, None, software="x")
    for second in range(70, 100):
        pipeline.take([fix(second)], Now(second * NS, 0, False, 0))
    pipeline.take([Refusal(99 * NS, "gnss", "checksum", b"x")] * 3, Now(99 * NS, 0, False, 0))
    pipeline.take([Tyre(40 * NS, "board", "aa", 230, 20, None)], Now(99 * NS, 0, False, 0))
    pipeline.take([Relay(1, "elsewhere", "ee", 1, 1, b"", None, None)], Now(99 * NS, 0, False, 0))
    figures = told(pipeline)["port_figures"]
    assert figures["gnss"] == {
        "bytes": 0, "readings": 30, "per_second": 1.0, "last_reading_age_s": 1, "refused": {"checksum": 3},
    }  # fmt: skip
    assert figures["board"]["per_second"] == 0.0, "silent for a minute"
    assert figures["board"]["last_reading_age_s"] == 60 and set(figures) == {"gnss", "board"}


def test_a_rate_follows_the_sender_and_reasons_are_bounded() -> None:
    figures = PortFigures()
    assert figures.per_second(NS) == 0.0
    for step in range(200):
        figures.reading(step * NS // 10)
    assert figures.per_second(20 * NS) == pytest.approx(10, rel=0.05)
    for step in range(60):
        figures.reading(20 * NS + step * NS)
    assert figures.per_second(80 * NS) == pytest.approx(1, rel=0.05)
    assert figures.per_second(200 * NS) == 0.0
    for number in range(100):
        figures.refusal(f"reason_{number}")
    assert len(figures.refused) == pipelines.MAX_PORT_REASONS + 1 and figures.refused["other"] == 68


# ---- what it decided ---------------------------------------------------------------------------------


class Says:
    """A detector that says what it is given."""

    def __init__(self, *verdicts: Verdict) -> None:
        self.verdicts = list(verdicts)

    def observe(self, reading: object) -> list[Verdict]:
        return [self.verdicts.pop(0)] if self.verdicts else []

    def tick(self, t_ns: int) -> list[Verdict]:
        return []

    def configured(self, ports: object, *, expects_board: bool) -> None:
        """Nothing to know."""


def test_verdicts_have_their_stage_and_age() -> None:
    opened = Verdict(70 * NS, 60 * NS, 1, Cause.SILENT, Action.OPENED, 0.5, "It is silent.", ())
    said = (opened, replace(opened, t_ns=80 * NS, action=Action.CLOSED, sentence="It speaks."))
    other = replace(opened, t_ns=90 * NS, incident=2, cause=Cause.JAMMED)
    pipeline = Pipeline(config(PORTS), Says(*said, other), software="x")
    for second in range(3):
        pipeline.take([fix(70 + second)], Now(100 * NS, 0, False, 0))
    status = told(pipeline)
    assert [(one["cause"], one["stage"]) for one in status["verdicts"]] == [
        ("silent", "opened"), ("silent", "closed"), ("jammed", "opened"),
    ]  # fmt: skip
    (left,) = status["open_incidents"]
    assert (left["incident"], left["since_s"], left["age_s"], left["confidence"]) == (2, 40, 10, 0.5)
    assert status["incidents"] == 2


# ---- what is wrong -----------------------------------------------------------------------------------


def well(**changes: object) -> dict[str, Any]:
    base: dict[str, Any] = {
        "clock": "live", "faults": {}, "reload": None, "ports": {"gnss": "ok"},
        "port_detail": {"gnss": "sentences arrive"},
        "port_figures": {"gnss": {"last_reading_age_s": 1}}, "store": "ok", "refused_full": 0, "thinned": 0,
        "outbox": {"segments": 0}, "receipts": 3, "last_receipt_age_s": 10, "facts": {},
    }  # fmt: skip
    return base | changes


def absent(detail: str) -> dict[str, Any]:
    return well(ports={"gnss": "absent"}, port_detail={"gnss": detail})


@pytest.mark.parametrize(
    ("answer", "level", "code", "part"),
    [
        (absent("/dev/x is not there: plug the device in"), Level.ERROR, 10, "plug"),
        (absent("no permission to open /dev/x: run `sudo usermod`"), Level.ERROR, 13, "usermod"),
        (absent("/dev/x is in use by another program: `fuser -v`"), Level.ERROR, 12, "fuser"),
        (absent("/dev/x went away (unplugged?): it is opened again"), Level.ERROR, 10, "opened again"),
        (absent("/dev/x cannot be read"), Level.ERROR, 1, "cable"),
        (
            well(ports={"gnss": "no_sentence"}, port_detail={"gnss": "bytes: set `baud`"}),
            Level.WARNING,
            0,
            "baud",
        ),
        (well(port_figures={"gnss": {"last_reading_age_s": 600}}), Level.WARNING, 0, "aerial"),
        (well(ports={}), Level.WARNING, 0, "[[port]]"),
        (well(store="no space"), Level.ERROR, 1, "disk"),
        (well(refused_full=7), Level.WARNING, 0, "free space"),
        (well(thinned=7), Level.WARNING, 0, "max_bytes"),
        (well(outbox={"segments": 5}, receipts=0), Level.WARNING, 0, "uplink"),
        (well(outbox={"segments": 5}, last_receipt_age_s=9000), Level.WARNING, 0, "doctor"),
        (well(facts={"uplink": "segment x is too large"}), Level.WARNING, 0, "broker"),
        (well(faults={"pipeline": 2}), Level.WARNING, 0, "journalctl"),
        (well(reload={"ok": False, "text": "refused"}), Level.WARNING, 0, "reload"),
    ],
)
def test_each_thing_that_is_wrong_says_what_to_do(
    answer: dict[str, Any], level: Level, code: int, part: str
) -> None:
    found = judge(answer)
    assert len(found) == 1 and found[0].level is level and part in found[0].next, found
    assert exit_code(found) == code and worst(found) is level


def test_a_node_that_is_well_has_nothing_to_say() -> None:
    assert judge(well()) == [] and worst([]) is Level.OK
    quiet = [
        absent("not opened yet"), well(facts={"uplink": "all well again", "config": "taken: x"}),
        well(reload={"ok": True, "text": "taken"}), well(port_figures={"gnss": {"last_reading_age_s": None}}),
    ]  # fmt: skip
    assert [judge(one) for one in quiet] == [[], [], [], []]
    assert [one.level for one in judge(well(clock="replay"))] == [Level.NOTE]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")]
)
def test_spans(seconds: int, words: str) -> None:
    assert span(seconds) == words


# ---- the command -------------------------------------------------------------------------------------


def screen(node: Live, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = show.status(node.config, as_json=False)
    return code, " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_one_screen_beside_the_running_edge(
    live: Callable[..., Live], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    node = live("[uplink]\nhost = 'broker.example'\n")
    node.start()
    node.drive(30)
    node.feed(b"$GPRMC,broken*00\r\n")
    node.until(lambda s: s["refused"])
    node.call("seal")
    code, text = screen(node, capsys)
    assert code == 0
    port = os.ttyname(node._slave)
    for part in (
        f"port gnss {port} at 9600 baud: ok", "1 readings a second, the last 0 s ago", "refused: ",
        "none open; 0 since the start", "owes 2 segments (1 with alarms)", "uplink not running",
        "certificates valid: tls 89 days", "-> is `holdfast uplink` running?",
    ):  # fmt: skip
        assert part in text, (part, text)
    UplinkState(True, 1, 5, 4, 0).write(node.folder)
    assert "connected to broker.example:8883: 5 sent, 4 receipts brought" in screen(node, capsys)[1]
    UplinkState(False, 1, 5, 4, 0).write(node.folder)
    text = screen(node, capsys)[1]
    assert "no connection to broker.example:8883" in text and "tries the broker step by step" in text
    os.utime(node.folder / NAME, (1, time.time() - 3600))
    assert "uplink not running" in screen(node, capsys)[1]
    assert node.stop() == 0, node.logged()


def test_json_has_the_edges_answer_what_is_owed_and_findings(
    live: Callable[..., Live], capsys: pytest.CaptureFixture[str]
) -> None:
    node = live()
    node.start()
    node.drive(3)
    node.until(lambda s: s["readings"].get("position") == 3)
    node.call("seal")
    with pytest.raises(SystemExit) as ended:
        app(["--config", str(node.config), "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0 and answer["running"] is True
    assert answer["readings"]["position"] == 3 and answer["port_config"]["gnss"]["baud"] == 9600
    assert answer["owed"]["segments"] == 2 and answer["owed"]["certificate_days"]["tls"] in (88, 89)
    assert all(one["next"] for one in answer["findings"] if one["level"] != "note")
    assert node.stop() == 0, node.logged()


def test_without_the_edge_the_outbox_is_told_and_left_as_it_is(
    live: Callable[..., Live], capsys: pytest.CaptureFixture[str]
) -> None:
    node = live()
    node.start()
    node.drive(30)
    assert node.stop() == 0, node.logged()
    before, count = sorted(node.folder.iterdir()), len(node.segments())
    code, text = screen(node, capsys)
    assert code == 1 and "not running: nothing is watched" in text and f"owes {count} segments" in text
    assert "-> systemctl start holdfast-edge" in text
    assert show.status(node.config, as_json=True) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (
        answer["running"] is False and answer["owed"]["segments"] == count and answer["owed"]["unsealed"] == 0
    )
    assert sorted(node.folder.iterdir()) == before


def test_what_a_damaged_outbox_owes_is_unknown(
    live: Callable[..., Live], capsys: pytest.CaptureFixture[str]
) -> None:
    node = live()
    node.start()
    node.drive(30)
    assert node.stop() == 0, node.logged()
    (node.folder / "outbox.db").write_bytes(b"no database " * 1000)
    code, text = screen(node, capsys)
    assert code == 1 and "owes unknown: the outbox is damaged" in text and "0 segments" not in text
    assert show.status(node.config, as_json=True) == 1
    answer = json.loads(capsys.readouterr().out)["owed"]
    assert answer["segments"] is answer["alarms"] is answer["bytes"] is answer["unsealed"] is None
    assert answer["damage"]


def test_a_node_that_never_ran_and_one_that_cannot_be_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "node.toml"
    path.write_text(NODE)
    assert show.status(path, as_json=False) == 1
    out = capsys.readouterr().out
    assert "not enrolled" in out and "holdfast provision" in out and "not running" in out
    path.write_text("x = 1")
    assert show.status(path, as_json=False) == 2
    assert "holdfast config check" in capsys.readouterr().err


def test_a_missing_port_is_said_with_the_way_out(
    live: Callable[..., Live], capsys: pytest.CaptureFixture[str]
) -> None:
    node = live('[[port]]\nname = "board"\npath = "/dev/absent"\nprotocol = "board"\n')
    node.start()
    node.until(lambda s: "not there" in s["port_detail"]["board"])
    code, text = screen(node, capsys)
    assert code == 0 and "/dev/absent is not there" in text and "-> plug the device in" in text
    assert node.stop() == 0, node.logged()
