"""The installed units under a real systemd as process 1: ready, watched, confined, and ended without loss."""

from __future__ import annotations

import grp
import json
import os
import pty
import shutil
import signal
import sqlite3
import stat
import threading
import tty
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from edge_live import Oracle
from pid1_kit import Pid1, why_not

from edge.chain import check
from edge.event import Kind
from edge.segment import Sealed, verify
from firmware_bridge.wire import cose
from provisioning.runtime.lab import make_lab

EDGE, UPLINK, RENEWAL = "holdfast-edge.service", "holdfast-uplink.service", "holdfast-renew.timer"
STATE = "/var/lib/holdfast"
PREPARE = """
cp -R /opt/hf/shared/state/. /var/lib/holdfast
mkdir -m 700 /etc/holdfast/credentials
cd /var/lib/holdfast/keys
mv event.key /etc/holdfast/credentials/holdfast-event.key
mv tls.key /etc/holdfast/credentials/holdfast-tls.key
mkdir -p pairs/event/1 && mv event.crt pairs/event/1/
ln -s pairs/event/1 event && ln -s event/event.crt event.crt
chown -R holdfast:holdfast /var/lib/holdfast
systemctl enable holdfast.target holdfast-edge.service holdfast-uplink.service holdfast-renew.timer
"""
EDGE_DROP_IN = """[Service]
DeviceAllow=char-pts rw
WatchdogSec=4
TimeoutAbortSec=1
RestartSec=100ms
LoadCredential=holdfast-event.key:/etc/holdfast/credentials/holdfast-event.key
ExecStopPost=/bin/sh -c 'echo $SERVICE_RESULT >>/var/lib/holdfast/results'
StandardOutput=append:/opt/hf/shared/edge.log
StandardError=append:/opt/hf/shared/edge.log
"""
UPLINK_DROP_IN = """[Service]
LoadCredential=holdfast-tls.key:/etc/holdfast/credentials/holdfast-tls.key
StandardOutput=append:/opt/hf/shared/uplink.log
StandardError=append:/opt/hf/shared/uplink.log
"""


def rmc(now: datetime) -> bytes:
    """A valid fix of a moving car, now."""
    day, time = f"{now:%d%m%y}", f"{now:%H%M%S}.{now.microsecond // 10000:02d}"
    body = f"GPRMC,{time},A,4730.0000,N,00830.0000,E,20.0,90.0,{day},,,A"
    return f"${body}*{reduce(lambda sum_, byte: sum_ ^ byte, body.encode(), 0):02X}\r\n".encode()


