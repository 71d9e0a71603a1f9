"""Real ptys: reading, unplugging, reopening, and a sentence for everything that can be in the way."""

from __future__ import annotations

import asyncio
import errno
import os
import pty
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import serialx

from firmware_bridge.link import Link
from firmware_bridge.reading import PortCondition, PortState, Position, Reading, Refusal
from firmware_bridge.runtime import serial_port
from firmware_bridge.runtime.serial_port import explain, run_port
from firmware_bridge.sensors.nmea import NmeaDecoder
from firmware_bridge.timekeeper import Now

RMC = b"$GNRMC,120010.00,A,4807.88400,N,01132.98200,E,0.05,,201126,,,A*52\r\n"
WAIT_S = 20.0
"""Generous: a busy machine must not fail the test."""


def clock() -> Now:
    return Now(time.monotonic_ns(), time.time_ns(), False, 0)


class Device:
    """A pty behind a stable name, as a USB device is behind /dev/serial/by-path."""

    def __init__(self, link: Path) -> None:
        self.link = link
        self.master = -1

    def plug(self) -> None:
        self.master, slave = pty.openpty()
        self.link.unlink(missing_ok=True)
        self.link.symlink_to(os.ttyname(slave))
        os.close(slave)

    def unplug(self) -> None:
        if self.master >= 0:
            os.close(self.master)
            self.master = -1
        self.link.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        os.write(self.master, data)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "gnss")
    yield made
    made.unplug()


class Run:
    """One run_port task and what it delivered."""

    def __init__(self, path: Path, baud: int = 9600) -> None:
        self.items: list[Reading | Refusal] = []
        self.link = Link("gnss", NmeaDecoder("gnss"), baud=baud)
        self.task = asyncio.create_task(run_port(str(path), baud, self.link, clock, self.items.extend))

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not true():
                assert not self.task.done(), self.task.result()
                await asyncio.sleep(0.01)

    def conditions(self) -> list[PortCondition]:
        return [item.condition for item in self.items if isinstance(item, PortState)]

    def positions(self) -> int:
        return sum(isinstance(item, Position) for item in self.items)

    async def stop(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


async def heard(run: Run, device: Device, count: int) -> None:
    """Write fixes until `count` of them arrived: bytes written before the port is set up are flushed."""

    def one_more() -> bool:
        if run.link.bytes == 0 or run.positions() < count:
            device.write(RMC)
        return run.positions() >= count

    await run.until(one_more)


def test_reads_loses_and_reopens(device: Device) -> None:
    async def scenario() -> None:
        run = Run(device.link)
        await run.until(lambda: run.conditions() == [PortCondition.ABSENT])
        assert "is not there" in run.link.detail
        device.plug()
        await heard(run, device, 2)
        assert run.conditions() == [PortCondition.ABSENT, PortCondition.OK]
        device.unplug()
        await run.until(lambda: len(run.conditions()) >= 3)
        assert run.conditions()[2] is PortCondition.ABSENT
        before = run.positions()
        device.plug()
        await heard(run, device, before + 1)
        assert run.conditions()[-1] is PortCondition.OK
        assert run.link.condition is PortCondition.OK
        await run.stop()

    asyncio.run(scenario())


def test_taken_port_says_whom_to_look_for(device: Device) -> None:
    async def scenario() -> None:
        device.plug()
        async with serialx.async_serial_for_url(str(device.link), baudrate=9600):
            run = Run(device.link)
            await run.until(lambda: run.conditions() == [PortCondition.ABSENT])
            assert "in use by another program" in run.link.detail
            assert "fuser -v" in run.link.detail
            assert "gpsd" in run.link.detail
        await heard(run, device, 1)
        assert run.link.condition is PortCondition.OK
        await run.stop()

    asyncio.run(scenario())


def test_second_reader_is_refused_while_the_first_goes_on(device: Device) -> None:
    async def scenario() -> None:
        device.plug()
        first = Run(device.link)
        await heard(first, device, 1)
        second = Run(device.link)
        await second.until(lambda: second.link.condition is PortCondition.ABSENT and bool(second.items))
        assert "in use" in second.link.detail
        await heard(first, device, first.positions() + 1)
        assert second.positions() == 0
        await second.stop()
        await first.stop()

    asyncio.run(scenario())


def test_cancelling_frees_the_port(device: Device) -> None:
    async def scenario() -> None:
        device.plug()
        first = Run(device.link)
        await heard(first, device, 1)
        await first.stop()
        second = Run(device.link)
        await heard(second, device, 1)
        await second.stop()

    asyncio.run(scenario())


def test_what_deliver_raises_ends_the_task(device: Device) -> None:
    class Full(Exception):
        pass

    def deliver(items: list[Reading | Refusal]) -> None:
        if any(isinstance(item, Position) for item in items):
            raise Full

    async def scenario() -> None:
        device.plug()
        link = Link("gnss", NmeaDecoder("gnss"))
        task = asyncio.create_task(run_port(str(device.link), 9600, link, clock, deliver))
        async with asyncio.timeout(WAIT_S):
            while not task.done():
                device.write(RMC)
                await asyncio.sleep(0.01)
        assert isinstance(task.exception(), Full)

    asyncio.run(scenario())


def test_time_goes_on_without_bytes(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serial_port, "TICK_S", 0.01)

    async def scenario() -> None:
        device.plug()
        items: list[Reading | Refusal] = []
        link = Link("gnss", NmeaDecoder("gnss"), silence_s=0)
        task = asyncio.create_task(run_port(str(device.link), 9600, link, clock, items.extend))
        async with asyncio.timeout(WAIT_S):
            while not items:
                await asyncio.sleep(0.01)
        assert link.condition is PortCondition.NO_BYTES
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


def test_file_that_is_no_port(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"")

    async def scenario() -> None:
        run = Run(plain)
        await run.until(lambda: bool(run.items))
        assert "is not a serial port" in run.link.detail
        await run.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "usermod -aG dialout"),
        (OSError(errno.EBUSY, "busy"), "in use by another program"),
        (FileNotFoundError(errno.ENOENT, "no such file"), "plug the device in"),
        (OSError(errno.EIO, "gone"), "went away"),
        (None, "went away"),
        (AssertionError("peer"), "cannot be read"),
        (OSError(errno.ENOTTY, "no tty"), "is not a serial port"),
        (serialx.UnsupportedSetting("Unsupported baudrate"), "set `baud`"),
    ],
)
def test_every_error_has_a_sentence_that_says_what_to_do(error: BaseException | None, said: str) -> None:
    text = explain("/dev/ttyUSB0", 9600, error)
    assert said in text
    assert "/dev/ttyUSB0" in text
