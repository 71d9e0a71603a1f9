"""Where a demo works and what it leaves: nothing that it did not make is ever removed."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from cloud_sync.demo_options import DemoOptions
from cloud_sync.errors import ConfigError
from cloud_sync.runtime.demo_config import Layout
from firmware_bridge.sim.scenario import PLANS

MAX_TEMPORARY: Final = 60
"""Longer folders for temporary files leave no room for a unix socket's path (107 bytes): then /tmp."""
KEPT: Final = Path("demo-evidence")
"""Below the current folder: bundles and trust file of the last run whose own folder went."""


def check_options(options: DemoOptions) -> None:
    """Raises ConfigError for what can be known to fail before a night is played for nothing."""
    if options.replay is not None and not options.replay.is_file():
        raise ConfigError(f"there is no file {options.replay}: give --replay an NMEA or GENIVI log")
    if options.replay is None and options.scenario not in PLANS:
        raise ConfigError(f"there is no scenario {options.scenario!r}: choose one of {', '.join(PLANS)}")
    if options.json is not None:
        folder = options.json.resolve().parent
        if options.json.is_dir() or not os.access(folder, os.W_OK):
            raise ConfigError(f"--json {options.json} cannot be written: name a file in a folder of yours")


def make_home(options: DemoOptions) -> Path:
    """The empty folder of the run. Raises ConfigError where --dir holds anything a demo did not make."""
    if options.dir is None:
        long = len(os.fsencode(tempfile.gettempdir())) > MAX_TEMPORARY
        home = Path(tempfile.mkdtemp(prefix="holdfast-", dir="/tmp" if long else None))
    else:
        home = options.dir.resolve()
        try:
            home.mkdir(parents=True, exist_ok=True)
            there = {entry.name for entry in home.iterdir()}
        except OSError as error:
            raise ConfigError(f"--dir {home} cannot be used: {error.strerror}") from error
        foreign = sorted(there - Layout.NAMES) if Layout.MARK in there else sorted(there)
        if foreign:
            raise ConfigError(f"{home} holds other things ({foreign[0]}): give --dir an empty or new folder")
        remove(home, Layout.NAMES)
    (home / Layout.MARK).touch()
    for folder in ("logs", "world"):
        (home / folder).mkdir()
    return home


def remove(home: Path, names: frozenset[str]) -> None:
    """Remove what a demo made below `home`: those of `names` that are there."""
    for name in names:
        path = home / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def leave_logs(home: Path) -> None:
    """After a failure: the logs stay, keys and databases go."""
    remove(home, Layout.NAMES - {"logs", Layout.MARK})


def keep_evidence(layout: Layout) -> Path:
    """Copy the bundles to ./demo-evidence in place of those of an earlier run; other files there stay."""
    kept = KEPT.resolve()
    kept.mkdir(exist_ok=True)
    for old in [*kept.glob("*.hfb"), kept / "trust.json"]:
        old.unlink(missing_ok=True)
    for file in layout.evidence.iterdir():
        shutil.copy(file, kept / file.name)
    return kept
