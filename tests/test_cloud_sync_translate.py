from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models_world import BLIND, LAT, LON, World
from test_models_detector import play

from cloud_sync.projection import sighting_line
from cloud_sync.translate import MAX_TEXT_CHARS, to_chinese
from firmware_bridge.sim.scenario import scenario
from models.fence import Fence
from models.incident import duration, metres
from models.verdict import Verdict

MODELS = Path(__file__).resolve().parent.parent / "models"
LATIN = re.compile(r"[A-Za-z]+(?:/[A-Za-z]+)?")
UNITS = {"V", "m/s"}


def untranslated(text: str, names: tuple[str, ...] = ("board", "gnss")) -> list[str]:
    """Latin words of the rendering that are neither units nor given names."""
    return [word for word in LATIN.findall(to_chinese(text)) if word not in UNITS and word not in names]


def texts(verdicts: list[Verdict]) -> set[str]:
    return {v.sentence for v in verdicts} | {e.text for v in verdicts for e in v.evidence}


def figures(text: str) -> list[str]:
    return sorted(re.findall(r"\d+(?:\.\d+)?", text))


# -- against what the detector says --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tow", "pulled", "left-region", "jammed", "default"])
def test_everything_said_in_a_scenario_is_translated(name: str) -> None:
    verdicts, _ = play(scenario(name))
    said = texts(verdicts)
    assert said
    for text in said:
        assert untranslated(text) == [], text
        assert figures(to_chinese(text)) == figures(text)


def worlds() -> Iterator[World]:
    """Hand-driven vehicles that reach the rarer sentences."""
    silent = World().drive(300)
    silent.board = False
    yield silent.drive(4000)
    silent.board = True
    yield silent.drive(120)
    absent = World(expects_board=True)
    absent.board = False
    yield absent.drive(3000)
    deaf = World().drive(400)
    deaf.gnss = False
    yield deaf.drive(1500)
    opened = World().parked()
    opened.case_open = True
    opened.run(120)
    opened.volts = 0.1
    opened.run(60)
    opened.board = False
    opened.run(900)
    opened.board, opened.case_open = True, False
    yield opened.park(1200)
    jammed = World().drive(400)
    jammed.sky, jammed.jamming = BLIND, True
    jammed.drive(600)
    jammed.sky, jammed.jamming = (True, 11, 45.0), False
    yield jammed.drive(300)
    roofless = World().parked()
    roofless.sky, roofless.peak = BLIND, 12.0
    yield roofless.run(2400)
    yield World(fence=Fence(LAT, LON, 2000.0)).drive(400)
    towed = World(fence=Fence(LAT, LON, 4000.0)).parked()
    towed.tilt_deg, towed.peak, towed.rms = 14.0, 9.0, 0.6
    towed.run(120)
    towed.speed = 8.0
    towed.run(400)
    towed.sky = BLIND
    towed.run(400)
    towed.sky, towed.speed, towed.rms, towed.peak = (True, 11, 45.0), 0.0, 0.02, 0.05
    yield towed.drive(200)
    carried = World().parked()
    carried.tyre_radio = False
    yield carried.drive(1800)


def test_everything_said_in_a_hand_driven_world_is_translated() -> None:
    said: set[str] = set()
    for world in worlds():
        said |= texts(world.verdicts)
    assert len({re.sub(r"[\d.]+", "#", text) for text in said}) >= 25
    assert any(" Since then: " in text for text in said)
    wrong = {text: untranslated(text) for text in said if untranslated(text)}
    assert wrong == {}


# -- against the sources -------------------------------------------------------------------------------

PARTS = {
    ", 12 min were announced",  # joined to the clause of the board
    "X; nothing announced it and the port is in order.",  # of clauses
    "X; X.",
    "X, X and X",
    "X Since then: X.",
}
"""Frames around clauses, checked with real clauses by the worlds above."""
NAMES = {
    "away": metres(2400),
    "gone": duration(95),
    "how": "although it stood under an open sky",
    "', '.join(how)": "transport vibration",
    "port.name": "board",
    "news[1:]": "",
    "first[1:]": "",
    **dict.fromkeys(("news", "news[0].upper()", "first[0].upper()", "likely"), "X"),
    **dict.fromkeys(("parts[0]", "parts[1]", "parts[2]"), "X"),
    "entry.last.sentence.split(' Since then: ')[0]": "X",
}


def filled(node: ast.JoinedStr) -> str:
    """The f-string with figures as the detector writes them."""
    out = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            out.append(str(part.value))
            continue
        assert isinstance(part, ast.FormattedValue)
        source = ast.unparse(part.value)
        if source.startswith("duration("):
            out.append(duration(700))
        elif source.startswith("metres("):
            out.append(metres(340))
        elif part.format_spec is not None:
            spec = ast.unparse(part.format_spec)[2:-1]
            out.append(format(12.34, spec))
        else:
            out.append(NAMES.get(source, "4"))
    return "".join(out)


