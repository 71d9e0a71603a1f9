"""What the daemons tell the service manager, and that a hung port task silences the edge's sign of life."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloudkit import make_kit, write_config
from edge_kit import NODE, SIGNER, config

from edge.config import OutboxLimits
from edge.pipeline import Pipeline
from edge.runtime import daemon as edge_daemon
from edge.runtime.daemon import PORT_BUDGET_S, Daemon
from edge.runtime.log import Log
from edge.runtime.notify import Notify, Pulses
from edge.runtime.outbox import Outbox
from firmware_bridge.link import BACKOFF_MAX_S, Link
from firmware_bridge.runtime.clock import SystemClock
from firmware_bridge.timekeeper import Now
from firmware_bridge.wire.stamp import NS
from provisioning.runtime.lab import make_lab

PORT = '[[port]]\nname = "gnss"\npath = "/dev/holdfast-nowhere"\nprotocol = "nmea"\n'
SIGN_US = 40_000
"""The watchdog of these tests; the edge gives a sign each half of it."""
WAIT_S = 30.0


class Manager:
    """The service manager's end of the socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(WAIT_S)

    def next(self) -> str:
        """What it is told next."""
        return self._socket.recv(100).decode()

    def until(self, state: str) -> None:
        """Wait until it is told `state`."""
        while self.next() != state:
            pass

    def pending(self) -> list[str]:
        """All it was told and has not looked at."""
        self._socket.setblocking(False)
        found: list[str] = []
        try:
            while True:
                found.append(self.next())
        except BlockingIOError:
            return found
        finally:
            self._socket.settimeout(WAIT_S)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(made.path))
    monkeypatch.setenv("WATCHDOG_USEC", str(SIGN_US))
    yield made
    made.close()


def test_it_tells_what_it_is_told_and_knows_its_interval(manager: Manager) -> None:
    notify = Notify()
    assert notify.interval_s == SIGN_US / 2e6
    notify.tell("READY=1")
    assert manager.next() == "READY=1"


def test_a_manager_that_is_away_or_did_not_ask_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    Notify().tell("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert Notify().interval_s is None
    Notify().tell("READY=1")


def test_a_task_is_late_when_it_was_not_seen_within_its_budget() -> None:
    now = [0.0]
    pulses = Pulses(lambda: now[0])
    budgets = {"gnss": 10.0, "board": 40.0}
    assert pulses.late(budgets) == []  # never seen: begins now
    now[0] = 10.0
    assert pulses.late(budgets) == []
    now[0] = 10.1
    assert pulses.late(budgets) == ["gnss"]
    pulses.beat("gnss")
    assert pulses.late(budgets) == []
    now[0] = 40.1
    assert pulses.late(budgets) == ["gnss", "board"]


def make_daemon(folder: Path) -> Daemon:
    """An edge with one port."""
    parsed = config(NODE + PORT, str(folder))
    log = Log("error", (folder / "log").open("w"))
    outbox = Outbox(folder, SIGNER, OutboxLimits(), seal_interval_ns=60 * NS, say=log.say)
    return Daemon(parsed, SystemClock(), Pipeline(parsed, None, software="x"), outbox, log)


def test_a_port_that_waits_for_its_next_attempt_is_not_late(tmp_path: Path) -> None:
    made, now = make_daemon(tmp_path), [0.0]
    made._pulses = Pulses(lambda: now[0])
    link = made._pipeline.links["gnss"]
    while link.backoff_s < BACKOFF_MAX_S:
        link.lost(made._seen("gnss"), "away")
    now[0] = BACKOFF_MAX_S + PORT_BUDGET_S
    assert made._ports_live()
    now[0] += 0.1
    assert not made._ports_live()
    assert "port_task_hangs" in (tmp_path / "log").read_text("utf-8")
    made._seen("gnss")
    assert made._ports_live()


def run_edge(folder: Path, manager: Manager, ticks: int) -> list[str]:
    """The edge with a port task that `run_port` is; what the manager heard in the last `ticks` ticks."""

    async def story() -> list[str]:
        made, seen = make_daemon(folder), 0
        tick = made._tick_once

        def counted() -> None:
            nonlocal seen
            seen += 1
            tick()

        made._tick_once = counted  # type: ignore[method-assign]
        running = asyncio.create_task(made.run())
        while "WATCHDOG=1" not in manager.pending():  # it lives, and says so
            await asyncio.sleep(0.01)
        made._pulses = Pulses(lambda: time.monotonic() + 1000 if seen > 20 else time.monotonic())
        while seen <= 25:
            await asyncio.sleep(0.01)
        manager.pending()
        start = seen
        while seen < start + ticks:
            await asyncio.sleep(0.01)
        heard = manager.pending()
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == 0
        return heard

    return asyncio.run(story())


def test_a_hung_port_task_ends_the_signs_of_life(
    tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs(path: str, baud: int, link: Link, now: object, deliver: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(edge_daemon, "run_port", hangs)
    assert "WATCHDOG=1" not in run_edge(tmp_path, manager, 20)


def test_a_port_task_that_looks_up_keeps_them_coming(
    tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lives(path: str, baud: int, link: Link, now: object, deliver: object) -> None:
        while True:
            assert callable(now) and isinstance(now(), Now)
            await asyncio.sleep(0.01)

    monkeypatch.setattr(edge_daemon, "run_port", lives)
    assert "WATCHDOG=1" in run_edge(tmp_path, manager, 20)


def process(command: str, file: Path) -> subprocess.Popen[bytes]:
    """A daemon whose manager is the one of the environment."""
    words = [sys.executable, "-m", "firmware_bridge", command, "--config", str(file)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("command", ["edge", "uplink", "collect"])
def test_a_daemon_is_ready_lives_and_stops(command: str, tmp_path: Path, manager: Manager) -> None:
    if command == "collect":
        file = write_config(make_kit(tmp_path / "kit").lab, 1)
    else:
        lab = make_lab(tmp_path / "lab", "tenant-a", [("car-1", "vehicle")], "localhost")
        file = tmp_path / "node.toml"
        uplink = '[uplink]\nhost = "127.0.0.1"\nport = 1\n' if command == "uplink" else ""
        file.write_text(f'{NODE}[state]\ndir = "{lab.nodes["car-1"]}"\n{PORT}{uplink}', "utf-8")
    daemon = process(command, file)
    try:
        manager.until("READY=1")
        manager.until("WATCHDOG=1")
        daemon.send_signal(signal.SIGTERM)
        manager.until("STOPPING=1")
        assert daemon.wait(WAIT_S) == 0
    finally:
        daemon.kill()
        daemon.wait()


@pytest.mark.parametrize("command", ["edge", "uplink"])
def test_a_stopped_daemon_gives_no_sign(command: str, tmp_path: Path, manager: Manager) -> None:
    """The sign comes from the event loop itself: with the loop it ends."""
    lab = make_lab(tmp_path / "lab", "tenant-a", [("car-1", "vehicle")], "localhost")
    file = tmp_path / "node.toml"
    file.write_text(
        f'{NODE}[state]\ndir = "{lab.nodes["car-1"]}"\n[uplink]\nhost = "127.0.0.1"\nport = 1\n', "utf-8"
    )
    daemon = process(command, file)
    try:
        manager.until("WATCHDOG=1")
        daemon.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, daemon.pid, os.WSTOPPED)
        manager.pending()
        time.sleep(5 * SIGN_US / 1e6)
        assert manager.pending() == []
    finally:
        daemon.kill()
        daemon.wait()
