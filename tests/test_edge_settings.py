"""What can be set is told as it is enforced: names, units, ranges, defaults, lines, what a change needs."""

from __future__ import annotations

import dataclasses
import re
import tomllib

import pytest
from edge_kit import NODE, config

from edge import settings
from edge.config import ConfigError, EdgeLimits, OutboxLimits, Telemetry, parse
from edge.settings import Setting, check_flat, line_of, lines_of

EVERY = settings.settings()
FILLED = (
    NODE
    + "[[port]]\nname = 'gnss'\npath = '/dev/x'\nprotocol = 'nmea'\n[fence]\nlat = 1\nlon = 2\nradius_m = 3\n"
    "[uplink]\nhost = 'broker.example'\n[chirpstack]\nhost = 'localhost'\n[vehicle.tyres]\nFL = 'aa'\n"
)


def test_every_setting_has_a_reason_and_stands_once() -> None:
    assert len({one.name for one in EVERY}) == len(EVERY) > 45
    for one in EVERY:
        assert len(one.reason) > 15 and one.reason.endswith("."), one.name
        assert one.default or one.required, one.name


@pytest.mark.parametrize(
    "one", [one for one in EVERY if one.unit != "ns" and one.low > float("-inf")],
    ids=lambda one: one.name,
)  # fmt: skip
def test_a_range_that_is_told_is_the_one_that_is_enforced(one: Setting) -> None:
    """The bounds themselves pass; a step beyond is refused, and the refusal names setting and unit."""
    table, key = one.name.split(".")

    def read(value: float) -> None:
        text = FILLED if table in ("port", "fence", "uplink", "chirpstack") else NODE
        head = f"[[{table}]]" if table == "port" else f"[{table}]"
        lines = [line for line in text.splitlines() if not line.startswith(f"{key} =")]
        if head not in lines:
            lines.append(head)
        lines.insert(lines.index(head) + 1, f"{key} = {value!r}")
        parse("\n".join(lines), base="/state")

    whole = one.type == "integer"
    low, high = (int(one.low), int(one.high)) if whole else (float(one.low), float(one.high))
    read(low)
    read(high)
    for beyond in (low - (1 if whole else 1e-3), high + (1 if whole else 1e-3)):
        if whole and beyond >= 1 << 63:
            continue  # TOML has no such integer
        with pytest.raises(ConfigError, match=rf"{key}.*{re.escape(one.unit)}"):
            read(beyond)


@pytest.mark.parametrize(
    ("table", "shape"), [("outbox", OutboxLimits), ("edge", EdgeLimits), ("telemetry", Telemetry)]
)
def test_a_default_that_is_told_is_the_one_that_is_taken(table: str, shape: type) -> None:
    taken = dataclasses.asdict(shape())
    for one in EVERY:
        if one.name.startswith(f"{table}.") and one.default != "not set":
            assert tomllib.loads(f"x = {one.default}")["x"] == taken[one.name.split(".")[1]]


def test_one_key_one_table_and_the_nearest_name() -> None:
    assert [one.name for one in settings.explain("heartbeat_s")] == ["telemetry.heartbeat_s"]
    assert [one.name for one in settings.explain("telemetry.heartbeat_s")] == ["telemetry.heartbeat_s"]
    assert {one.name for one in settings.explain("fence")} == {"fence.lat", "fence.lon", "fence.radius_m"}
    assert len(settings.explain("port")) == 6, "the table [[port]], and the key of two brokers"
    with pytest.raises(ConfigError, match="did you mean heartbeat_s"):
        settings.explain("hartbeat_s")
    with pytest.raises(ConfigError, match="did you mean telemetry"):
        settings.explain("telemtry")


def test_what_a_change_needs() -> None:
    assert settings.takes_effect("telemetry.heartbeat_s") == "systemctl reload holdfast-edge"
    assert settings.takes_effect("port.gnss.baud", kind="roadside") == "systemctl reload holdfast-roadside"
    assert settings.takes_effect("fence.lat") == "systemctl restart holdfast-edge"
    assert settings.takes_effect("edge.acceptance_socket") == "systemctl restart holdfast-edge"
    assert settings.takes_effect("uplink.host") == "systemctl restart holdfast-uplink"
    assert settings.reloadable("edge.log_level") and not settings.reloadable("node.device")


