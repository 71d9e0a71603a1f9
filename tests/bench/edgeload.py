"""What a node costs and how fast it is there: cold start, help, and idle CPU of edge and uplink.

    python tests/bench/edgeload.py [SECONDS]

Real processes on a real pty, the system's clock, a real broker over TLS. Cold start is from the start of the
process to the first reading in its status, with a receiver that speaks ten times a second. Idle is a parked
car: one sentence a second into the edge, and an uplink that is connected and has nothing to bring. CPU is
user and system time of the process, as a part of one core.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from enrolload import cpu_s
from rows import Row

from edge.facts import FactsError
from edge.runtime import facts_client
from edge.runtime.uplink_state import UplinkState
from provisioning.runtime.lab import Lab, make_lab

SECONDS: Final = 20.0
"""How long an idle process is watched: its parts of a second are 10 ms ticks of the kernel."""
STARTS: Final = 3
HELPS: Final = 7
GOAL_START_S: Final = 3.0
GOAL_HELP_MS: Final = 300.0
GOAL_IDLE_PERCENT: Final = 1.0
HOLDFAST: Final = Path(sys.executable).with_name("holdfast")
TENANT, DEVICE = "fund", "car-1"


def sentence(second: int) -> bytes:
    """One fix of a parked car."""
    clock = f"{second // 3600 % 24:02d}{second // 60 % 60:02d}{second % 60:02d}.00"
    body = f"GPRMC,{clock},A,4730.0000,N,00830.0000,E,0.0,0.0,010130,,,A"
    check = 0
    for byte in body.encode():
        check ^= byte
    return f"${body}*{check:02X}\r\n".encode()


class Receiver:
    """A receiver on a pty that speaks `rate` times a second."""

    def __init__(self, rate: float) -> None:
        self._master, slave = pty.openpty()
        tty.setraw(slave)
        self.path = os.ttyname(slave)
        self._slave = slave
        self._rate, self._ended = rate, threading.Event()
        self._thread = threading.Thread(target=self._speak, daemon=True)
        self._thread.start()

    def _speak(self) -> None:
        os.set_blocking(self._master, False)
        second = 0
        while not self._ended.wait(1 / self._rate):
            second += 1
            with contextlib.suppress(BlockingIOError):  # nobody reads yet
                os.write(self._master, sentence(second))

    def close(self) -> None:
        """Fall silent."""
        self._ended.set()
        self._thread.join()
        os.close(self._slave)
        os.close(self._master)


def node_toml(lab: Lab, receiver: Receiver | None, port: int = 0) -> Path:
    """The configuration of the lab's node."""
    folder = lab.nodes[DEVICE]
    text = f'[node]\ntenant = "{TENANT}"\ndevice = "{DEVICE}"\n[state]\ndir = "{folder}"\n'
    text += "[clock]\nsynced = true\n"
    if receiver is not None:
        text += f'[[port]]\nname = "gnss"\npath = "{receiver.path}"\nprotocol = "nmea"\n'
    if port:
        text += f'[uplink]\nhost = "127.0.0.1"\nport = {port}\nserver_name = "localhost"\n'
    path = folder / "node.toml"
    path.write_text(text, "utf-8")
    return path


