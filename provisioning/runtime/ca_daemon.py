"""`holdfast ca serve`: the enrolment server as a process. JSON lines on stderr, ready line on stdout."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Final

from provisioning.ca import Purpose
from provisioning.runtime import ca_admin, ca_files, ca_parties
from provisioning.runtime.ca_service import Enrolment, wall_time
from provisioning.runtime.ca_tool import opened
from provisioning.runtime.est_log import JsonLines, tell
from provisioning.runtime.est_server import EstServer

TICK_S: Final = 1.0
"""How soon a changed ca.toml or a due revocation list is seen."""


def serve(folder: Path, host: str | None, port: int | None) -> int:
    """Serve until SIGTERM or SIGINT. Raises ProvisioningError, OSError for what cannot begin."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level="INFO", handlers=[handler], force=True)
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
        server.start()
        print(json.dumps({"ready": True, "port": server.port}), flush=True)
        tell(logging.INFO, "enrolment server ready", "ready", port=server.port)
        while not stop.wait(TICK_S):
            server.tick()
        server.stop()
        tell(logging.INFO, "stopped", "stopped")
    return 0
