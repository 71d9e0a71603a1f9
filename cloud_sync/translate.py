"""The devices' English sentences in Chinese. Pure.

A device signs what it says in English (`models/`); the page shows a Chinese rendering beside it. Each
template below is a clause or a whole sentence of `models/`, with its figures as fields. Sentences made of
clauses are translated clause by clause; where a single clause is unknown, the whole text stays as the device
said it: half a translation would hide which half is somebody's words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

MAX_TEXT_CHARS: Final = 700
"""Longer texts are no device's sentence (`incidents.MAX_SENTENCE_CHARS`) and are not searched."""

_NUMBER: Final = r"-?\d+(?:\.\d+)?"
_FIELDS: Final[dict[str, str]] = {
    "d": rf"{_NUMBER} (?:s|min|h)",  # duration, as models.incident.duration
    "m": rf"{_NUMBER} k?m",  # way, as models.incident.metres
    "n": _NUMBER,
    "t": r"(?:(?! has been | heard ).){1,200}",  # a name: stays as it is
    "c": r".+",  # clauses joined by ", " and " and "
}
_UNITS: Final = {"s": "秒", "min": "分钟", "h": "小时", "m": "米", "km": "公里"}
_JOINT: Final = re.compile(r", | and ")
_FIELD: Final = re.compile(r"\{(\w+):(\w)\}")

_CLAUSES: Final[tuple[tuple[str, str], ...]] = (
    # fence
    ("{away:m} beyond the edge, by fixes that persist", "超出边界 {away}，连续多次定位一致"),
    ("Doppler speed adds up to the same way", "由多普勒速度累计的路程与之相符"),
    # jamming
    ("no position for {gone:d}", "已有 {gone} 没有定位"),
    ("the receiver's own jamming indicator is set", "接收机自身的干扰指示已触发"),
    (
        "satellites in view, none heard for {gone:d}, {how:c}",
        "天空中有卫星，却已有 {gone} 一颗也收不到，{how}",
    ),
    ("although it stood under an open sky", "而车辆当时停在开阔天空下"),
    ("while it drove on, longer than most tunnels", "而车辆仍在行驶，时间比通过大多数隧道更长"),
    (
        "at one blow while it drove on, where a tunnel fades",
        "而车辆仍在行驶，信号一下子全部消失，若是隧道则会逐渐减弱",
    ),
    (
        "shaken at {rms:n} m/s² rms: it is not parked under a roof",
        "振动有效值 {rms} m/s²：车辆并非停在室内",
    ),
    # silence
    (
        "the board at {port:t} has been silent for {gone:d}, {due:d} were announced",
        "端口 {port} 上的采集板已静默 {gone}，而其预告的间隔为 {due}",
    ),
    ("the board at {port:t} has been silent for {gone:d}", "端口 {port} 上的采集板已静默 {gone}"),
    (
        "the receiver at {port:t} has been silent for {gone:d} in a drive",
        "端口 {port} 上的接收机在行驶中已静默 {gone}",
    ),
    ("the board that belongs here has not spoken in {gone:d}", "本应在此的采集板已有 {gone} 没有任何消息"),
    # tamper
    ("the tracker's case was opened", "追踪器外壳被打开"),
    ("its supply was cut ({volts:n} V)", "供电被切断（{volts} V）"),
    ("the board has been silent for {gone:d}", "采集板已静默 {gone}"),
    ("most likely it is being removed", "很可能正在被拆除"),
    ("the supply is still there ({volts:n} V)", "供电仍然正常（{volts} V）"),
    ("the tracker's case is open", "追踪器外壳处于打开状态"),
    ("its supply is cut ({volts:n} V)", "供电已被切断（{volts} V）"),
    ("blows of up to {peak:n} m/s²", "受到冲击，最大 {peak} m/s²"),
    ("the receiver is silent too", "接收机也已静默"),
    (
        "none of {known:n} tyre sensors heard over {road:m} under an engine",
        "在发动机运转下行驶 {road}，其 {known} 个胎压传感器一个也未收到",
    ),
    ("{road:m} of road since it was parked", "自停放以来已行驶 {road}"),
    # towing
    ("{known:n} tyres cold and unchanged", "{known} 个轮胎冷却且无变化"),
    ("no engine ({volts:n} V)", "发动机未运转（{volts} V）"),
    ("a tilt of {tilt:n} degrees before it moved", "移动前车身倾斜 {tilt} 度"),
    ("transport vibration", "有运输中的振动"),
    (
        "{known:n} of {all:n} enrolled tyre sensors heard, none rolled since it was parked",
        "已登记的 {all} 个胎压传感器中收到 {known} 个，自停放以来没有一个报告滚动",
    ),
    (
        "{way:m} from where it was parked, by fixes and by Doppler speed",
        "距停放处 {way}，定位与多普勒速度一致",
    ),
    (
        "{still:n} tyre sensors said 'standing' while it moved",
        "移动期间有 {still} 个胎压传感器报告“静止”",
    ),
    ("tilted up to {tilt:n} degrees against the parked position", "相对停放姿态最大倾斜 {tilt} 度"),
    ("repeated shocks up to {peak:n} m/s²", "反复受到冲击，最大 {peak} m/s²"),
    ("shaken at {rms:n} m/s² rms as in transport", "振动有效值 {rms} m/s²，与运输中相同"),
    ("supply at rest, {volts:n} V: no engine", "供电处于静置水平，{volts} V：发动机未运转"),
    # projection
    (
        "{node:t} heard {n:n} enrolled tyre sensor of this vehicle, first at {at:t}",
        "{node} 收到本车 {n} 个已登记的胎压传感器，首次于 {at}",
    ),
    (
        "{node:t} heard {n:n} enrolled tyre sensors of this vehicle, first at {at:t}",
        "{node} 收到本车 {n} 个已登记的胎压传感器，首次于 {at}",
    ),
)
"""Clauses, each also an evidence text of its own or a part of a sentence."""