class Machine(Pid1):
    """A node: edge on a pty that a receiver feeds, and an uplink whose broker is away."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        lab = make_lab(home / "lab", "tenant-a", [("car-1", "vehicle")], "localhost")
        shutil.copytree(lab.nodes["car-1"], self.shared / "state")
        self._key = load_pem_private_key((lab.nodes["car-1"] / "keys/event.key").read_bytes(), None)
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        port = os.ttyname(self._slave)
        os.chown(port, 0, grp.getgrnam("dialout").gr_gid)
        os.chmod(port, 0o660)
        self.oracle = Oracle(self.shared / "oracle")
        (self.shared / "oracle").chmod(0o666)
        self._end = threading.Event()
        self._writer = threading.Thread(target=self._feed)
        self.install()
        self.write(
            "/etc/holdfast/node.toml",
            f'[node]\ntenant = "tenant-a"\ndevice = "car-1"\n[state]\ndir = "{STATE}"\n'
            f'[[port]]\nname = "gnss"\npath = "{port}"\nprotocol = "nmea"\n'
            '[uplink]\nhost = "127.0.0.1"\nport = 1\n'
            '[edge]\ncommit_interval_s = 0.2\nacceptance_socket = "/opt/hf/shared/oracle"\n',
        )
        self.write(f"/etc/systemd/system/{EDGE}.d/test.conf", EDGE_DROP_IN)
        self.write(f"/etc/systemd/system/{UPLINK}.d/test.conf", UPLINK_DROP_IN)

    def begin(self) -> None:
        self._writer.start()
        self.start(PREPARE)

    def _feed(self) -> None:
        os.set_blocking(self._master, False)
        while not self._end.wait(0.1):
            try:
                os.write(self._master, rmc(datetime.now(UTC)))
            except BlockingIOError:
                continue  # nobody reads: the receiver does not wait either

    def said(self) -> str:
        logs = [self.shared / "edge.log", self.shared / "uplink.log"]
        return super().said() + "\n".join(log.read_text("utf-8")[-3000:] for log in logs if log.exists())

    def active(self, unit: str) -> None:
        """Wait until the unit is active: under Type=notify, until it said READY."""
        self.until(lambda: self.show(unit, "ActiveState") == "active")

    def status(self) -> dict[str, Any]:
        done = self.run("/usr/bin/holdfast", "status", "--json", "--config", "/etc/holdfast/node.toml")
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    def segments(self) -> list[Sealed]:
        """What the outbox holds, verified."""
        assert isinstance(self._key, ec.EllipticCurvePrivateKey)
        public = self._key.public_key()
        for file in self.path(STATE).glob("outbox.db*"):  # SQLite would follow /proc/.../root to our own root
            shutil.copy(file, self.home)
        db = sqlite3.connect(self.home / "outbox.db")
        bodies = db.execute("SELECT body FROM segments ORDER BY id").fetchall()
        db.close()
        return [verify(body, {cose.key_id(public): public}.get) for (body,) in bodies]

    def close(self) -> None:
        self._end.set()
        super().close()
        self._writer.join()
        self.oracle.close()
        os.close(self._master)
        os.close(self._slave)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if why := why_not():
        pytest.skip(f"no systemd as process 1: {why}")
    home = Path("/tmp") / f"hf-pid1-{os.getpid()}"  # below pytest's folder only root can look
    home.mkdir(mode=0o755)
    made = Machine(home)
    try:
        made.begin()
        yield made
    finally:
        made.close()
        shutil.rmtree(home, ignore_errors=True)


def test_the_edge_says_ready_and_reads_its_port(machine: Machine) -> None:
    machine.active(EDGE)
    assert machine.show(EDGE, "Type") == "notify" and '"ready": true' in machine.said()
    machine.until(lambda: machine.status().get("readings", {}).get("position", 0) > 3)
    assert machine.status()["ports"] == {"gnss": "ok"}


def test_the_uplink_says_ready_without_a_broker_stops_and_starts(machine: Machine) -> None:
    machine.active(UPLINK)
    assert "no connection to 127.0.0.1:1" in machine.said()
    assert machine.systemctl("stop", UPLINK).returncode == 0
    assert (machine.show(UPLINK, "ActiveState"), machine.show(UPLINK, "Result")) == ("inactive", "success")
    assert machine.systemctl("start", UPLINK).returncode == 0
    machine.active(UPLINK)


def test_the_state_folder_is_the_nodes_own(machine: Machine) -> None:
    folder = machine.path(STATE).stat()
    owner = int(machine.run("id", "-u", "holdfast").stdout)
    assert (folder.st_uid, stat.S_IMODE(folder.st_mode)) == (owner, 0o700)
    assert stat.S_IMODE(machine.path(f"{STATE}/outbox.db").stat().st_mode) == 0o600


def test_keys_come_as_credentials_that_nobody_else_reads(machine: Machine) -> None:
    for unit, key in ((EDGE, "event.key"), (UPLINK, "tls.key")):
        assert not machine.path(f"{STATE}/keys/{key}").exists()
        given = f"/run/credentials/{unit}/holdfast-{key}"
        assert [file.name for file in machine.path(f"/run/credentials/{unit}").iterdir()] == [
            f"holdfast-{key}"
        ]
        read = ("setpriv", "--reuid=holdfast", "--regid=holdfast", "--clear-groups", "cat", given)
        assert machine.run(*read).stdout.startswith("-----BEGIN PRIVATE KEY-----")
        refused = machine.run("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "cat", given)
        assert refused.returncode != 0 and "Permission denied" in refused.stderr


def test_the_uplink_does_not_see_the_pair_of_the_event_key(machine: Machine) -> None:
    def seen(unit: str) -> list[str]:
        folder = Path(f"/proc/{machine.main_pid(unit)}/root{STATE}/keys/pairs/event")
        return [file.name for file in folder.iterdir()]

    assert (seen(EDGE), seen(UPLINK)) == (["1"], [])


def test_the_processes_are_confined(machine: Machine) -> None:
    for unit in (EDGE, UPLINK):
        process = Path(f"/proc/{machine.main_pid(unit)}")
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
        assert status["CapBnd"] == status["CapEff"] == "0" * 16
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert os.readlink(process / "ns/user") != os.readlink(f"/proc/{machine.pid}/ns/user")
        assert list((process / "root/home").iterdir()) == []
        mounts = (process / "mountinfo").read_text().splitlines()
        assert next(line for line in mounts if line.split()[4] == "/").split()[5].startswith("ro")


def test_the_renewal_is_waiting_for_its_time(machine: Machine) -> None:
    assert machine.show(RENEWAL, "ActiveState") == "active"
    timers = machine.systemctl("list-timers", "--all", "--no-legend").stdout
    (line,) = [line for line in timers.splitlines() if RENEWAL in line]
    assert line.split()[0] != "-", "it has a next elapse"
    assert machine.show(RENEWAL, "NextElapseUSecRealtime") != ""


def test_a_stopped_edge_is_killed_by_the_watchdog_and_comes_back(machine: Machine) -> None:
    before = machine.main_pid(EDGE)
    told = len(machine.oracle.lines)
    os.kill(before, signal.SIGSTOP)
    results = machine.path(f"{STATE}/results")
    machine.until(lambda: results.exists() and results.read_text().split() == ["watchdog"])
    machine.until(lambda: machine.show(EDGE, "NRestarts") == "1")
    machine.active(EDGE)
    assert machine.main_pid(EDGE) != before
    machine.until(lambda: len(machine.oracle.lines) > told + 3)


def test_sigterm_ends_the_edge_in_order_and_nothing_accepted_is_lost(machine: Machine) -> None:
    assert machine.systemctl("stop", "holdfast.target").returncode == 0
    machine.until(lambda: machine.show(EDGE, "ActiveState") == "inactive")
    assert machine.path(f"{STATE}/results").read_text().split() == ["watchdog", "success"]
    assert machine.show(UPLINK, "ActiveState") == "inactive"
    segments = machine.segments()
    stored = {(s.segment.run.hex(), event.seq) for s in segments for event in s.segment.events}
    told = {(line["run"], line["seq"]) for line in machine.oracle.lines}
    assert told and told <= stored
    assert check(segments).complete
    last = segments[-1].segment.events[-1]
    assert last.kind is Kind.HEARTBEAT and last.body[115] == "stopped"
    fsck = machine.run("/usr/bin/holdfast", "outbox", "fsck", STATE)
    assert fsck.returncode == 0, fsck.stdout + fsck.stderr


def test_a_unit_without_its_credential_says_so_and_does_not_start(machine: Machine) -> None:
    credential = machine.path("/etc/holdfast/credentials/holdfast-event.key")
    credential.rename(credential.with_suffix(".away"))
    drop_in = machine.path(f"/run/systemd/system/{EDGE}.d/once.conf")  # tried once: what is shown stays
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nRestart=no\n", "utf-8")
    assert machine.systemctl("daemon-reload").returncode == 0
    assert machine.systemctl("start", EDGE).returncode != 0
    assert machine.show(EDGE, "Result") == "exit-code"
    assert machine.show(EDGE, "ExecMainStatus") == "243"  # EXIT_CREDENTIALS, systemd.exec(5)
    drop_in.unlink()
    assert machine.systemctl("daemon-reload").returncode == 0
    credential.with_suffix(".away").rename(credential)
    assert machine.systemctl("start", EDGE).returncode == 0, machine.said()


def test_what_is_not_set_up_is_not_started(machine: Machine) -> None:
    machine.systemctl("stop", EDGE)
    node = machine.path("/etc/holdfast/node.toml")
    node.rename(node.with_suffix(".away"))
    assert machine.systemctl("start", EDGE).returncode == 0
    assert (machine.show(EDGE, "ActiveState"), machine.show(EDGE, "ConditionResult")) == ("inactive", "no")
