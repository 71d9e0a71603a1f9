"""The files of systemd/: their commands exist, the examples parse, and systemd finds nothing to say."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
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


NODE_DAEMONS = ("holdfast-edge", "holdfast-roadside", "holdfast-uplink", "holdfast-metrics")
CLOUD_DAEMONS = ("holdfast-ca", "holdfast-collector", "holdfast-serve")
RENEWAL, BROKER, COLLECTOR = "holdfast-renew", "holdfast-broker-renew", "holdfast-collector-renew"
RENEWALS = (RENEWAL, BROKER, COLLECTOR)
NODE_FILES = {
    *(f"usr/lib/systemd/system/{name}.service" for name in (*NODE_DAEMONS, RENEWAL)),
    f"usr/lib/systemd/system/{RENEWAL}.timer",
    "usr/lib/sysusers.d/holdfast-node.conf",
    "usr/lib/tmpfiles.d/holdfast-node.conf",
    "usr/lib/udev/rules.d/70-holdfast.rules",
    "etc/holdfast/node.toml.example",
    "etc/holdfast/credentials.conf.example",
}
CLOUD_FILES = {
    *(f"usr/lib/systemd/system/{name}.service" for name in (*CLOUD_DAEMONS, BROKER, COLLECTOR)),
    *(f"usr/lib/systemd/system/{name}.timer" for name in (BROKER, COLLECTOR)),
    "usr/lib/sysusers.d/holdfast-cloud.conf",
    "usr/lib/tmpfiles.d/holdfast-cloud.conf",
    "etc/holdfast/collector.toml.example",
    "etc/holdfast/serve.toml.example",
}
BOTH_FILES = {"usr/lib/systemd/system/holdfast.target", "usr/bin/holdfast"}
ROLES = {
    "node": NODE_FILES | BOTH_FILES,
    "cloud": CLOUD_FILES | BOTH_FILES,
    "all": NODE_FILES | CLOUD_FILES | BOTH_FILES,
}


def make(target: str, root: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """`make install` or `make uninstall` in a staging root, without the environment."""
    values = {"DESTDIR": root, "INSTALL_ENV": 0, **settings}
    return subprocess.run(
        ["make", "-s", "-C", FOLDER.parent, target, *(f"{name}={value}" for name, value in values.items())],
        capture_output=True,
        text=True,
        check=False,
    )


def installed(root: Path, **settings: object) -> None:
    result = make("install", root, **settings)
    assert result.returncode == 0, result.stdout + result.stderr


def files(root: Path) -> set[str]:
    """Every file and link below `root`."""
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_symlink() or not p.is_dir()}


def analyze(*args: object) -> subprocess.CompletedProcess[str]:
    tool = need("systemd-analyze")
    return subprocess.run([tool, *map(str, args)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of units, installed for a PREFIX at which the program that they start exists."""
    home = tmp_path_factory.mktemp("units")
    program = home / "prefix" / "bin" / "holdfast"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n", "utf-8")
    program.chmod(0o755)
    installed(home / "root", PREFIX=home / "prefix", ROLE="all")
    return home / "root" / "usr/lib/systemd/system"


def test_the_units_are_there() -> None:
    assert sorted(unit.stem for unit in UNITS) == sorted((*NODE_DAEMONS, *CLOUD_DAEMONS, *RENEWALS))


def test_systemd_verifies_all_units_in_silence(rendered: Path) -> None:
    units = sorted(rendered.iterdir())
    assert len(units) == len(UNITS) + len(RENEWALS) + 1  # the timers and the target
    result = analyze("verify", "--man=no", *units)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_systemd_would_name_a_key_that_it_does_not_know(rendered: Path, tmp_path: Path) -> None:
    copy = tmp_path / "holdfast-edge.service"
    copy.write_text((rendered / copy.name).read_text("utf-8") + "\n[Service]\nWatchdogSecs=3\n", "utf-8")
    assert "WatchdogSecs" in analyze("verify", "--man=no", copy).stderr


@pytest.mark.parametrize(
    ("names", "most"),
    [(NODE_DAEMONS, 17), ((*CLOUD_DAEMONS, COLLECTOR), 17), ((RENEWAL,), 23), ((BROKER,), 16)],
)
def test_exposure_stays_below_its_bound(rendered: Path, names: tuple[str, ...], most: int) -> None:
    """In tenths. Two renewals are root, to reload edge and broker, with capabilities to be another user."""
    for name in names:
        result = analyze("security", "--offline=true", f"--threshold={most}", rendered / f"{name}.service")
        assert result.returncode == 0, result.stdout[-200:] + result.stderr


