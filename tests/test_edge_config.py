"""node.toml: what is understood, and what each mistake is told."""

from __future__ import annotations

import hashlib
import os
import pty
import stat
from pathlib import Path

import pytest
from edge_kit import NODE, TYRES, config

from edge.config import BadConfig, EdgeLimits, OutboxLimits, Port, Telemetry, parse
from edge.errors import ConfigError
from edge.runtime.load import load_config, load_event_key, open_clock, shared_devices
from firmware_bridge.reading import Wheel
from firmware_bridge.wire.stamp import ClockKind

FULL = (
    NODE
    + """
kind = "vehicle"
[state]
dir = "run"
[clock]
source = "page"
page = "../clock.page"
epoch_wall_ns = 12
kind = "simulated"
[[port]]
name = "gnss"
path = "/dev/ttyUSB0"
protocol = "nmea"
baud = 38400
[[port]]
name = "board"
path = "ports/board"
protocol = "board"
[fence]
lat = 47.5
lon = 8
radius_m = 5000
[uplink]
host = "broker.example"
[chirpstack]
host = "127.0.0.1"
[outbox]
max_bytes = 1048576
keep_one_in = 8
[edge]
commit_interval_s = 2
acceptance_socket = "/tmp/oracle"
log_level = "debug"
[telemetry]
heartbeat_s = 60
"""
    + TYRES
)


def test_a_full_file_is_understood() -> None:
    parsed = config(FULL, "/etc/holdfast")
    assert parsed.state_dir == "/etc/holdfast/run"
    assert parsed.path("outbox.db") == "/etc/holdfast/run/outbox.db"
    assert parsed.clock.kind is ClockKind.SIMULATED and parsed.clock.synced
    assert parsed.clock.page == "/etc/holdfast/../clock.page"
    assert [(p.name, p.path, p.baud) for p in parsed.ports] == [
        ("gnss", "/dev/ttyUSB0", 38400), ("board", "/etc/holdfast/ports/board", 9600),
    ]  # fmt: skip
    assert parsed.tyres["a1b2c3d6"] is Wheel.REAR_LEFT
    assert parsed.fence is not None and parsed.fence.lon_deg == 8.0
    assert parsed.uplink is not None and (parsed.uplink.port, parsed.uplink.server_name) == (
        8883,
        "broker.example",
    )
    assert parsed.chirpstack is not None and parsed.chirpstack.topic.startswith("application/")
    assert parsed.outbox == OutboxLimits(max_bytes=1048576, keep_one_in=8)
    assert parsed.edge == EdgeLimits(
        commit_interval_s=2.0, acceptance_socket="/tmp/oracle", log_level="debug"
    )
    assert parsed.telemetry == Telemetry(heartbeat_s=60.0)
    assert parsed.hash == hashlib.sha256(FULL.encode()).digest()


def test_the_shortest_file_is_a_vehicle_with_defaults() -> None:
    parsed = config()
    assert parsed.node.kind == "vehicle" and parsed.state_dir == "/state"
    assert parsed.clock.source == "system" and parsed.clock.kind is ClockKind.LIVE and not parsed.clock.synced
    assert parsed.ports == () and parsed.tyres == {} and parsed.fence is None and parsed.uplink is None


