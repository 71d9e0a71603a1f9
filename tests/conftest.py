"""Shared fixtures: where the real data lies, and the count of what of it ran."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import hypothesis
import pytest

# A test that ends by the clock says what the machine was doing, not what the code does.
hypothesis.settings.register_profile("holdfast", deadline=None)
hypothesis.settings.load_profile("holdfast")

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("HOLDFAST_SHARED", ROOT.parent / "shared"))
REAL: Final = "real-data"
_real = {"run": 0, "skipped": 0}


def shared_path(relative: str) -> Path | None:
    """The file or folder of the shared data, or None where it is absent."""
    path = SHARED / "data" / relative
    return path if path.exists() else None


FIRST: Final = (
    "test_demo",
    "test_page_",
    "test_crash",
    "test_node_install",
    "test_systemd",
    "test_cloud_sync_serve",
)
"""Files of long tests: begun first, so that no process is left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; what trains networks only where it is asked for, and counted as skipped elsewhere."""
    items.sort(key=lambda item: not item.path.name.startswith(FIRST))
    if os.environ.get("HOLDFAST_TRAIN_TESTS") != "1":
        skip = pytest.mark.skip(reason="trains networks, minutes of both cores: make test-train")
        for item in items:
            if item.get_closest_marker("train"):
                item.add_marker(skip)


@pytest.fixture
def shared_data(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """`shared_data("field/F01.nmea")`: that path; the test skips, and is counted, where it is absent."""
    counted = False

    def locate(relative: str) -> Path:
        nonlocal counted
        path = shared_path(relative)
        if not counted:
            request.node.user_properties.append((REAL, "run" if path else "skipped"))
            counted = True
        if path is None:
            pytest.skip(f"real data {relative} is not here: set HOLDFAST_SHARED")
        return path

    return locate


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder with a short name: a unix socket's path has at most 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="hf-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def shared_drive(request: pytest.FixtureRequest) -> Path | None:
    """A real drive of half an hour where the shared data is; a scenario of ours serves elsewhere."""
    path = shared_path("gps/munich-gps.nmea")
    request.node.user_properties.append((REAL, "run" if path else "skipped"))
    return path


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count at the end of each test, in the one process that all reports come to."""
    if report.when == "teardown":
        for name, what in report.user_properties:
            if name == REAL:
                _real[str(what)] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"real-data: {_real['run']} run, {_real['skipped']} skipped")