def written() -> Iterator[tuple[str, str]]:
    """(where, text) of every text for people in `models/`."""
    for path in sorted(set(MODELS.glob("*.py")) - {MODELS / "__main__.py"}):
        tree = ast.parse(path.read_text("utf-8"))
        skip: set[ast.AST] = set()
        for node in ast.walk(tree):
            wording = isinstance(node, ast.FunctionDef) and node.name in ("duration", "metres")
            if isinstance(node, ast.Raise) or wording:
                skip.update(ast.walk(node))
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ground":
                skip.update(ast.walk(node.args[0]))
            elif isinstance(node, ast.JoinedStr):
                skip.update(inner for inner in ast.walk(node) if inner is not node)
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                skip.add(node.value)
        for node in ast.walk(tree):
            if node in skip:
                continue
            if isinstance(node, ast.JoinedStr):
                yield f"{path.name}:{node.lineno}", filled(node)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
                yield f"{path.name}:{node.lineno}", node.value


def test_every_text_in_the_sources_is_translated() -> None:
    found = list(written())
    assert len(found) > 40
    for where, text in found:
        if text.strip() in PARTS or text in (" and ", " Since then: "):
            continue
        assert untranslated(text) == [], f"{where}: {text}"


def test_the_check_of_the_sources_sees_a_new_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "new.py").write_text('def claim(n: int) -> str:\n    return f"The mast fell {n} times."\n')
    monkeypatch.setattr(sys.modules[__name__], "MODELS", tmp_path)
    assert [untranslated(text) for _, text in written()] == [["The", "mast", "fell", "times"]]


# -- pieces --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        (
            (
                "Moved 340 m in 2 min without a wheel turning: 4 tyres cold and unchanged, no engine "
                "(12.4 V), a tilt of 12 degrees before it moved, transport vibration; most likely on a "
                "flatbed."
            ),
            (
                "车轮未转动，车辆却在 2 分钟内移动了 340 米：4 个轮胎冷却且无变化，发动机未运转（12.4 V），"
                "移动前车身倾斜 12 度，有运输中的振动；很可能在平板车上。"
            ),
        ),
        (
            (
                "The tracker's case was opened, its supply was cut (0.1 V) and the board has been silent for "
                "3 min; most likely it is being removed."
            ),
            "追踪器外壳被打开，供电被切断（0.1 V），采集板已静默 3 分钟；很可能正在被拆除。",
        ),
        (
            "It stands level at its place again, still for 5 min.",
            "车辆已回到原处并保持水平，静止了 5 分钟。",
        ),
        (
            (
                "The board at /dev/ttyS1 has been silent for 45 min, 15 min were announced and the receiver "
                "at gnss has been silent for 3.1 h in a drive; nothing announced it and the port is in order."
            ),
            (
                "端口 /dev/ttyS1 上的采集板已静默 45 分钟，而其预告的间隔为 15 分钟，"
                "端口 gnss 上的接收机在行驶中已静默 3.1 小时；事先没有任何预告，且端口正常。"
            ),
        ),
    ],
)
def test_a_sentence_is_put_into_chinese(english: str, chinese: str) -> None:
    assert to_chinese(english) == chinese


@pytest.mark.parametrize("sensors", [1, 3])
def test_a_sighting_is_put_into_chinese(sensors: int) -> None:
    text = sighting_line("road-7", sensors, "2026-12-01T04:40:00.000Z")[1]
    assert (
        to_chinese(text) == f"road-7 收到本车 {sensors} 个已登记的胎压传感器，首次于 2026-12-01T04:40:00.000Z"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Something nobody foresaw.",
        "Moved 340 m in 2 min without a wheel turning: by magic; most likely on a flatbed.",
        "It is back in its region. Since then: something else.",
        "Moved far in 2 min without a wheel turning: transport vibration; most likely on a flatbed.",
        "<img src=x onerror=alert(1)>",
    ],
)
def test_what_is_not_wholly_known_stays_as_it_was_said(text: str) -> None:
    assert to_chinese(text) == text


def test_braces_in_a_name_stay_as_they_are() -> None:
    text = "the board at {due} has been silent for 95 s"
    assert to_chinese(text) == "端口 {due} 上的采集板已静默 95 秒"


@given(st.text(max_size=80), st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_any_text_gives_a_text_and_keeps_its_figures(noise: str, number: int) -> None:
    assert str(number) in to_chinese(f"no position for {number} s{noise}")
    assert bool(to_chinese(noise)) is bool(noise)


def test_a_long_chain_of_clauses_is_refused_or_rendered_without_a_search() -> None:
    clause = "the board at a has been silent for 3 s, 3 s were announced"
    chain = " and ".join([clause] * 11)
    text = f"{chain[0].upper()}{chain[1:]}; nothing announced it and the port was odd."
    assert to_chinese(text[:MAX_TEXT_CHARS]) == text[:MAX_TEXT_CHARS]
