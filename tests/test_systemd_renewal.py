"""A node's keys are renewed by its unit, under a real systemd, while uplink and metrics run and see none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pid1_kit import Pid1, why_not

from tests.ca_kit import World, serving
from tests.enrol_kit import Node

UPLINK, METRICS, RENEWAL = "holdfast-uplink.service", "holdfast-metrics.service", "holdfast-renew.service"
STATE = "/var/lib/holdfast"
PREPARE = """
cp -R /opt/hf/shared/state/. /var/lib/holdfast
chown -R holdfast:holdfast /var/lib/holdfast
systemctl enable holdfast.target holdfast-uplink.service holdfast-metrics.service
"""
NODE = f"""[node]
tenant = "fund"
device = "car-1"
[state]
dir = "{STATE}"
[uplink]
host = "127.0.0.1"
port = 1
"""
NOW = f"""[Service]
ExecStart=
ExecStart=/opt/holdfast/bin/holdfast provision renew --state {STATE} --force
StandardOutput=append:/opt/hf/shared/renewal.log
StandardError=append:/opt/hf/shared/renewal.log
"""
ANY_PORT = """[Service]
ExecStart=
ExecStart=/opt/holdfast/bin/holdfast metrics node --config /etc/holdfast/node.toml --listen 127.0.0.1:0
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Pid1]:
    if why := why_not():
        pytest.skip(f"no systemd as process 1: {why}")
    home = Path("/tmp") / f"hf-renewal-{os.getpid()}"  # below pytest's folder only root can look
    home.mkdir(mode=0o755)
    made, world = Pid1(home), World(home)
    try:
        with serving(world) as server:
            node = Node(home / "node", world, server.port)
            node.enrol()
            shutil.copytree(node.state, made.shared / "state", symlinks=True)
            made.install()
            made.write("/etc/holdfast/node.toml", NODE)
            made.write(f"/etc/systemd/system/{RENEWAL}.d/test.conf", NOW)
            made.write(f"/etc/systemd/system/{METRICS}.d/test.conf", ANY_PORT)
            made.start(PREPARE)
            for unit in (UPLINK, METRICS):
                made.until(lambda unit=unit: made.show(unit, "ActiveState") == "active")  # type: ignore[misc]
            yield made
    finally:
        made.close()
        world.register.close()
        shutil.rmtree(home, ignore_errors=True)


def seen(machine: Pid1, unit: str, folder: str) -> list[str]:
    """Names in a folder of the state, as the unit's process sees them."""
    path = Path(f"/proc/{machine.main_pid(unit)}/root{STATE}/{folder}")
    return sorted(file.name for file in path.iterdir())


def test_no_key_comes_into_sight_by_a_renewal(machine: Pid1) -> None:
    state = machine.path(STATE)
    assert sorted(path.name for path in (state / "keys/pairs/event").iterdir()) == ["1"]
    before = machine.main_pid(UPLINK), machine.main_pid(METRICS)
    assert seen(machine, UPLINK, "keys/pairs/tls") == ["1"]
    assert (seen(machine, UPLINK, "keys/pairs/event"), seen(machine, METRICS, "keys")) == ([], [])
    old = (state / "certs/event.crt").read_bytes()

    done = machine.systemctl("start", RENEWAL)
    log = (machine.shared / "renewal.log").read_text("utf-8")
    assert done.returncode == 0, log + machine.said()
    assert "renewed: both pairs are new" in log and "told: systemctl" in log
    assert sorted(path.name for path in (state / "keys/pairs/event").iterdir()) == ["1", "2"]
    assert (machine.main_pid(UPLINK), machine.main_pid(METRICS)) == before, "they ran all the time"

    assert seen(machine, UPLINK, "keys/pairs/tls") == ["1", "2"]
    assert (seen(machine, UPLINK, "keys/pairs/event"), seen(machine, METRICS, "keys")) == ([], [])
    assert seen(machine, METRICS, "certs") == ["ca.crt", "event.crt", "tls.crt"]
    shown = Path(f"/proc/{before[1]}/root{STATE}/certs/event.crt").read_bytes()
    assert shown == (state / "keys/pairs/event/2/event.crt").read_bytes() != old


def test_what_the_renewal_wrote_is_the_nodes(machine: Pid1) -> None:
    owner = int(machine.run("id", "-u", "holdfast").stdout)
    strangers = [path for path in machine.path(STATE).rglob("*") if path.lstat().st_uid != owner]
    assert strangers == []


def test_the_uplink_cannot_lay_a_link_among_the_keys(machine: Pid1) -> None:
    mounts = Path(f"/proc/{machine.main_pid(UPLINK)}/mountinfo").read_text("ascii").splitlines()
    options = {line.split()[4]: line.split()[5].split(",") for line in mounts}
    assert "rw" in options[STATE] and "ro" in options[f"{STATE}/keys"]
