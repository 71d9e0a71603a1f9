"""`holdfast metrics node`: a node's metrics for Prometheus, served, written to a file, or shown once."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Final

from edge.errors import ConfigError
from edge.runtime.load import load_config
from edge.runtime.node_metrics import NODE_METRICS, Node
from edge.runtime.notify import Notify
from firmware_bridge.runtime import exposition
from firmware_bridge.runtime.exposition import Gathered, ListenError

EXIT_OK, EXIT_CONFIG, EXIT_FAILURE = 0, 2, 1
DEFAULT_LISTEN: Final = "127.0.0.1:9463"
"""Loopback: from afar they are fetched through what has access rules, a proxy or node_exporter."""


def node(config_path: Path, *, listen: str | None, textfile: Path | None, once: bool) -> int:
    """Serve a node's metrics until SIGTERM, or write them once; the exit code."""
    try:
        config = load_config(config_path)
        address = exposition.address_of(listen or DEFAULT_LISTEN)
    except (ConfigError, ValueError) as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    registry = exposition.new_registry(Gathered(NODE_METRICS, Node(config).gather))
    if once:
        print(exposition.text_of(registry), end="")
        return EXIT_OK
    if textfile is not None:
        try:
            exposition.write_file(textfile, registry)
        except OSError as error:
            print(f"cannot write {textfile}: {error.strerror or error}", file=sys.stderr)
            return EXIT_FAILURE
        return EXIT_OK
    try:
        port, end = exposition.listen(address, registry)
    except ListenError as error:
        print(error, file=sys.stderr)
        return error.code
    print(json.dumps({"ready": True, "port": port}), flush=True)
    stop, notify = threading.Event(), Notify()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    notify.tell("READY=1")
    while not stop.wait(notify.interval_s):
        notify.tell("WATCHDOG=1")
    notify.tell("STOPPING=1")
    end()
    return EXIT_OK
