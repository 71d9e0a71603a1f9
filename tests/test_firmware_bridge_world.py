"""The world's process: ports that look real, lock-step time, orderly ends."""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from firmware_bridge.runtime.world import PIECE, Port, load
from firmware_bridge.sim.nmea_writer import sentence
from firmware_bridge.sim.script import PortSpec

NS = 10**9


class Running:
    """A world in a process of its own, and threads that read its ports."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.lines: list[dict[str, Any]] = []
        self.got: dict[str, bytearray] = {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "firmware_bridge.runtime.world", "--dir", str(folder), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).resolve().parent.parent,
        )

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        self.lines.append(json.loads(self.process.stdout.readline()))
        return self.lines[-1]

    def until(self, key: str) -> dict[str, Any]:
        while key not in self.line():
            pass
        return self.lines[-1]

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = json.loads((self.folder / "world.json").read_text())
        return described

    def read_all(self) -> None:
        for port in self.describe()["ports"]:
            threading.Thread(target=self._drain, args=(port["name"], port["path"]), daemon=True).start()

    def _drain(self, name: str, path: str) -> None:
        self.got[name] = bytearray()
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        try:
            while data := os.read(fd, 65536):
                self.got[name] += data
        except OSError:
            return  # the world took the port away
        finally:
            os.close(fd)

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(30)

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def page_s(self) -> float:
        first, second = struct.unpack("<QQ", (self.folder / "clock.page").read_bytes())
        return min(first, second) / NS


def log_file(folder: Path, seconds: int, padding: int = 0) -> Path:
    path = folder / "drive.nmea"
    path.write_bytes(
        b"".join(
            sentence(f"GPRMC,10{n // 60:02d}{n % 60:02d}.00,A,4719.9,N,00749.2,E,0.00,,030410,,,A")
            + b"\x03\x11\x13\x7f\xff\r\0" * (padding // 7)
            for n in range(seconds)
        )
    )
    return path


def test_a_log_arrives_byte_for_byte_with_its_description_beside_it(tmp_path: Path) -> None:
    log = log_file(tmp_path, 90, padding=700)
    with Running(tmp_path / "w", "--replay", str(log)) as world:
        assert world.line() == {"ready": True}
        described = world.describe()
        assert described["kind"] == "replay" and described["simulated_parts"] == []
        assert described["tyres"] is None and described["home"] is None
        assert described["duration_s"] == 89.0
        (port,) = described["ports"]
        assert (port["name"], port["protocol"], port["node"]) == ("gnss", "nmea", "vehicle")
        assert json.loads((tmp_path / "w" / "truth.json").read_text()) == []
        world.read_all()
        world.go()
        done = world.until("done")
        assert done["bytes"] == {"gnss": log.stat().st_size} and done["lost"] == {"gnss": 0}
        assert bytes(world.got["gnss"]) == log.read_bytes()
        assert world.page_s() == 89.0 + 120.0
        progress = [line for line in world.lines if "t_s" in line]
        assert progress and all(set(line) == {"t_s", "total_s", "phase", "text"} for line in progress)
        assert world.end() == 0
        assert not (tmp_path / "w" / "ports" / "gnss").is_symlink()


def test_a_simulated_world_says_what_it_is(tmp_path: Path) -> None:
    with Running(tmp_path, "--scenario", "pulled") as world:
        world.line()
        described = world.describe()
        assert described["kind"] == "simulated"
        assert [port["name"] for port in described["ports"]] == ["gnss", "board"]
        assert set(described["home"]) == {"lat", "lon", "radius_m"}
        assert sorted(described["tyres"]) == ["FL", "FR", "RL", "RR"]
        (truth,) = json.loads((tmp_path / "truth.json").read_text())
        assert truth["cause"] == "removed_or_opened" and truth["t_s"] == 780.0
        world.read_all()
        world.go()
        done = world.until("done")
        assert {name: len(data) for name, data in world.got.items()} == done["bytes"]
        assert done["lost"] == {"gnss": 0, "board": 0}
        assert world.page_s() == described["duration_s"] + 120
        assert world.end() == 0


def test_time_stands_still_while_a_reader_has_not_read(tmp_path: Path) -> None:
    log = log_file(tmp_path, 20)
    with Running(tmp_path / "w", "--replay", str(log), "--patience", "600") as world:
        world.line()
        fd = os.open(world.describe()["ports"][0]["path"], os.O_RDWR | os.O_NOCTTY)
        try:
            world.go()
            for second in range(20):
                # The bytes of this second are there, and the clock is at this second until they are read.
                assert select.select([fd], [], [], 60)[0]
                seen = {world.page_s() for _ in range(50)}
                assert seen == {float(second)}
                data = os.read(fd, 4096)
                assert data.count(b"$GPRMC") == 1
            assert world.until("done")["lost"] == {"gnss": 0}
        finally:
            os.close(fd)


def test_a_reader_that_never_comes_does_not_stop_the_world(tmp_path: Path) -> None:
    log = log_file(tmp_path, 30, padding=700)
    with Running(tmp_path / "w", "--replay", str(log), "--patience", "0.05") as world:
        world.line()
        world.go()
        done = world.until("done")
        assert any("not waited for" in line.get("text", "") for line in world.lines)
        assert done["lost"]["gnss"] > 0
        assert done["lost"]["gnss"] + done["bytes"]["gnss"] == log.stat().st_size
        assert world.end() == 0


def test_sigterm_ends_it_orderly_at_any_moment(tmp_path: Path) -> None:
    log = log_file(tmp_path, 60)
    for started in (False, True):
        folder = tmp_path / str(started)
        with Running(folder, "--replay", str(log), "--speed", "1") as world:
            world.line()
            if started:
                world.read_all()
                world.go()
                world.until("t_s")
            world.process.send_signal(signal.SIGTERM)
            assert world.process.wait(30) == 0
            assert world.errors() == ""
            assert list((folder / "ports").iterdir()) == []


def test_standard_input_closed_before_go_ends_it(tmp_path: Path) -> None:
    with Running(tmp_path / "w", "--replay", str(log_file(tmp_path, 3))) as world:
        world.line()
        assert world.end() == 0


def refused(*arguments: str, folder: Path) -> tuple[int, str]:
    with Running(folder, *arguments) as world:
        return world.process.wait(30), world.errors()


def test_what_cannot_be_played_is_exit_code_2_with_a_reason(tmp_path: Path) -> None:
    empty = tmp_path / "empty.nmea"
    empty.write_bytes(b"\r\n")
    looped = tmp_path / "loop.nmea"
    looped.symlink_to(looped)
    for path, reason in (
        (tmp_path / "no.nmea", "no such log"),
        (tmp_path, "no such log"),
        (empty, "empty: choose"),
        (looped, "world: "),
    ):
        code, text = refused("--replay", str(path), folder=tmp_path / "w")
        assert code == 2 and reason in text and "Traceback" not in text
        assert not (tmp_path / "w").exists()
    for arguments in (("--scenario", "no-such"), ("--scenario", "quiet", "--speed", "nan"), ()):
        code, text = refused(*arguments, folder=tmp_path / "w")
        assert code == 2 and "usage" in text


def test_a_folder_that_cannot_be_used_is_exit_code_1(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    code, text = refused("--scenario", "quiet", folder=taken)
    assert code == 1 and "cannot make or use ports" in text and "Traceback" not in text


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    made = Port(PortSpec("gnss", "nmea", 9600, "vehicle"), tmp_path / "gnss", 0.05)
    yield made
    made.close()


def test_unread_bytes_are_seen_at_once_and_raw(port: Port) -> None:
    every = bytes(range(256))
    for _ in range(100):
        port.write(every)
        assert port.unread() == 256
        fd = os.open(port.link, os.O_RDWR | os.O_NOCTTY)
        try:
            assert os.read(fd, 4096) == every
        finally:
            os.close(fd)
        assert port.drained()


def test_a_reader_that_comes_back_is_waited_for_again(port: Port, capsys: pytest.CaptureFixture[str]) -> None:
    port.write(b"x" * PIECE)
    port.wait()
    port.write(b"lost")
    assert port.lost == 4 and port.written == PIECE
    fd = os.open(port.link, os.O_RDWR | os.O_NOCTTY)
    try:
        assert os.read(fd, 4096) == b"x" * PIECE
        assert port.drained()
        port.write(b"heard")
        assert not port.drained()
        assert os.read(fd, 4096) == b"heard"
    finally:
        os.close(fd)
    said = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    assert said == ["nobody reads this port; it is not waited for", "is read again"]


def test_what_a_reader_writes_to_its_device_never_fills_the_line(port: Port) -> None:
    fd = os.open(port.link, os.O_RDWR | os.O_NOCTTY)
    try:
        tty.setraw(fd)
        os.set_blocking(fd, False)
        for _ in range(40):
            assert os.write(fd, b"q" * 1000) == 1000
            port.write(b".")
            assert os.read(fd, 10) == b"."
    finally:
        os.close(fd)


def test_a_log_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firmware_bridge.sim.replay.MAX_LOG_BYTES", 10)
    with pytest.raises(Exception, match="split it"):
        load(log_file(tmp_path, 3))


def test_the_swiss_drive_arrives_byte_for_byte(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    log = shared_data("gps/20100403_Z205_Switzerland.txt")
    with Running(tmp_path, "--replay", str(log)) as world:
        world.line()
        world.read_all()
        world.go()
        assert world.until("done")["lost"] == {"gnss": 0}
        assert bytes(world.got["gnss"]) == log.read_bytes()
        assert world.end() == 0


def test_regensburg_has_a_board_woven_in(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    log = shared_data("gps/20160209_RPi_GENIVI_Regensburg.log")
    with Running(tmp_path, "--replay", str(log)) as world:
        world.line()
        described = world.describe()
        assert [port["name"] for port in described["ports"]] == ["gnss", "board"]
        assert len(described["simulated_parts"]) == 2
        world.read_all()
        world.go()
        done = world.until("done")
        assert done["bytes"]["gnss"] > 50_000 and done["bytes"]["board"] > 30_000
        assert world.end() == 0