_SENTENCES: Final[tuple[tuple[str, str], ...]] = (
    # closing
    ("It is back in its region.", "车辆已回到其区域内。"),
    ("All sources speak again.", "所有数据来源均已恢复。"),
    ("The silence belongs to the removal.", "此次静默属于拆除事件的一部分。"),
    ("The receiver has positions again and hears its satellites.", "接收机已恢复定位，并能收到卫星信号。"),
    (
        "The case is closed and supplied again for {shut:d}.",
        "追踪器外壳已合上，供电已恢复，至今持续 {shut}。",
    ),
    (
        "Its own wheels turn again: tyre sensors report rolling, so it is being driven.",
        "车轮重新转动：胎压传感器报告滚动，说明车辆正在自行行驶。",
    ),
    (
        "It stands level at its place again, still for {still:d}.",
        "车辆已回到原处并保持水平，静止了 {still}。",
    ),
    # opening
    (
        (
            "Left its region of {radius:m} around its place: now {away:m} beyond the edge, {gone:d} after it "
            "was last inside, at {speed:n} km/h."
        ),
        (
            "已驶离以其驻地为中心、半径 {radius} 的区域：目前超出边界 {away}，"
            "距最后一次在区域内已过 {gone}，时速 {speed} 公里。"
        ),
    ),
    (
        (
            "No position for {gone:d} although the receiver works: its own indicator says that it is being "
            "jammed."
        ),
        "接收机工作正常，却已有 {gone} 没有定位：接收机自身的指示表明正在受到干扰。",
    ),
    (
        (
            "No satellite heard for {gone:d} although the receiver works, {how:c}; most likely it is being "
            "jammed."
        ),
        "接收机工作正常，却已有 {gone} 收不到任何卫星，{how}；很可能正在受到干扰。",
    ),
    ("{what:c}; nothing announced it and the port is in order.", "{what}；事先没有任何预告，且端口正常。"),
    (
        (
            "The tracker travelled {road:m} in {gone:d} and heard none of its {known:n} tyre sensors; most "
            "likely it was moved to another vehicle."
        ),
        "追踪器在 {gone} 内移动了 {road}，其 {known} 个胎压传感器一个也未收到；很可能已被移装到另一辆车上。",
    ),
    (
        (
            "Being lifted or winched for {gone:d} without a wheel turning: tilted {tilt:n} degrees from "
            "where it was parked, repeated shocks, {known:n} tyres standing, no engine ({volts:n} V); most "
            "likely onto a flatbed."
        ),
        (
            "车轮未转动，车辆却已被吊起或绞拉 {gone}：相对停放姿态倾斜 {tilt} 度，反复受到冲击，"
            "{known} 个轮胎静止，发动机未运转（{volts} V）；很可能正在被装上平板车。"
        ),
    ),
    (
        "Moved {way:m} in {gone:d} without a wheel turning: {how:c}; most likely on a flatbed.",
        "车轮未转动，车辆却在 {gone} 内移动了 {way}：{how}；很可能在平板车上。",
    ),
    ("{what:c}; {likely:c}.", "{what}；{likely}。"),
)
"""Whole sentences, tried in this order: the most particular first."""


