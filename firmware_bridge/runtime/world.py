"""The world of a demo or a replay: pseudo-terminals that look like serial ports, and the scenario's time.

    python -m firmware_bridge.runtime.world --scenario default --dir DIR
    python -m firmware_bridge.runtime.world --replay LOG --dir DIR

It makes `DIR/ports/<name>`, `DIR/clock.page`, `DIR/world.json` and `DIR/truth.json`, prints
`{"ready": true}`, waits for the line `go` on its standard input, plays, prints `{"done": true}`, and keeps
the ports open until its standard input closes or SIGTERM comes. It exits with 2 where the scenario or the
log cannot be played.

Lock-step: time advances, by at most a second, only after every port has been read empty, so that a slow
machine makes the scenario slower and never makes a silence. A port that nobody reads for a while (see
`--patience`) is no longer waited for; what then finds no room is lost, as on a real line, and counted.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from firmware_bridge.errors import DecodeError
from firmware_bridge.runtime.clock import BUILD_FLOOR_NS, PageWriter
from firmware_bridge.sim import replay as logs
from firmware_bridge.sim.scenario import PLANS, scenario
from firmware_bridge.sim.script import NS, Chunk, PortSpec, Script
from firmware_bridge.wire.stamp import ClockKind

STEP_NS: Final = NS
"""Longest advance of the page at once: detectors tick at least once a second."""
WINDOW_NS: Final = NS // 4
"""Chunks this close together are written in one step; three raw vibration frames, below a pty's 4 kB."""
PIECE: Final = 2048
"""Bytes written at once, and most that are left unread: half of what a pty's line discipline holds, so
that nothing waits where FIONREAD does not count it."""
POLL_S: Final = 0.0001
"""Between two looks at whether a port was read empty."""
QUIET_PAUSE_S: Final = 0.0003
"""Real time given to each second in which no device speaks: a night of 8 h takes 10 s, and a reader's
loop still turns several times between two reports."""
PATIENCE_S: Final = 5.0
"""Real seconds after which a port that nobody reads is given up."""
TAIL_S: Final = 120
"""Scenario seconds that pass after the last byte, so that every reader's timers fire."""
TAIL_PAUSE_S: Final = 0.02
"""Real time of each of them, at any speed: 2.4 s in all."""
PROGRESS_S: Final = 0.2
"""Real seconds between two lines of progress."""


class _Stop(Exception):
    """SIGTERM or SIGINT came."""


class Port:
    """One pseudo-terminal: we hold the master as the device, and the slave only to see what is unread."""

    def __init__(self, spec: PortSpec, link: Path, patience_s: float) -> None:
        self.spec = spec
        self.link = link
        self.written = 0
        self.lost = 0
        self._patience_s = patience_s
        self._gone = False
        self._unread_when_gone = 0
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self._readable = select.poll()
        self._readable.register(self._slave, select.POLLIN)
        link.unlink(missing_ok=True)
        link.symlink_to(os.ttyname(self._slave))

    def close(self) -> None:
        """Take the device away: readers see the line hang up."""
        self.link.unlink(missing_ok=True)
        os.close(self._slave)
        os.close(self._master)

    def unread(self) -> int:
        """Bytes that the reader has not taken yet.

        FIONREAD alone is 0 while the kernel still carries bytes to the slave; poll waits for them.
        """
        self._readable.poll(0)
        answer = fcntl.ioctl(self._slave, termios.FIONREAD, b"\0\0\0\0")
        return int(struct.unpack("i", answer)[0])

    def drained(self) -> bool:
        """Whether time may go on for this port: read empty, or given up."""
        unread = self.unread()
        if self._gone and unread < self._unread_when_gone:
            self._gone = False
            _say({"port": self.spec.name, "text": "is read again"})
        return unread == 0 or self._gone

    def wait(self) -> None:
        """Return when the reader has taken everything, or has not read for `patience_s`."""
        quiet_since, before = time.monotonic(), -1
        while not self.drained():
            unread = self.unread()
            if unread != before:
                quiet_since, before = time.monotonic(), unread
            elif time.monotonic() - quiet_since > self._patience_s:
                self._gone, self._unread_when_gone = True, unread
                _say({"port": self.spec.name, "text": "nobody reads this port; it is not waited for"})
            time.sleep(POLL_S)

    def write(self, data: bytes) -> None:
        """Put `data` on the line in pieces, each after the one before was read."""
        for start in range(0, len(data), PIECE):
            if start:
                self.wait()
            self._write_piece(data[start : start + PIECE])
        self._discard_answers()

    def _write_piece(self, piece: bytes) -> None:
        done = 0
        self.drained()  # notices a reader that has come back
        if self._gone:
            room = PIECE - self.unread()
            self.lost += max(0, len(piece) - room)
            piece = piece[: max(0, room)]
        while done < len(piece):
            try:
                done += os.write(self._master, piece[done:])
            except BlockingIOError:
                self.wait()
                if self._gone:
                    break
        self.written += done
        self.lost += len(piece) - done
        if self._gone:
            self._unread_when_gone = self.unread()

    def _discard_answers(self) -> None:
        """Take what the reader writes to its device; our devices do not listen."""
        try:
            while os.read(self._master, 4096):
                pass
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:
                raise