def test_differences_are_by_name_and_defaults_are_not_differences() -> None:
    assert settings.defaults(config(NODE)) == []
    assert settings.defaults(config(FILLED)) == []
    changed = config(FILLED.replace("'/dev/x'", "'/dev/y'") + "[telemetry]\nheartbeat_s = 60\n")
    told = {one.name: (one.before, one.after) for one in settings.diff(config(FILLED), changed)}
    assert told == {
        "port.gnss.path": ('"/dev/x"', '"/dev/y"'), "telemetry.heartbeat_s": ("900.0", "60.0"),
    }  # fmt: skip
    assert [one.name for one in settings.defaults(changed)] == ["telemetry.heartbeat_s"]
    fewer = settings.diff(config(FILLED), config(NODE))
    assert {one.after for one in fewer} == {"not set"} and "fence.lat" in {one.name for one in fewer}


# ---- the template ------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [None, "broker.example"])
@pytest.mark.parametrize("kind", ["vehicle", "roadside"])
def test_a_template_is_valid_as_it_is_and_names_everything(kind: str, host: str | None) -> None:
    text = settings.template("node.toml", tenant="fund", device="car-1", kind=kind, host=host)
    parsed = parse(text, base="/state")
    assert (parsed.node.tenant, parsed.node.kind, parsed.ports) == ("fund", kind, ())
    assert (parsed.uplink is None) == (host is None)
    for one in EVERY:
        assert re.search(rf"^#?{re.escape(one.name.split('.', 1)[1])} = ", text, re.MULTILINE), one.name


def test_every_line_of_a_template_can_be_taken_as_it_stands() -> None:
    text = settings.template("node.toml", tenant="fund", device="car-1", kind="vehicle", host=None)
    out = re.sub(r"^#(?=[\w.]+ = |\[)", "", text, flags=re.MULTILINE)
    parsed = parse(
        out.replace('kind = "live"', 'kind = "simulated"').replace('"system"', '"page"'), base="/s"
    )
    assert len(parsed.ports) == 1 and len(parsed.tyres) == 4 and parsed.fence is not None
    assert parsed.telemetry == Telemetry() and parsed.outbox == OutboxLimits()


def test_a_name_that_is_none_gives_no_template() -> None:
    with pytest.raises(ConfigError, match="lower-case"):
        settings.template("node.toml", tenant="Fund A", device="car-1", kind="vehicle", host=None)


# ---- lines and the other files -----------------------------------------------------------------------

TEXT = """# a comment = 1
[edge]
log_level = "info"
[[port]]
name = "a"
[[port]]
  "name" = "b"
note = \"\"\"
fake = 1
[fake]
\"\"\"
path = "/x"
[vehicle]
tyres.FL = "aa"
"""


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("edge.log_level", 3), ("port[0].name", 5), ("port[1].name", 7), ("port[1].path", 12), ("port", 4),
        ("vehicle.tyres.FL", 14), ("edge.absent", 2), ("port[1].absent", 6), ("fake.x", None), ("", None),
        ("vehicle.tyres.FR", 13), ("port[7].name", 4),
    ],
)  # fmt: skip
def test_the_line_of_a_setting(where: str, line: int | None) -> None:
    assert line_of(where, lines_of(TEXT)) == line


OTHER = [
    Setting("a.port", "integer", "", "1 .. 9", "1", "x", 1, 9),
    Setting("a.level", "text", "", "info, error", '"info"', "x", words=("info", "error")),
    Setting("a.names", "list of texts", "", "", "[]", "x", words=("one", "two")),
    Setting("b.on", "true or false", "", "", "false", "x"),
    Setting("b.life", "number", "s", "0.5 .. 2", "1", "x", 0.5, 2),
]


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"a": {"port": 3, "level": "error", "names": ["one"]}, "b": {"on": True, "life": 1}}, []),
        ({"a": {"port": 10}}, ["is 10; it must lie from 1 to 9"]),
        ({"a": {"port": True}}, ["must be integer from 1 to 9, not True"]),
        ({"a": {"port": "3"}}, ["not '3'"]),
        ({"a": {"level": "eror"}}, ["did you mean error?"]),
        ({"a": {"names": ["one", 2]}}, ["holds 2"]),
        ({"a": {"names": ["three"]}}, ["one of one, two"]),
        ({"b": {"on": 1}}, ["must be true or false"]),
        ({"b": {"life": float("nan")}}, ["it must lie from 0.5 to 2 s"]),
        ({"b": {"live": 1}}, ["did you mean life?"]),
        ({"c": {}}, ["[c] is not known; there are a, b"]),
        ({"a": 5}, ["[a] is not a table"]),
        ({"a": {"port": 0, "level": 5}, "b": {"x": 1}}, ["port", "level", "does not know x"]),
    ],
)
def test_a_flat_file_is_held_against_its_table(document: dict[str, object], told: list[str]) -> None:
    problems = check_flat(document, OTHER)
    assert len(problems) == len(told)
    for problem, part in zip(problems, told, strict=True):
        assert part in problem.text