@lru_cache(maxsize=4096)
def to_chinese(text: str) -> str:
    """`text` in Chinese, figures kept; unchanged where any part of it is not a known template."""
    if len(text) > MAX_TEXT_CHARS:
        return text
    first, sep, rest = text.partition(" Since then: ")
    if not sep:
        return _whole(text) or text
    before = _whole(first)
    news = [_clause(part) for part in rest.removesuffix(".").split("; ")]
    known = [part for part in news if part is not None]
    return text if before is None or len(known) < len(news) else f"{before}此后：{'；'.join(known)}。"


def _whole(text: str) -> str | None:
    for pattern, chinese in _SENTENCE_PATTERNS:
        found = _render(pattern, chinese, text)
        if found is not None:
            return found
    return _clause(text)


def _clause(text: str) -> str | None:
    for pattern, chinese in _CLAUSE_PATTERNS:
        found = _render(pattern, chinese, text)
        if found is not None:
            return found
    return None


def _clauses(text: str) -> str | None:
    """A clause, or several joined by ", " and " and "."""
    whole = _clause(text)
    if whole is not None:
        return whole
    for at in _JOINT.finditer(text):
        head = _clause(text[: at.start()])
        tail = None if head is None else _clauses(text[at.end() :])
        if head is not None and tail is not None:
            return f"{head}，{tail}"
    return None


def _render(pattern: re.Pattern[str], chinese: str, text: str) -> str | None:
    match = pattern.fullmatch(text)
    if match is None:
        return None
    shown: dict[str, str] = {}
    for group, value in match.groupdict().items():
        said = _SHOW[group[-1]](value)
        if said is None:
            return None
        shown[group[:-3]] = said
    return chinese.format_map(shown)


def _measure(value: str) -> str | None:
    number, _, unit = value.rpartition(" ")
    return f"{number} {_UNITS[unit]}"


_SHOW: Final[dict[str, Callable[[str], str | None]]] = {
    "d": _measure,
    "m": _measure,
    "n": lambda value: value,
    "t": lambda value: value,
    "c": lambda value: _clauses(value),
}


def _compiled(english: str, chinese: str) -> tuple[re.Pattern[str], str]:
    parts: list[str] = []
    end = 0
    for field in _FIELD.finditer(english):
        parts.append(re.escape(english[end : field.start()]))
        parts.append(f"(?P<{field[1]}__{field[2]}>{_FIELDS[field[2]]})")
        if field[2] in "dm":  # its unit is a Chinese word: no space between that and the next
            chinese = chinese.replace(f"{{{field[1]}}} ", f"{{{field[1]}}}")
        end = field.end()
    parts.append(re.escape(english[end:]))
    source = "".join(parts)
    first = english[0]
    if first.isalpha():  # a clause that begins a sentence begins with a capital
        source = f"(?:{first.lower()}|{first.upper()}){source[1:]}"
    return re.compile(source), chinese


_CLAUSE_PATTERNS: Final = tuple(_compiled(*pair) for pair in _CLAUSES)
_SENTENCE_PATTERNS: Final = tuple(_compiled(*pair) for pair in _SENTENCES)
