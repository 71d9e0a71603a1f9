"""How many devices the enrolment server takes in a minute of its CPU time: both certificates each.

    python tests/bench/enrolload.py [DEVICES]

Everything a device costs is in it: two TLS handshakes (the second with a client's certificate), two
requests, four commits' worth of register and the collector's file on a real disk. The server is a process of
its own; what is divided by is its user and system time, so the client's half does not count.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rows import Row

from provisioning import ca, est
from provisioning.ca import Purpose
from provisioning.csr import make_csr
from provisioning.identity import Identity
from provisioning.runtime import ca_admin, ca_files, ca_parties
from provisioning.runtime.ca_config import CaConfig
from provisioning.runtime.ca_db import Register
from provisioning.runtime.ca_keys import key_pem, pem
from provisioning.runtime.ca_service import wall_time

DEVICES = 300
RUN = [sys.executable, "-c", "from provisioning.__main__ import ca; ca()", "serve"]


def post(port: int, context: ssl.SSLContext, path: str, csr: bytes, code: str = "") -> bytes:
    """One request; its body."""
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
    headers = {"Content-Type": est.CSR_TYPE} | ({"Authorization": est.basic(code)} if code else {})
    try:
        connection.request("POST", path, est.encode_der(csr), headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{answer.status} {body!r}")
        return body
    finally:
        connection.close()


def enrol(home: Path, port: int, identity: Identity, code: str) -> None:
    """Both certificates of one device."""
    tls, event = ca.new_key(), ca.new_key()
    context = ssl.create_default_context(cafile=str(home / "ca" / "root.crt"))
    (certificate,) = est.read_certs_only(
        post(port, context, est.enroll_path(Purpose.TLS), make_csr(tls, identity), code)
    )
    both = home / f"{identity.device}.pem"
    both.write_bytes(key_pem(tls) + pem(certificate) + (home / "ca" / "tls.crt").read_bytes())
    context.load_cert_chain(both)
    post(port, context, est.enroll_path(Purpose.EVENT), make_csr(event, identity))


def cpu_s(process: int) -> float:
    """User and system seconds of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(devices: int = DEVICES) -> tuple[float, float]:
    """Enrolments per minute of server CPU, and per minute by the wall."""
    with tempfile.TemporaryDirectory() as folder:
        home, now = Path(folder), wall_time()
        opened = ca_files.init(
            home / "ca", CaConfig("fund", ("localhost",), uplink_host="broker.example"), now
        )
        register = Register(home / "ca" / "ca.db")
        ca_parties.make_collector(opened, register, home / "collector", "log.example", now)
        names = [Identity("fund", f"car-{number}") for number in range(devices)]
        codes = [ca_admin.make_code(register, identity, "", 90, now)[0] for identity in names]
        register.close()
        server = subprocess.Popen(
            [*RUN, str(home / "ca"), "--host", "127.0.0.1", "--port", "0"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            assert server.stdout is not None
            port = int(json.loads(server.stdout.readline())["port"])
            cpu, wall = cpu_s(server.pid), time.monotonic()
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda one: enrol(home, port, *one), zip(names, codes, strict=True)))
            cpu, wall = cpu_s(server.pid) - cpu, time.monotonic() - wall
        finally:
            server.terminate()
            server.wait()
    return devices * 60 / cpu, devices * 60 / wall


def enrolments(folder: Path, scale: float = 1.0) -> Iterator[Row]:
    """The rows of bench.json."""
    per_cpu, per_wall = measure(max(20, round(DEVICES * scale)))
    yield Row(
        "enrolments_per_core_minute", round(per_cpu), "1/min of one core", goal=">= 1000", met=per_cpu >= 1000
    )
    yield Row("enrolments_per_minute", round(per_wall), "1/min by the wall, clients on the same machine")


if __name__ == "__main__":
    per_cpu, per_wall = measure(int(sys.argv[1]) if len(sys.argv) > 1 else DEVICES)
    print(json.dumps({"enrolments_per_cpu_minute": round(per_cpu), "enrolments_per_minute": round(per_wall)}))
