"""The files of systemd/: no Python, the commands they start exist, and systemd finds nothing to say."""

from __future__ import annotations

import configparser
import importlib.metadata
import re
import shutil
import subprocess
from pathlib import Path

import pytest

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
