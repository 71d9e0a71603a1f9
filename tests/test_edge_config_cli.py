"""`holdfast config check | explain | diff | init`, for every kind of configuration."""

from __future__ import annotations

import importlib.metadata
import json
import math
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud_sync.runtime import collector_files
from cloud_sync.runtime import config_kinds as cloud_kinds
from cloud_sync.runtime.serve import config as serve_config
from edge.__main__ import config as app
from edge.runtime import config_kinds, config_tool
from edge.runtime.config_kinds import CA, NODE, ConfigKind, check_by_table, kind_of
from edge.settings import Setting, takes_effect
from provisioning.runtime import ca_config
from provisioning.runtime.lab import make_lab

ROOT = Path(__file__).resolve().parent.parent
KINDS = (NODE, CA, cloud_kinds.COLLECTOR, cloud_kinds.SERVE)
BAD = """[node]
tenant = "Fund A"
device = "car-1"
[edge]
log_level = "warn"
commit_interval_s = 500
[telemetri]
x = 1
[telemetry]
hartbeat_s = 5
[[port]]
name = "a"
path = "PORT"
protocol = "nmea"
[[port]]
name = "b"
path = "LINK"
protocol = "board"
baud = 1
"""


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cloud's kinds by the entry points that they are registered under."""
    registered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    points = [
        importlib.metadata.EntryPoint(name, value, config_kinds.GROUP)
        for name, value in registered[config_kinds.GROUP].items()
    ]
    absent = importlib.metadata.EntryPoint("absent", "cloud_sync.runtime.absent:ABSENT", config_kinds.GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [*points, absent])


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`holdfast config ARGS`: (exit code, stdout, stderr)."""

    def call(*args: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            app([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


Run = Callable[..., tuple[int, str, str]]


# ---- check -------------------------------------------------------------------------------------------


def test_every_mistake_is_said_at_once_with_its_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "port").write_text("")
    (tmp_path / "by-id").symlink_to(tmp_path / "port")
    path = tmp_path / "node.toml"
    path.write_text(BAD.replace("PORT", f"{tmp_path}/port").replace("LINK", f"{tmp_path}/by-id"))
    code, out, err = run("check", path)
    assert code == 2 and out == ""
    told = dict(re.findall(rf"^{re.escape(str(path))}:(\d+): (.*)$", err, re.MULTILINE))
    assert list(told) == ["2", "5", "6", "7", "10", "17", "19"]
    assert "lower-case" in told["2"] and "did you mean warning?" in told["5"]
    assert "0.05 to 300 s" in told["6"] and "did you mean telemetry?" in told["7"]
    assert "did you mean heartbeat_s?" in told["10"] and "300 to 4000000 bit/s" in told["19"]
    assert "the same device as" in told["17"] and "of port a" in told["17"]
    assert err.endswith("7 mistakes\n")


def test_json_says_the_same_on_stdout(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('[node]\ntenant = "fund"\n')
    code, out, err = run("check", path, "--json")
    told = json.loads(out)
    assert code == 2 and not told["ok"] and "device is missing" in err
    (problem,) = told["files"][0]["problems"]
    assert (problem["where"], problem["line"]) == ("node.device", 1)
    assert told["files"][0]["kind"] == "node.toml"


def test_examples_and_a_lab_are_in_order(run: Run, tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "lab", "fund", [("car-1", "vehicle")], "localhost")
    collector = lab.collector / "collector.toml"
    collector.write_text((ROOT / "systemd" / "collector.toml.example").read_text())
    serve = lab.collector / "serve.toml"
    serve.write_text((ROOT / "systemd" / "serve.toml.example").read_text())
    authority = tmp_path / "ca.toml"
    authority.write_text(ca_config.render_config(ca_config.CaConfig("fund", ("ca.example",))))
    files = (ROOT / "systemd" / "node.toml.example", collector, serve, authority)
    code, out, err = run("check", *files)
    assert (code, err) == (0, "") and out.count("in order") == 4
    for kind in KINDS:
        assert f"({kind.name})" in out


@pytest.mark.parametrize(
    ("name", "text", "line", "told"),
    [
        ("node.toml", "[node\n", 1, "not TOML"),
        ("collector.toml", "[collector]\norigin = 'o'\n[mqtt]\nhost = 'x'\nport = 0\n", 5, "1 to 65,535"),
        ("collector.toml", "[collector]\norigin = 'a b'\n[mqtt]\nhost = 'x'\nport = 1\n", None, "origin"),
        ("collector.toml", "[colector]\n", 1, "did you mean collector?"),
        ("serve.toml", "[serve]\ncolector = 'x'\n", 2, "did you mean collector?"),
        ("serve.toml", "[serve]\ncollector = 'x'\nhost = '0.0.0.0'\n", 3, "clear text"),
        ("ca.toml", "[ca]\ntenant = 'fund'\nhosts = ['x']\ndays = 399\n", 4, "1 to 398 days"),
        ("ca.toml", "[ca]\ntenant = 'Fund'\nhosts = ['x']\n", None, "lower-case"),
        ("other.toml", "[serve]\nprt = 1\n", 2, "did you mean port?"),
        ("other.toml", "x = 1\n", None, "say --kind"),
    ],
)
def test_the_other_configurations(
    run: Run, tmp_path: Path, name: str, text: str, line: int | None, told: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    code, _, err = run("check", path)
    assert code == 2
    assert err.startswith(f"{path}:{line}: " if line else f"{path}: ") and told in err, err


def test_files_that_cannot_be_read_are_exit_2(run: Run, tmp_path: Path) -> None:
    assert run("check", tmp_path / "absent.toml")[0] == 2
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    assert "UTF-8" in run("check", tmp_path / "bytes.toml")[2]
    (tmp_path / "large.toml").write_bytes(b"#" * (config_kinds.MAX_CONFIG_BYTES + 1))
    assert "is it the right file" in run("check", tmp_path / "large.toml")[2]
    assert run("check", "--kind", "nood", tmp_path / "bytes.toml")[0] == 2


def test_a_kind_is_known_by_name_by_table_or_by_word(tmp_path: Path) -> None:
    assert kind_of(Path("x/serve.toml"), "") is cloud_kinds.SERVE
    assert kind_of(Path("node.toml.example"), "") is NODE
    assert kind_of(Path("x.toml"), "[ca]\n") is CA
    assert kind_of(Path("x.toml"), "", "collector") is cloud_kinds.COLLECTOR
    assert set(config_kinds.kinds()) == {kind.name for kind in KINDS}


# ---- the tables of the other files are what their readers enforce ------------------------------------


def keys_of(known: Any) -> set[str]:
    return {f"{table}.{key}" for table, keys in known.items() for key in keys}


def test_each_table_names_what_its_reader_knows() -> None:
    assert {one.name for one in cloud_kinds.serve_settings()} == keys_of(serve_config.SECTIONS)
    assert {one.name for one in cloud_kinds.collector_settings()} == keys_of(collector_files._SECTIONS)
    assert {one.name for one in config_kinds.ca_settings()} == keys_of(ca_config._KNOWN)
    for kind in KINDS:
        assert all(len(one.reason) > 10 and one.reason.endswith(".") for one in kind.settings()), kind.name


SERVE = "[serve]\ncollector = 'collector.toml'\n"
CA_TEXT = "[ca]\ntenant = 'fund'\nhosts = ['x']\n"
RANGED = [
    *((SERVE, one, serve_config.load_config) for one in cloud_kinds.serve_settings()),
    *((CA_TEXT, one, ca_config.load_config) for one in config_kinds.ca_settings()),
]


@pytest.mark.parametrize(
    ("text", "one", "load"),
    [case for case in RANGED if case[1].high < math.inf],
    ids=lambda one: getattr(one, "name", ""),
)
def test_the_readers_bounds_are_the_tables(
    tmp_path: Path, text: str, one: Setting, load: Callable[[Path], object]
) -> None:
    table, key = one.name.split(".")
    path = tmp_path / "file.toml"

    def read(value: int) -> None:
        document = {**tomllib.loads(text)}
        document.setdefault(table, {})[key] = value
        if table == "smtp":
            document[table] |= {"host": "mail.example", "from": "a@example.org"}
        if one.name == "session.idle_s":
            document[table]["life_s"] = 90 * 86_400
        if one.name == "session.life_s":
            document[table]["idle_s"] = 60
        path.write_text(
            "\n".join(
                f"[{t}]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in d.items())
                for t, d in document.items()
            )
        )
        load(path)

    read(int(one.low))
    read(int(one.high))
    for beyond in (int(one.low) - 1, int(one.high) + 1):
        with pytest.raises(Exception, match=key):
            read(beyond)


def test_what_the_table_lets_pass_and_the_reader_does_not_is_said(tmp_path: Path) -> None:
    def load() -> None:
        raise ValueError("[a] port is taken")

    (problem,) = check_by_table(
        "[a]\nport = 1\n", [Setting("a.port", "integer", "", "", "1", "x")], load, ValueError
    )
    assert (problem.where, problem.text) == ("a.port", "[a] port is taken")


# ---- explain -----------------------------------------------------------------------------------------


def test_explain_says_unit_range_default_reason_and_what_is_in_effect(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('[node]\ntenant = "fund"\ndevice = "car-1"\n[telemetry]\nheartbeat_s = 60\n')
    code, out, _ = run("explain", "heartbeat_s", "--config", path)
    assert code == 0
    assert "telemetry.heartbeat_s\n  number, 1 .. 86,400 s; default 900.0\n" in out
    assert f"in effect: 60.0 ({path}:5)" in out and "systemctl reload holdfast-edge" in out
    assert "in effect: 5.0 (the default)" in run("explain", "commit_interval_s", "--config", path)[1]
    told = json.loads(run("explain", "heartbeat_s", "--config", path, "--json")[1])
    assert told[0]["in_effect"] == [
        {"setting": "telemetry.heartbeat_s", "value": "60.0", "from": f"{path}:5"}
    ]


def test_explain_of_a_port_says_each_port(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    port = '[[port]]\nname = "{0}"\npath = "/dev/{0}"\nprotocol = "nmea"\n'
    path.write_text('[node]\ntenant = "fund"\ndevice = "car-1"\n' + port.format("a") + port.format("b"))
    out = run("explain", "port.path", "--config", path)[1]
    assert f'for port.a.path: "/dev/a" ({path}:6)' in out and f'for port.b.path: "/dev/b" ({path}:10)' in out


def test_explain_of_everything_of_every_kind(run: Run) -> None:
    for kind in KINDS:
        code, out, _ = run("explain", "--kind", kind.name.removesuffix(".toml"))
        assert code == 0
        for one in kind.settings():
            assert re.search(rf"^{re.escape(one.name)}$", out, re.MULTILINE), one.name
    code, _, err = run("explain", "hartbeat_s", "--kind", "node")
    assert code == 2 and "did you mean heartbeat_s?" in err


def test_the_page_of_all_settings_is_what_the_code_says() -> None:
    """Write it anew: holdfast config explain --markdown > docs/configuration.md"""
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert page == config_tool.markdown(KINDS)
    for kind in KINDS:
        assert all(f"| {one.name} |" in page for one in kind.settings())


def test_the_page_is_printed(run: Run) -> None:
    code, out, _ = run("explain", "--markdown")
    assert code == 0 and out == config_tool.markdown(KINDS)


# ---- diff --------------------------------------------------------------------------------------------


def test_diff_from_the_defaults_and_between_files(run: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    node = '[node]\ntenant = "fund"\ndevice = "car-1"\n'
    first.write_text(node)
    second.write_text(node + "[edge]\nlog_level = 'debug'\n[fence]\nlat = 1\nlon = 2\nradius_m = 3\n")
    assert run("diff", first) == (0, "nothing differs\n", "")
    assert run("diff", second)[1] == 'edge.log_level: "info" -> "debug"\n'
    out = run("diff", first, second)[1]
    assert 'edge.log_level: "info" -> "debug"   [systemctl reload holdfast-edge]' in out
    assert "fence.lat: not set -> 1.0   [systemctl restart holdfast-edge]" in out
    told = {one["name"]: one for one in json.loads(run("diff", first, second, "--json")[1])}
    assert told["fence.lat"]["takes_effect"] == takes_effect("fence.lat")
    second.write_text("nonsense = 1")
    assert run("diff", first, second)[0] == 2


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        ("serve", SERVE + "port = 9000\n", "serve.port: 8480 -> 9000\n"),
        ("ca", CA_TEXT + "days = 30\n", "ca.days: 90 -> 30\n"),
        ("collector", "[collector]\norigin = 'o'\n[mqtt]\nhost = 'x'\nport = 1\n", "nothing differs\n"),
    ],
)
def test_diff_of_the_other_configurations(run: Run, tmp_path: Path, kind: str, text: str, told: str) -> None:
    path, other = tmp_path / f"{kind}.toml", tmp_path / "other.toml"
    path.write_text(text)
    other.write_text(text)
    assert run("diff", path) == (0, told, "")
    assert run("diff", path, other, "--kind", kind) == (0, "nothing differs\n", "")


# ---- init --------------------------------------------------------------------------------------------


def test_init_writes_a_file_that_passes_and_replaces_none(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    code, out, _ = run("init", "--out", path, "--tenant", "fund", "--device", "car-7", "--host", "b.example")
    assert code == 0 and "config check" in out
    assert run("check", path)[0] == 0
    before = path.read_text()
    code, _, err = run("init", "--out", path)
    assert code == 2 and "not replaced" in err and path.read_text() == before
    code, out, _ = run("init")
    assert code == 0 and tomllib.loads(out)["node"]["tenant"] == "tenant-a"
    assert run("init", "--device", "car/1")[0] == 2
    assert run("init", "--device", "car+")[0] == 2
    assert run("init", "--out", tmp_path / "absent" / "node.toml")[0] == 2


def test_a_kind_is_a_configkind() -> None:
    assert all(isinstance(kind, ConfigKind) for kind in KINDS)