class World:
    """Plays one script through its ports."""

    def __init__(self, script: Script, folder: Path, *, speed: float, patience_s: float) -> None:
        self._script = script
        self._speed = speed
        self._now_ns = 0
        self._begun = 0.0
        self._told = 0.0
        (folder / "ports").mkdir(parents=True, exist_ok=True)
        self._page = PageWriter(folder / "clock.page")
        self._ports: dict[str, Port] = {}
        for spec in script.ports:
            self._ports[spec.name] = Port(spec, folder / "ports" / spec.name, patience_s)
        _write_json(folder / "truth.json", [
            {"t_s": truth.t_s, "cause": truth.cause, "text": truth.text} for truth in script.truths
        ])  # fmt: skip
        _write_json(folder / "world.json", describe(script, folder))

    def close(self) -> None:
        """Take all ports away."""
        for port in self._ports.values():
            port.close()
        self._page.close()

    def run(self) -> None:
        """Play the script to its end and 120 s beyond, then say done."""
        self._begun = time.monotonic()
        for group in _groups(self._script.play()):
            self._advance(group[-1].t_ns, QUIET_PAUSE_S)
            for name, data in _by_port(group).items():
                self._ports[name].write(data)
            self._wait()
        end_ns = max(self._now_ns, round(self._script.duration_s * NS))
        self._advance(end_ns, QUIET_PAUSE_S)
        self._speed = 0.0  # the tail is for the readers' timers, nobody watches it
        self._advance(end_ns + TAIL_S * NS, TAIL_PAUSE_S)
        self._progress(at_once=True)
        ports = self._ports.values()
        _say({
            "done": True,
            "bytes": {port.spec.name: port.written for port in ports},
            "lost": {port.spec.name: port.lost for port in ports},
        })  # fmt: skip

    def _wait(self) -> None:
        for port in self._ports.values():
            port.wait()

    def _advance(self, t_ns: int, pause_s: float) -> None:
        """Move the page to `t_ns` in steps of at most a second, each a moment of real time long."""
        while self._now_ns < t_ns:
            quiet = t_ns - self._now_ns > STEP_NS
            self._now_ns = min(t_ns, self._now_ns + STEP_NS)
            if self._speed > 0:
                due = self._begun + self._now_ns / NS / self._speed
                time.sleep(max(0.0, due - time.monotonic()))
            elif quiet or pause_s > QUIET_PAUSE_S:
                time.sleep(pause_s)
            self._page.advance(self._now_ns)
            self._progress()

    def _progress(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if not at_once and now - self._told < PROGRESS_S:
            return
        self._told = now
        t_s = self._now_ns / NS
        mark = self._script.phase_at(t_s)
        total_s = round(self._script.duration_s + TAIL_S, 1)
        _say({"t_s": round(t_s, 1), "total_s": total_s, "phase": mark.name, "text": mark.text})


def describe(script: Script, folder: Path) -> dict[str, object]:
    """What `world.json` says of `script`; ports are paths below `folder`."""
    home = script.home
    return {
        "name": script.name,
        "kind": "simulated" if script.kind is ClockKind.SIMULATED else "replay",
        "epoch_wall_ns": script.epoch_wall_ns,
        "duration_s": script.duration_s,
        "simulated_parts": list(script.simulated_parts),
        "ports": [
            {
                "name": spec.name,
                "path": str(folder / "ports" / spec.name),
                "protocol": spec.protocol,
                "baud": spec.baud,
                "node": spec.node,
            }
            for spec in script.ports
        ],
        "tyres": script.tyres,
        "home": None
        if home is None
        else {"lat": home.lat_deg, "lon": home.lon_deg, "radius_m": home.radius_m},
    }


def load(path: Path) -> Script:
    """The log at `path` as a script. Raises DecodeError or OSError where there is nothing to play."""
    if not path.is_file():
        raise DecodeError(f"no such log: {path}; give --replay the path of a receiver's log file")
    size = path.stat().st_size
    if size > logs.MAX_LOG_BYTES:
        raise DecodeError(f"{path} has {size} bytes, at most {logs.MAX_LOG_BYTES} are replayed: split it")
    try:
        return logs.replay(path.name, path.read_bytes(), floor_ns=BUILD_FLOOR_NS)
    except DecodeError as error:
        raise DecodeError(f"cannot replay {path}: {error}") from error


def _groups(chunks: Iterator[Chunk]) -> Iterator[list[Chunk]]:
    """Runs of chunks that lie within one window."""
    group: list[Chunk] = []
    for chunk in chunks:
        if group and chunk.t_ns - group[0].t_ns >= WINDOW_NS:
            yield group
            group = []
        group.append(chunk)
    if group:
        yield group


def _by_port(group: list[Chunk]) -> dict[str, bytes]:
    parts: dict[str, list[bytes]] = {}
    for chunk in group:
        parts.setdefault(chunk.port, []).append(chunk.data)
    return {port: b"".join(data) for port, data in parts.items()}


def _say(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _write_json(path: Path, value: object) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(value, indent=1) + "\n")
    fresh.replace(path)


def _wait_for_go() -> bool:
    """True at the line `go`, False where standard input closes before."""
    heard = b""
    while data := os.read(0, 256):
        heard += data
        if b"go" in (line.strip() for line in heard.split(b"\n")[:-1]):
            return True
        heard = heard[-256:]
    return False


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise _Stop


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="world", description="Play a scenario or a log.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--scenario", choices=sorted(PLANS), help="a simulated scenario")
    what.add_argument("--replay", type=Path, metavar="FILE", help="a receiver's log")
    parser.add_argument("--dir", type=Path, required=True, help="folder for ports and clock page")
    parser.add_argument(
        "--speed", type=float, default=0.0, help="scenario seconds per second; 0 = as fast as it is read"
    )
    parser.add_argument(
        "--patience", type=float, default=PATIENCE_S, help="seconds to wait for a port nobody reads"
    )
    arguments = parser.parse_args(argv)
    if not arguments.speed >= 0.0 or not arguments.patience >= 0.0:
        parser.error("--speed and --patience must be 0 or more")
    return arguments


def _perform(script: Script, arguments: argparse.Namespace) -> None:
    world = World(script, arguments.dir, speed=arguments.speed, patience_s=arguments.patience)
    try:
        _say({"ready": True})
        if _wait_for_go():
            world.run()
            while os.read(0, 256):
                pass
    finally:
        world.close()


def main(argv: list[str] | None = None) -> int:
    """Run the world; the exit code: 0 at the end or at SIGTERM, 1 where the folder or a port cannot be
    used, 2 where there is nothing to play."""
    arguments = _arguments(argv)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        script = scenario(arguments.scenario) if arguments.scenario else load(arguments.replay)
    except (DecodeError, OSError) as error:
        sys.stderr.write(f"world: {error}\n")
        return 2
    try:
        _perform(script, arguments)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody hears us any more: end without a traceback
        return 1
    except OSError as error:
        sys.stderr.write(f"world: cannot make or use ports below {arguments.dir}: {error}\n")
        return 1
    except _Stop:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
