"""A large fleet behind a real `holdfast serve` on one core: what the benches of the page ask.

The store is built once for each size in a process and shared by the benches that read it. Its newest events
are of now, and its vehicles announce their next heartbeat for long after, so that a bench does not measure
ten thousand vehicles that all fall silent in its first minute.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cores
import fleetload

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from cloudkit import TENANT, make_kit
from serve_kit import ServeKit, quick_passwords, write_serve_config

from cloud_sync.runtime.serve import accounts
from cloud_sync.runtime.serve.accounts import NewAccount
from cloud_sync.runtime.serve.app import create_app, open_context
from cloud_sync.runtime.serve.config import load_config

VEHICLES: Final = 10_000
EVENTS: Final = 1_000_000
HEARTBEAT_S: Final = 4 * 3600
"""Longer than any bench, shorter than the lateness of the vehicles that are meant to be overdue."""
STOP_S: Final = 60
CHROMIUM: Final = Path("/usr/bin/chromium")
CHROMIUM_ARGS: Final = ("--no-sandbox", "--disable-gpu")
BUILD: Final = Path(__file__).resolve().parent.parent.parent / "build"


@dataclass(frozen=True, slots=True)
class Served:
    """A server that answers."""

    url: str
    port: int
    pid: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """A store with a large fleet, and how to serve it."""

    kit: ServeKit
    config: Path
    """serve.toml."""
    vehicles: int
    """Of tenant `fund`, with a position."""


@functools.cache
def fleet(scale: float = 1.0) -> Fleet:
    """A store of `scale` times VEHICLES and EVENTS; removed when this process ends."""
    BUILD.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-fleet-", dir=BUILD))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    now_ms = time.time_ns() // 1_000_000
    kit = _kit_of_now(folder, now_ms)
    atexit.register(kit.close)
    vehicles, events = max(50, round(VEHICLES * scale)), max(10_000, round(EVENTS * scale))
    fleetload.build(kit.kit.config.store, vehicles, events, now_ms=now_ms, heartbeat_s=HEARTBEAT_S)
    return Fleet(kit, folder / "serve.toml", vehicles)


def _kit_of_now(folder: Path, now_ms: int) -> ServeKit:
    """Two devices, one operator, an empty store at `now_ms`; the kit of the tests stands at their time."""
    kit = make_kit(folder / "lab")
    kit.clock.wall_ms = now_ms
    with kit.collector():
        pass  # makes the store
    context = open_context(
        load_config(write_serve_config(folder, kit)), clock=kit.clock, passwords=quick_passwords()
    )
    made = ServeKit(
        kit, context, create_app(context), {name: kit.device(name) for name in ("car-1", "car-2")}
    )
    with context.db.transaction() as db:
        operator = NewAccount(TENANT, "operator", "operator", manages=True)
        made.accounts[TENANT, "operator"] = accounts.add(db, operator, context.real_ms())
    return made


@contextlib.contextmanager
def serving(served: Fleet) -> Iterator[Served]:
    """`holdfast serve` over that store, alone on the first core; this process on the others meanwhile."""
    command = [sys.executable, "-m", "firmware_bridge", "serve", "--config", str(served.config)]
    log = served.config.with_name("serve.log")
    with cores.only(cores.first()), log.open("w") as errors:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            raise RuntimeError(f"holdfast serve did not start: exit code {server.wait(STOP_S)}")
        said = json.loads(line)
        with cores.only(cores.rest()):
            yield Served(str(said["url"]).rstrip("/"), int(said["port"]), server.pid)
    except BaseException:
        print(log.read_text("utf-8")[-4000:], file=sys.stderr)  # what the server said of it
        raise
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(STOP_S)