def test_an_unconfined_unit_is_above_the_bound(tmp_path: Path) -> None:
    unit = tmp_path / "bare.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n", "utf-8")
    assert analyze("security", "--offline=true", "--threshold=17", unit).returncode == 1


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_what_the_unit_starts_exists(unit: Path) -> None:
    program, *words = Unit(unit)["Service"]["ExecStart"].split()
    assert program == INSTALLED
    result = subprocess.run(
        [
            Path(sys.executable).parent / "holdfast",
            *(w for w in words if "/" not in w and w[0] != "-"),
            "--help",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert all(word in result.stdout for word in words if word.startswith("--"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_unit_runs_confined_as_a_user_that_sysusers_makes(unit: Path) -> None:
    service = Unit(unit)["Service"]
    assert (service["NoNewPrivileges"], service["ProtectSystem"]) == ("yes", "strict")
    assert (service["UMask"], service["LimitCORE"]) == ("0077", "0")
    if unit.stem in (RENEWAL, BROKER):
        assert "User" not in service
        return
    part = "node" if unit.stem in NODE_DAEMONS else "cloud"
    text = (FOLDER / f"holdfast-{part}.sysusers").read_text("utf-8")
    assert service["User"] in re.findall(r"^u (\S+)", text, re.MULTILINE)
    assert service["CapabilityBoundingSet"] == ""
    assert unit.stem == COLLECTOR or service["Restart"] == "always"


def test_who_notifies_is_watched_and_only_the_edge_sees_devices() -> None:
    services = {unit.stem: Unit(unit)["Service"] for unit in UNITS}
    watched = {*NODE_DAEMONS, "holdfast-collector", "holdfast-serve"}
    assert {name for name, service in services.items() if service["Type"] == "notify"} == watched
    assert {name for name, service in services.items() if "WatchdogSec" in service} == watched
    for name in ("holdfast-edge", "holdfast-roadside"):
        assert services[name]["IPAddressDeny"] == "any"
        assert services[name]["DevicePolicy"] == "closed"
        assert services[name]["ExecReload"] == "/bin/sh -c 'kill -HUP $MAINPID'"
        assert services[name]["User"] == services["holdfast-uplink"]["User"]
    seeing = {name for name in services if "PrivateDevices" not in services[name]}
    assert seeing == {*NODE_DAEMONS[:2], RENEWAL}
    assert services[RENEWAL]["DevicePolicy"] == "closed"
    assert services[RENEWAL]["DeviceAllow"] == "/dev/tpmrm0 rw", "what systemd-creds opens sealed keys with"


def test_edge_and_roadside_differ_in_their_command_alone() -> None:
    def lines(name: str) -> set[str]:
        return set((FOLDER / f"{name}.service").read_text("utf-8").splitlines())

    differ = lines("holdfast-edge") ^ lines("holdfast-roadside")
    assert {line.split("=")[0] for line in differ} == {"Description", "Conflicts", "ExecStart"}
    assert Unit(FOLDER / "holdfast-roadside.service")["Unit"]["Conflicts"] == "holdfast-edge.service"


def test_every_unit_belongs_to_the_target_and_starts_only_when_it_is_set_up() -> None:
    for file in (*UNITS, *(FOLDER / f"{name}.timer" for name in RENEWALS)):
        unit = Unit(file)
        if file.stem not in RENEWALS or file.suffix == ".timer":
            assert unit["Unit"]["PartOf"] == "holdfast.target", file.name
            assert unit["Install"]["WantedBy"] == "holdfast.target", file.name
        if file.suffix == ".service":
            assert unit["Unit"]["ConditionPathExists"].startswith(("/etc/holdfast/", "/var/lib/holdfast"))


def test_renewal_is_daily_spread_and_caught_up() -> None:
    timer = Unit(FOLDER / f"{RENEWAL}.timer")["Timer"]
    assert (timer["OnCalendar"], timer["Persistent"], timer["RandomizedDelaySec"]) == ("daily", "yes", "6h")
    result = analyze("calendar", timer["OnCalendar"])
    assert result.returncode == 0 and "Next elapse" in result.stdout


def test_the_broker_s_list_is_looked_at_long_before_it_ends() -> None:
    timer = Unit(FOLDER / f"{BROKER}.timer")["Timer"]
    assert (timer["OnCalendar"], timer["Persistent"]) == ("*-*-* 00/12:00:00", "yes")
    result = analyze("calendar", timer["OnCalendar"])
    assert result.returncode == 0 and "Next elapse" in result.stdout


@pytest.mark.parametrize("part", ["node", "cloud"])
def test_sysusers_and_tmpfiles_read_their_files(part: str, tmp_path: Path) -> None:
    users = subprocess.run(
        [need("systemd-sysusers"), "--dry-run", FOLDER / f"holdfast-{part}.sysusers"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert users.returncode == 0, users.stderr
    assert "Unknown" not in users.stderr
    text = (FOLDER / f"holdfast-{part}.tmpfiles").read_text("utf-8")
    mine = re.sub(r"(?<= )(holdfast\S*|root)(?= )", "-", text)  # the users are not on this machine
    (tmp_path / "t.conf").write_text(mine, "utf-8")
    (tmp_path / "root").mkdir()
    made = subprocess.run(
        [need("systemd-tmpfiles"), "--create", f"--root={tmp_path / 'root'}", tmp_path / "t.conf"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (made.returncode, made.stderr) == (0, "")
    for kind, path, mode in re.findall(r"^([dz]) (\S+) (\d+)", text, re.MULTILINE):
        if kind == "d":
            assert (tmp_path / "root" / path.lstrip("/")).stat().st_mode & 0o7777 == int(mode, 8)


# --- make install ------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_install_puts_exactly_its_files_and_uninstall_takes_them(role: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    installed(root, ROLE=role)
    manifest = "opt/holdfast/install-manifest"
    assert files(root) == {*ROLES[role], manifest}
    assert {line[1:] for line in (root / manifest).read_text("utf-8").splitlines()} == ROLES[role]
    assert os.readlink(root / "usr/bin/holdfast") == INSTALLED
    result = make("uninstall", root)
    assert result.returncode == 0, result.stderr
    assert [*root.rglob("*")] == []


def test_the_installed_path_stands_in_the_units(tmp_path: Path) -> None:
    installed(tmp_path, PREFIX="/srv/hf")
    assert os.readlink(tmp_path / "usr/bin/holdfast") == "/srv/hf/bin/holdfast"
    for name in (*NODE_DAEMONS, RENEWAL):
        text = (tmp_path / f"usr/lib/systemd/system/{name}.service").read_text("utf-8")
        assert "ExecStart=/srv/hf/bin/holdfast " in text and "/opt/holdfast" not in text
    assert make("uninstall", tmp_path, PREFIX="/srv/hf").returncode == 0
    assert [*tmp_path.rglob("*")] == []


def test_configuration_and_data_outlive_both(tmp_path: Path) -> None:
    kept = {"etc/holdfast/node.toml": "mine", "etc/holdfast/node.toml.example": "edited by hand",
            "var/lib/holdfast/outbox.db": "events", "opt/holdfast/notes": "a person's"}  # fmt: skip
    for name, text in kept.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    for _ in range(2):  # a second installation is an upgrade
        installed(tmp_path, ROLE="node")
    installed(tmp_path, ROLE="cloud")  # and what the first role put there is still ours
    assert make("uninstall", tmp_path).returncode == 0
    assert {name: (tmp_path / name).read_text("utf-8") for name in files(tmp_path)} == kept


def test_an_environment_in_a_staging_root_works_at_its_place_and_is_removed(tmp_path: Path) -> None:
    env = tmp_path / "opt/holdfast"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env], check=True)
    script = env / "bin/holdfast"
    script.write_text(f"#!{env}/bin/python\nprint('here')\n", "utf-8")
    script.chmod(0o755)
    installed(tmp_path)
    texts = [file for file in env.rglob("*") if file.is_file() and not file.is_symlink()]
    assert [file.name for file in texts if str(tmp_path) in file.read_text("utf-8", "replace")] == []
    assert script.read_text("utf-8").startswith("#!/opt/holdfast/bin/python\n")
    assert {"opt/holdfast/bin/python", "opt/holdfast/pyvenv.cfg"} < files(tmp_path)
    assert make("uninstall", tmp_path).returncode == 0
    assert [*tmp_path.rglob("*")] == []


def test_a_file_of_another_at_our_command_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/holdfast").write_text("another's", "utf-8")
    result = make("install", tmp_path)
    assert result.returncode == 0 and "another's file" in result.stderr
    make("uninstall", tmp_path)
    assert files(tmp_path) == {"usr/bin/holdfast"}


@pytest.mark.parametrize(
    "settings", [{"ROLE": "edge"}, {"PREFIX": "opt"}, {"PREFIX": "/"}, {"PREFIX": "/a|b"}, {"DESTDIR": "rel"}]
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_written(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    result = make("install", tmp_path / "root", **settings)
    assert result.returncode == 2 and "install: " in result.stderr
    assert not (tmp_path / "root").exists()


def test_uninstall_of_nothing_says_so(tmp_path: Path) -> None:
    result = make("uninstall", tmp_path)
    assert result.returncode == 2 and "nothing of Holdfast is installed" in result.stderr


# --- udev and examples -------------------------------------------------------------------------------


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