@pytest.mark.parametrize(
    ("line", "version"), [("", "3.1.1"), ('mqtt = "3.1.1"', "3.1.1"), ('mqtt = "5"', "5")]
)
def test_the_uplink_speaks_mqtt_3_1_1_unless_told(line: str, version: str) -> None:
    uplink = config(NODE + f'[uplink]\nhost = "x"\n{line}\n').uplink
    assert uplink is not None and uplink.mqtt == version


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[node", "not TOML"),
        ("", "tenant"),
        ('[node]\ntenant = "A"\ndevice = "x"', "lower-case"),
        ('[node]\ntenant = "a"\ndevice = "../x"', "lower-case"),
        (NODE + 'kind = "boat"', "vehicle, roadside"),
        (NODE + "colour = 1", "colour"),
        (NODE + "[telemetri]\nheartbeat_s = 1", "telemetri"),
        (NODE + "[telemetry]\nheartbeat = 1", "heartbeat"),
        (NODE + "[telemetry]\nheartbeat_s = nan", "heartbeat_s"),
        (NODE + "[telemetry]\nposition_interval_s = 0", "position_interval_s"),
        (NODE + "[edge]\ncommit_interval_s = 301", "commit_interval_s"),
        (NODE + "[edge]\nlog_level = 'loud'", "log_level"),
        (NODE + "[outbox]\nmax_bytes = 10", "max_bytes"),
        (NODE + "[outbox]\nkeep_one_in = true", "keep_one_in"),
        (NODE + "[clock]\nsource = 'page'\nkind = 'replay'", "page"),
        (NODE + "[clock]\nsource = 'page'\npage = 'x'", "never live"),
        (NODE + "[clock]\nkind = 'replay'", "need a page"),
        (NODE + "[fence]\nlat = 91\nlon = 0\nradius_m = 5", "lat"),
        (NODE + "[uplink]\nport = 1", "host"),
        (NODE + "[uplink]\nhost = 'x'\nmqtt = '4'", "mqtt"),
        (NODE + "[uplink]\nhost = 'x'\nmqtt = 5", "mqtt"),
        (NODE + "[port]\nname = 'x'", "double brackets"),
        (NODE + "[[port]]\nname = 'x'\npath = '/a'\nprotocol = 'can'", "protocol"),
        (NODE + "[[port]]\nname = 'x'\npath = '/a'\nprotocol = 'nmea'\nbaud = 1", "baud"),
        (NODE + 2 * "[[port]]\nname = 'x'\npath = '/a'\nprotocol = 'nmea'\n", "twice"),
        (
            NODE + "".join(f"[[port]]\nname = '{n}'\npath = '/a'\nprotocol = 'nmea'\n" for n in "xy"),
            "one reader",
        ),
        (
            NODE + "".join(f"[[port]]\nname='{n}'\npath='/{n}'\nprotocol='nmea'\n" for n in range(17)),
            "at most 16",
        ),
        (NODE + "[vehicle.tyres]\nFL = 'xyz'", "hexadecimal"),
        (NODE + "[vehicle.tyres]\nFL = 'aa'\nFR = 'AA'", "another wheel"),
        (NODE + "[vehicle.tyres]\nXX = 'aa'", "XX"),
        (NODE + "[state]\ndir = '/" + "x" * 120 + "'", "shorten"),
    ],
)
def test_each_mistake_is_named(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse(text, base="/state")


def test_every_mistake_is_said_at_once_in_the_order_of_the_file() -> None:
    text = (
        "[node]\ntenant = 'A b'\n[edge]\nlog_level = 'loud'\nseal_interval_s = 0\n"
        "[telemetry]\nhartbeat_s = 1\n[[port]]\nname = 'a'\npath = '/a'\nprotocol = 'nmea'\n"
        "[[port]]\nname = 'a'\nprotocol = 'can'\nbaud = 1\n[fence]\nlat = 91\nlon = 'x'\n"
        "[clock]\nsource = 'page'\n[outbox]\nmax_bytes = 1.5\n[extra]\n"
    )
    with pytest.raises(BadConfig) as caught:
        parse(text, base="/state")
    assert [problem.where for problem in caught.value.problems] == [
        "node.device", "node.tenant", "clock.page", "clock.kind",
        "port[1].path", "port[1].protocol", "port[1].baud", "port[1].name",
        "fence.lat", "fence.lon", "fence.radius_m", "outbox.max_bytes",
        "edge.seal_interval_s", "edge.log_level", "telemetry.hartbeat_s", "extra",
    ]  # fmt: skip
    assert all(problem.text for problem in caught.value.problems)
    assert "0.05 to 3600 s" in str(caught.value) and "did you mean heartbeat_s?" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["node = 5", "port = 5", "edge = []", "fence = 1", "vehicle = { tyres = 1 }"]
)
def test_what_is_no_table_is_one_mistake(text: str) -> None:
    with pytest.raises(BadConfig) as caught:
        parse(f"{text}\n{'' if 'node' in text else NODE}", base="/state")
    assert len(caught.value.problems) == 1


def test_two_ports_of_one_device_are_refused_through_links_too(tmp_path: Path) -> None:
    """/dev/serial/by-id leads to the same device as by-path and as /dev/ttyUSB0."""
    device = tmp_path / "ttyUSB0"
    device.write_text("")
    for link in ("by-id", "by-path"):
        (tmp_path / link).symlink_to(device)
    path = tmp_path / "node.toml"
    port = "[[port]]\nname = '{0}'\npath = '{1}'\nprotocol = 'nmea'\n"
    path.write_text(NODE + port.format("a", "by-id") + port.format("b", "by-path"))
    with pytest.raises(ConfigError, match=r"path '.*by-path' is the same device as '.*by-id' of port a"):
        load_config(path)
    (tmp_path / "by-path").unlink()
    (tmp_path / "by-path").symlink_to(tmp_path / "ttyUSB1")
    assert [port.name for port in load_config(path).ports] == ["a", "b"]


def test_two_nodes_of_one_device_are_one_device(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    name, other = os.ttyname(slave), tmp_path / "other"
    try:
        os.mknod(other, stat.S_IFCHR | 0o600, os.stat(name).st_rdev)
    except PermissionError:
        pytest.skip("making a device node needs root")
    try:
        (problem,) = shared_devices((Port("a", name, "nmea"), Port("b", str(other), "nmea")))
        assert problem.where == "port[1].path"
        assert shared_devices((Port("a", name, "nmea"), Port("b", "/dev/null", "nmea"))) == []
        assert shared_devices((Port("a", "/dev/absent", "nmea"), Port("b", "/dev/absent2", "nmea"))) == []
    finally:
        os.close(master)
        os.close(slave)


def test_loading_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    with pytest.raises(ConfigError, match=r"node\.toml"):
        load_config(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(path)
    path.write_text(NODE + "x = 1")
    with pytest.raises(ConfigError, match=r"node\.toml.*does not know x"):
        load_config(path)


def test_a_missing_key_or_page_says_what_to_do(tmp_path: Path) -> None:
    parsed = parse(NODE + "[clock]\nsource = 'page'\nkind = 'replay'\npage = 'p'", base=str(tmp_path))
    with pytest.raises(ConfigError, match="enrol"):
        load_event_key(parsed)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "event.key").write_text("no key")
    with pytest.raises(ConfigError, match="enrol"):
        load_event_key(parsed)
    with pytest.raises(ConfigError, match="page"):
        open_clock(parsed)