def start(
    command: str, config: Path, output: IO[bytes] | int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """A daemon as systemd starts it."""
    return subprocess.Popen([HOLDFAST, command, "--config", config], stdout=output, stderr=subprocess.DEVNULL)


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a daemon orderly."""
    process.send_signal(signal.SIGTERM)
    process.wait(30)


def positions(facts: Path) -> int:
    """Fixes that the edge has seen; 0 while it does not answer."""
    try:
        told = json.loads(str(facts_client.call(facts, "status", timeout_s=5)[1]))
    except FactsError:
        return 0
    return int(told["readings"].get("position", 0))


def cold_start(lab: Lab) -> tuple[float, float]:
    """Seconds from the start of the process to its first reading: by the wall, and of CPU."""
    receiver = Receiver(10)
    begun = time.monotonic()
    process = start("edge", node_toml(lab, receiver))
    try:
        while not positions(lab.nodes[DEVICE] / "facts.sock"):
            if time.monotonic() - begun > 60 or process.poll() is not None:
                raise SystemExit("the edge did not read anything")
            time.sleep(0.01)
        return time.monotonic() - begun, cpu_s(process.pid)
    finally:
        end(process)
        receiver.close()


def help_ms() -> float:
    """Milliseconds of `holdfast --help`, the fastest of a few: what the code costs, caches warm."""
    spent = []
    for _ in range(HELPS):
        begun = time.monotonic()
        subprocess.run([HOLDFAST, "--help"], stdout=subprocess.DEVNULL, check=True)
        spent.append((time.monotonic() - begun) * 1000)
    return min(spent)


def watched(process: int, seconds: float) -> float:
    """Percent of one core that a process uses over `seconds`."""
    cpu, begun = cpu_s(process), time.monotonic()
    time.sleep(seconds)
    return 100 * (cpu_s(process) - cpu) / (time.monotonic() - begun)


def idle_edge(lab: Lab, seconds: float) -> float:
    """Percent of a core: a parked car's edge."""
    receiver = Receiver(1)
    process = start("edge", node_toml(lab, receiver))
    try:
        begun = time.monotonic()
        while positions(lab.nodes[DEVICE] / "facts.sock") < 3:
            if time.monotonic() - begun > 60:
                raise SystemExit("the edge did not read anything")
            time.sleep(0.2)
        return watched(process.pid, seconds)
    finally:
        end(process)
        receiver.close()


@contextlib.contextmanager
def broker(lab: Lab) -> Iterator[int]:
    """Our own broker in a process of its own; its port."""
    config = lab.broker / "broker.toml"
    config.write_text('[broker]\nhost = "127.0.0.1"\nport = 0\nkeys = "keys"\n', "utf-8")
    process = start("broker", config, subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield int(json.loads(process.stdout.readline())["port"])
    finally:
        end(process)


def idle_uplink(lab: Lab, seconds: float) -> float:
    """Percent of a core: an uplink that is connected and has nothing to bring."""
    with broker(lab) as port:
        config = node_toml(lab, None, port)
        edge = start("edge", config)
        process = start("uplink", config)
        try:
            begun = time.monotonic()
            while (state := UplinkState.read(lab.nodes[DEVICE], time.time())) is None or not state.connected:
                if time.monotonic() - begun > 60:
                    raise SystemExit("the uplink did not connect")
                time.sleep(0.2)
            time.sleep(3)  # what the edge's start made is on its way
            return watched(process.pid, seconds)
        finally:
            end(process)
            end(edge)


def measure(seconds: float = SECONDS) -> dict[str, float]:
    """The four figures that have goals, and the CPU time of a cold start, which other work does not blur."""
    figures = {"help_ms": help_ms()}
    with tempfile.TemporaryDirectory() as folder:
        starts = []
        for number in range(STARTS):  # each with an empty outbox
            lab = make_lab(Path(folder) / f"start-{number}", TENANT, [(DEVICE, "vehicle")], "localhost")
            starts.append(cold_start(lab))
        figures["cold_start_s"], figures["cold_start_cpu_s"] = min(starts)
        lab = make_lab(Path(folder) / "idle", TENANT, [(DEVICE, "vehicle")], "localhost")
        figures["idle_edge_percent"] = idle_edge(lab, seconds)
        figures["idle_uplink_percent"] = idle_uplink(lab, seconds)
    return figures


def edge(_folder: Path) -> Iterator[Row]:
    """The four figures and their goals, for `run.py`."""
    figures = measure()
    for name, unit, goal in (
        ("cold_start_s", "s", GOAL_START_S), ("help_ms", "ms", GOAL_HELP_MS),
        ("idle_edge_percent", "% of a core", GOAL_IDLE_PERCENT),
        ("idle_uplink_percent", "% of a core", GOAL_IDLE_PERCENT),
    ):  # fmt: skip
        value = figures[name]
        yield Row(f"edge.{name}", round(value, 2), unit, goal=f"< {goal:g}", met=value < goal)


if __name__ == "__main__":
    found = measure(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
    print(json.dumps({name: round(value, 3) for name, value in found.items()}))
