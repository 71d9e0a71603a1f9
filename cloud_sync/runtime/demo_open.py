"""`holdfast demo --keep`: broker, collector and page go on after it, until `holdfast demo --stop FOLDER`.

They are started anew from the kept folder and belong to nobody; `open.json` says which they are. A process is
ended only if it is still the one that was started (pid and start time).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import psutil

from cloud_sync.errors import CloudError, NotFound
from cloud_sync.runtime.demo_config import Layout

FILE: Final = "open.json"
READY_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 10.0


def start(layout: Layout) -> dict[str, Any]:
    """Start them; {pids: {name: pid}, url}. Raises CloudError when one does not become ready."""
    commands = (
        ("broker", "broker", layout.broker_config),
        ("collector", "collect", layout.collector_config),
        ("page", "serve", layout.serve_config),
    )
    started: list[dict[str, Any]] = []
    ready: dict[str, Any] = {}
    try:
        for name, command, config in commands:
            process, line = _start(name, command, config, layout.logs)
            started.append(
                {"name": name, "pid": process.pid, "since": psutil.Process(process.pid).create_time()}
            )
            ready[name] = line
    except (CloudError, OSError, psutil.Error) as error:
        _end(started)
        raise CloudError(f"the page cannot be left open: {error}") from error
    (layout.home / FILE).write_text(json.dumps(started, indent=2) + "\n", "utf-8")
    return {"url": ready["page"]["url"], "pids": {one["name"]: one["pid"] for one in started}}


def stop(home: Path) -> list[str]:
    """End what `start` left open in `home`; the names of those that were still there. Raises NotFound."""
    path = home / FILE
    try:
        started = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise NotFound(
            f"{path}: {error}; name the folder that a demo with --keep said it was kept in"
        ) from error
    ended = _end(started)
    path.unlink(missing_ok=True)
    return ended


def _start(
    name: str, command: str, config: Path, logs: Path
) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    out = logs / f"{name}-open.out"
    with out.open("wb") as stdout, (logs / f"{name}.log").open("ab") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "firmware_bridge", command, "--config", str(config)],
            stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    end = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        for line in out.read_text("utf-8", "replace").splitlines():
            if line.startswith("{") and (value := json.loads(line)).get("ready"):
                return process, value
        time.sleep(0.1)
    process.kill()
    process.wait()
    raise CloudError(f"{name} did not become ready: see {logs / f'{name}.log'}")


def _end(started: list[dict[str, Any]]) -> list[str]:
    found: list[tuple[str, psutil.Process]] = []
    for one in reversed(started):  # the page first, the broker last
        try:
            process = psutil.Process(int(one["pid"]))
            if abs(process.create_time() - float(one["since"])) < 1.0:
                process.terminate()
                found.append((str(one["name"]), process))
        except psutil.Error:
            continue  # it has ended by itself
    _, alive = psutil.wait_procs([process for _, process in found], timeout=STOP_TIMEOUT_S)
    for process in alive:
        process.kill()
    return [name for name, _ in found]
