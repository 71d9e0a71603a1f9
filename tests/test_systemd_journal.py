"""An installed unit under a real systemd and its journald: what the daemon says arrives with its fields."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pid1_kit import Pid1, why_not

from edge.runtime.kinds import UPLINK_KINDS
from provisioning.runtime.lab import make_lab

UPLINK = "holdfast-uplink.service"
PREPARE = """
cp -R /opt/hf/shared/state/. /var/lib/holdfast
chown -R holdfast:holdfast /var/lib/holdfast
systemctl enable holdfast.target
"""


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pid1]:
    if reason := why_not():
        pytest.skip(reason)
    home = tmp_path_factory.mktemp("journal", numbered=True)
    home.chmod(0o755)
    made = Pid1(home)
    lab = make_lab(home / "lab", "tenant-a", [("car-1", "vehicle")], "localhost")
    shutil.copytree(lab.nodes["car-1"], made.shared / "state")
    made.install()
    made.write(
        "/etc/holdfast/node.toml",
        '[node]\ntenant = "tenant-a"\ndevice = "car-1"\n[state]\ndir = "/var/lib/holdfast"\n'
        '[uplink]\nhost = "127.0.0.1"\nport = 1\n',
    )
    try:
        made.start(PREPARE)
        yield made
    finally:
        made.close()


def entries(machine: Pid1, *matches: str) -> list[dict[str, str]]:
    """What `journalctl -o json` has."""
    done = machine.run("journalctl", "-o", "json", "--no-pager", *matches)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_units_lines_are_in_the_journal_with_their_fields(machine: Pid1) -> None:
    assert machine.systemctl("start", "systemd-journald.socket", "systemd-journald.service").returncode == 0
    assert machine.systemctl("start", UPLINK).returncode == 0, machine.said()
    machine.until(lambda: bool(entries(machine, "HOLDFAST_KIND=uplink_away")))
    entry = entries(machine, f"MESSAGE_ID={UPLINK_KINDS['uplink_away'].message_id}")[0]
    assert entry["MESSAGE"].startswith("no connection to 127.0.0.1:1: ")
    assert (entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"]) == ("4", "holdfast-uplink")
    assert (entry["HOLDFAST_DEVICE"], entry["HOLDFAST_TENANT"]) == ("car-1", "tenant-a")
    assert entry["HOLDFAST_BROKER"] == "127.0.0.1:1"
    assert entry["_TRANSPORT"] == "journal", "the native protocol, not a line of stderr"
    assert entry["_SYSTEMD_UNIT"] == UPLINK
    state = machine.path("/var/lib/holdfast/uplink.json")
    machine.until(state.exists)
    assert json.loads(Path(state).read_text("utf-8"))["connected"] is False
    assert machine.systemctl("stop", UPLINK).returncode == 0
    machine.until(lambda: bool(entries(machine, "HOLDFAST_KIND=uplink_stopped")))
