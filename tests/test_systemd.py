"""The files of systemd/: their commands exist, the examples parse, and systemd finds nothing to say."""

from __future__ import annotations

import configparser
import importlib.metadata
import re
import shutil
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from cloud_sync.collector import Policy
from cloud_sync.runtime import collector_files
from edge import config
from edge.errors import ConfigError
from provisioning.runtime.lab import ORIGIN, make_lab

FOLDER = Path(__file__).resolve().parent.parent / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
COMMANDS = {point.name for point in importlib.metadata.entry_points(group="holdfast.commands")}
INSTALLED = "/opt/holdfast/bin/holdfast"


class Unit(configparser.RawConfigParser):
    """A unit file; of a key that stands more than once, the last word."""

    def __init__(self, file: Path) -> None:
        super().__init__(strict=False, interpolation=None)
        self.read_string(file.read_text("utf-8"))


def need(tool: str) -> str:
    """The tool's path; skips where it is not installed."""
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed")
    return found


def test_the_units_are_there() -> None:
    assert [unit.stem for unit in UNITS] == ["holdfast-collector", "holdfast-edge", "holdfast-uplink"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_verifies_the_unit_in_silence(unit: Path, tmp_path: Path) -> None:
    analyze = need("systemd-analyze")
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text("utf-8").replace(INSTALLED, "/bin/true"), "utf-8")
    result = subprocess.run(
        [analyze, "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_what_the_unit_starts_exists(unit: Path) -> None:
    service = Unit(unit)["Service"]
    program, command, option, _file = service["ExecStart"].split()
    assert (program, option) == (INSTALLED, "--config")
    assert command in COMMANDS


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_unit_runs_confined_as_a_user_that_sysusers_makes(unit: Path) -> None:
    service = Unit(unit)["Service"]
    users = re.findall(r"^u (\S+)", (FOLDER / "holdfast.sysusers").read_text("utf-8"), re.MULTILINE)
    assert service["User"] in users
    assert (service["CapabilityBoundingSet"], service["NoNewPrivileges"]) == ("", "yes")
    assert (service["ProtectSystem"], service["Restart"]) == ("strict", "always")


def test_only_the_edge_claims_to_notify_and_only_it_sees_devices() -> None:
    services = {unit.stem: Unit(unit)["Service"] for unit in UNITS}
    assert {name for name, service in services.items() if service["Type"] == "notify"} == {"holdfast-edge"}
    assert services["holdfast-edge"]["IPAddressDeny"] == "any"
    assert services["holdfast-edge"]["User"] == services["holdfast-uplink"]["User"]
    assert all("PrivateDevices" in services[name] for name in ("holdfast-uplink", "holdfast-collector"))


def test_sysusers_reads_its_file() -> None:
    result = subprocess.run(
        [need("systemd-sysusers"), "--dry-run", FOLDER / "holdfast.sysusers"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Unknown" not in result.stderr


def test_udev_rules_jump_to_a_label_that_exists() -> None:
    rules = (FOLDER / "70-holdfast.rules").read_text("utf-8")
    assert set(re.findall(r'GOTO="(\w+)"', rules)) == set(re.findall(r'LABEL="(\w+)"', rules))
    assert {"holdfast/gnss", "holdfast/board"} == set(re.findall(r'SYMLINK\+="([\w/]+)"', rules))


def example(name: str, *, all_of_it: bool = False) -> str:
    """An example as it lies there, or with every `#key = value` and `#[section]` taken in."""
    text = (FOLDER / name).read_text("utf-8")
    return re.sub(r"^#(?=\[|[\w.]+ = )", "", text, flags=re.MULTILINE) if all_of_it else text


def parsed(*, all_of_it: bool) -> config.Config:
    return config.parse(example("node.toml.example", all_of_it=all_of_it), base="/etc/holdfast")


def test_the_node_example_is_a_node_at_its_defaults() -> None:
    node = parsed(all_of_it=False)
    assert node.state_dir == "/var/lib/holdfast"
    assert node.clock == config.ClockConfig()
    assert (node.outbox, node.edge, node.telemetry) == (
        config.OutboxLimits(),
        config.EdgeLimits(),
        config.Telemetry(),
    )
    assert node.tyres == {} and node.fence is None and node.chirpstack is None
    rules = (FOLDER / "70-holdfast.rules").read_text("utf-8")
    links = re.findall(r'SYMLINK\+="([\w/]+)"', rules)
    assert {port.path for port in node.ports} == {f"/dev/{link}" for link in links}


def test_the_node_example_states_the_true_defaults() -> None:
    node = parsed(all_of_it=True)
    assert (node.outbox, node.telemetry) == (config.OutboxLimits(), config.Telemetry())
    assert node.edge == config.EdgeLimits(acceptance_socket=node.edge.acceptance_socket)
    assert node.clock == config.ClockConfig(page=node.clock.page)
    assert node.uplink == config.UplinkConfig("broker.example", 8883, "broker.example")
    assert node.chirpstack == config.ChirpStack("localhost")
    assert node.fence is not None and len(node.tyres) == len(config.WHEELS)


def test_the_node_example_names_every_section_and_key() -> None:
    document = tomllib.loads(example("node.toml.example", all_of_it=True))
    tables: dict[str, Any] = {
        "node": config.Node, "clock": config.ClockConfig, "uplink": config.UplinkConfig,
        "chirpstack": config.ChirpStack, "outbox": config.OutboxLimits, "edge": config.EdgeLimits,
        "telemetry": config.Telemetry,
    }  # fmt: skip
    for name, table in tables.items():
        assert set(document[name]) == {field.name for field in fields(table)}, name
    assert all(set(port) == {field.name for field in fields(config.Port)} for port in document["port"])
    assert set(document["vehicle"]["tyres"]) == set(config.WHEELS)
    assert set(document) == {*tables, "state", "port", "vehicle", "fence"}


@pytest.mark.parametrize("all_of_it", [False, True], ids=["as it lies", "all of it"])
def test_the_collector_example_is_read_with_its_keys(tmp_path: Path, all_of_it: bool) -> None:
    lab = make_lab(tmp_path / "lab", "tenant-a", [("car-1", "vehicle")], "localhost")
    file = lab.collector / "collector.toml"
    file.write_text(example("collector.toml.example", all_of_it=all_of_it), "utf-8")
    collector = collector_files.load_config(file)
    collector_files.load_keys(collector)
    assert (collector.store, collector.log_level) == (lab.collector / "store.db", "info")
    assert (collector.host, collector.port) == ("broker.example", 8883)
    assert (collector.server_name, collector.client_id) == ("broker.example", "tenant-a.collector")
    assert collector.policy == Policy()
    assert collector.clock.get("source", "system") == "system"
    assert collector.origin.split("/")[0] == ORIGIN.split("/")[0]


def test_the_collector_example_names_every_section_and_key() -> None:
    document = tomllib.loads(example("collector.toml.example", all_of_it=True))
    assert {name: set(table) for name, table in document.items()} == collector_files._SECTIONS


def test_a_misspelt_key_of_an_example_would_be_found() -> None:
    text = example("node.toml.example").replace("#max_age_s", "max_agee_s")
    with pytest.raises(ConfigError, match="max_agee_s"):
        config.parse(text, base="/etc/holdfast")
