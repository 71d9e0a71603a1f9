"""The one Clock: the host's, and a scenario's page that only goes forward."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from firmware_bridge.runtime.clock import BUILD_FLOOR_NS, Clock, PageClock, PageWriter, SystemClock
from firmware_bridge.wire.stamp import NS, ClockKind

EPOCH = 1_800_000_000 * NS


def page_clock(path: Path) -> PageClock:
    return PageClock(path, epoch_wall_ns=EPOCH, kind=ClockKind.SIMULATED)


def test_system_clock() -> None:
    clock: Clock = SystemClock()
    assert clock.kind is ClockKind.LIVE
    assert clock.synced is False
    assert clock.floor_ns == BUILD_FLOOR_NS
    first = clock.mono_ns()
    assert clock.mono_ns() >= first
    assert clock.wall_ns() > 0
    assert SystemClock(synced=True, floor_ns=5).floor_ns == 5


def test_page_starts_at_zero_and_goes_where_its_writer_says(tmp_path: Path) -> None:
    writer = PageWriter(tmp_path / "clock.page")
    with page_clock(tmp_path / "clock.page") as clock:
        assert (clock.mono_ns(), clock.wall_ns()) == (0, EPOCH)
        writer.advance(90 * NS)
        assert (clock.mono_ns(), clock.wall_ns()) == (90 * NS, EPOCH + 90 * NS)
        assert clock.kind is ClockKind.SIMULATED
        assert clock.synced
        assert clock.floor_ns == 0
    writer.close()


def test_all_readers_of_a_page_see_the_same_time(tmp_path: Path) -> None:
    writer = PageWriter(tmp_path / "clock.page")
    clocks = [page_clock(tmp_path / "clock.page") for _ in range(3)]
    for step in range(1, 50):
        writer.advance(step * NS)
        assert [clock.mono_ns() for clock in clocks] == [step * NS] * 3
    for clock in clocks:
        clock.close()
    writer.close()


def test_another_process_reads_the_page(tmp_path: Path) -> None:
    page = tmp_path / "clock.page"
    writer = PageWriter(page)
    writer.advance(12_345)
    code = (
        "import sys; from pathlib import Path; from firmware_bridge.runtime.clock import PageClock;"
        "from firmware_bridge.wire.stamp import ClockKind;"
        "print(PageClock(Path(sys.argv[1]), epoch_wall_ns=0, kind=ClockKind.REPLAY).mono_ns())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(page)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert out.stdout.strip() == "12345"
    writer.close()


def test_time_never_goes_back(tmp_path: Path) -> None:
    writer = PageWriter(tmp_path / "clock.page")
    writer.advance(10)
    writer.advance(10)
    with pytest.raises(ValueError, match="cannot go back"):
        writer.advance(9)
    with page_clock(tmp_path / "clock.page") as clock:
        assert clock.mono_ns() == 10
    writer.close()


def test_missing_page_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        page_clock(tmp_path / "none.page")


def test_page_too_short_is_said(tmp_path: Path) -> None:
    (tmp_path / "short.page").write_bytes(b"123")
    with pytest.raises(ValueError, match="mmap"):
        page_clock(tmp_path / "short.page")
