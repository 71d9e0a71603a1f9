"""Puts a node together from its configuration and runs it."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from edge.config import Config
from edge.errors import ConfigError
from edge.pipeline import Pipeline
from edge.runtime.daemon import Daemon
from edge.runtime.load import load_config, load_event_key, open_clock
from edge.runtime.log import Log
from edge.runtime.outbox import Outbox
from edge.runtime.process import Busy, fail, only_one
from edge.sealer import Signer
from firmware_bridge.wire import cose
from firmware_bridge.wire.stamp import NS
from models import fence
from models.detector import Detector
from models.limits import Limits

EXIT_CONFIG: Final = 2
EXIT_BUSY: Final = 12
EXIT_PERMISSION: Final = 13
EXIT_FAILURE: Final = 1


def software_version() -> str:
    """Name and version for heartbeats."""
    try:
        return f"holdfast {version('holdfast')}"
    except PackageNotFoundError:
        return "holdfast (not installed)"


def make_detector(config: Config) -> Detector:
    """The detector for this node's sensors; a roadside node has neither tyres nor a region of its own."""
    vehicle = config.node.kind == "vehicle"
    region = config.fence if vehicle else None
    return Detector(
        Limits(),
        tyres={wheel: sensor for sensor, wheel in config.tyres.items()} if vehicle and config.tyres else None,
        fence=None if region is None else fence.Fence(region.lat_deg, region.lon_deg, region.radius_m),
        expects_board=any(port.protocol == "board" for port in config.ports),
    )


def check_writable(folder: Path) -> None:
    """Raises ConfigError when the state folder is not there, PermissionError when it cannot be written."""
    if not folder.is_dir():
        raise ConfigError(
            f"the state folder {folder} does not exist: make it, owned by the user of this service"
        )
    probe = folder / f".probe-{os.getpid()}"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        probe.unlink()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return  # a full disk is the outbox's business, and heals
        raise PermissionError(
            f"the state folder {folder} cannot be written ({error.strerror}): check owner, mode and mount"
        ) from error


def run(config_path: Path, kind: str) -> int:
    """`holdfast edge` (kind vehicle) or `holdfast roadside`, until SIGTERM; the exit code."""
    try:
        config = load_config(config_path)
        if config.node.kind != kind:
            command = "roadside" if config.node.kind == "roadside" else "edge"
            raise ConfigError(
                f"{config_path} is of a {config.node.kind} node: start it with `holdfast {command}`"
            )
        key = load_event_key(config)
        clock = open_clock(config)
        folder = Path(config.state_dir)
        check_writable(folder)
    except ConfigError as error:
        return fail(EXIT_CONFIG, str(error))
    except PermissionError as error:
        return fail(EXIT_PERMISSION, str(error))
    os.umask(0o077)
    asked: list[int] = []
    # Until the daemon listens: a reload that comes with the start must neither end it nor be forgotten.
    signal.signal(signal.SIGHUP, lambda number, _frame: asked.append(number))
    log = Log.of_process(config.edge.log_level, tenant=config.node.tenant, device=config.node.device)
    try:
        with only_one(folder):
            kid = cose.key_id(key.public_key())
            signer = Signer(config.node.tenant, config.node.device, clock.kind, key, kid)
            interval_ns = round(config.edge.seal_interval_s * NS)
            outbox = Outbox(folder, signer, config.outbox, seal_interval_ns=interval_ns, say=log.say)
            pipeline = Pipeline(config, make_detector(config), software=software_version())
            daemon = Daemon(config, clock, pipeline, outbox, log, path=config_path, signer=signer)
            return asyncio.run(daemon.run(asked))
    except Busy as error:
        return fail(EXIT_BUSY, str(error))
    except OSError as error:
        return fail(EXIT_FAILURE, f"{error.strerror or error}: {error.filename or folder}")
