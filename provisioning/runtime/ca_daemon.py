"""`holdfast ca serve`: the enrolment server as a process. Its ready line goes to stdout."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Final

from firmware_bridge.runtime.exposition import ListenError, exposed
from firmware_bridge.runtime.journal import open_journal
from provisioning.ca import Purpose
from provisioning.runtime import ca_admin, ca_files, ca_parties
from provisioning.runtime.ca_service import Enrolment, wall_time
from provisioning.runtime.ca_tool import opened
from provisioning.runtime.est_server import EstServer
from provisioning.runtime.kinds import say

TICK_S: Final = 1.0
"""How soon a changed ca.toml or a due revocation list is seen."""


def serve(folder: Path, host: str | None, port: int | None, metrics: str | None = None) -> int:
    """Serve until SIGTERM or SIGINT; `metrics` is where to serve those, HOST:PORT.

    Raises ProvisioningError, OSError for what cannot begin.
    """
    open_journal("holdfast-ca")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with opened(folder) as (authority, register):
        now = wall_time()
        for purpose in Purpose:
            ca_files.check_clock(authority.authority(purpose).certificate, now)
        ca_files.renew_server(authority, now)
        if ca_admin.crls_due(authority, now):
            ca_admin.write_crls(authority, register, now)
        if authority.config.collector:  # what a crash left between register and folder
            ca_parties.write_devices(register, Path(authority.config.collector))
        config = authority.config
        server = EstServer(
            Enrolment(authority, register),
            config.est_host if host is None else host,
            config.est_port if port is None else port,
        )
        try:
            with exposed(metrics, server.metrics.registry):
                _run(server, stop)
        except ListenError as error:
            print(f"ca: metrics: {error}", file=sys.stderr)
            return error.code
    return 0


def _run(server: EstServer, stop: threading.Event) -> None:
    server.start()
    print(json.dumps({"ready": True, "port": server.port}), flush=True)
    say("ca_ready", port=server.port)
    while not stop.wait(TICK_S):
        server.tick()
    server.stop()
    say("ca_stopped")
