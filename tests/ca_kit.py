"""An authority on disk, its server in this process, and a client of EST that speaks plain HTTP over TLS."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from provisioning import ca, est
from provisioning.ca import Purpose
from provisioning.csr import make_csr
from provisioning.identity import Identity
from provisioning.runtime import ca_admin, ca_files, ca_parties
from provisioning.runtime.ca_config import CaConfig
from provisioning.runtime.ca_db import Register
from provisioning.runtime.ca_keys import key_pem, pem
from provisioning.runtime.ca_service import Enrolment
from provisioning.runtime.est_server import EstServer

CAR = Identity("fund", "car-1")
CONFIG = CaConfig("fund", ("localhost",), est_port=0, uplink_host="broker.example")


class Clock:
    """Wall time that a test moves. It begins now: the client's TLS looks at the real clock."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.at

    def forward(self, days: float) -> None:
        self.at += timedelta(days=days)


@dataclass
class Answered:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Of the problem."""
        return str(json.loads(self.body)["code"])

    def certificate(self) -> x509.Certificate:
        """The one certificate of a good answer."""
        assert self.status == 200, self.body
        (one,) = est.read_certs_only(self.body)
        return one


@dataclass
class World:
    """An authority with a collector's folder, made now."""

    home: Path
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.folder, self.collector = self.home / "ca", self.home / "collector"
        ca_files.init(self.folder, CONFIG, self.clock())
        self.register = Register(self.folder / "ca.db")
        ca_parties.make_collector(self.opened, self.register, self.collector, "log.example", self.clock())
        self.enrolment = Enrolment(self.opened, self.register, self.clock)

    @property
    def opened(self) -> ca_files.CaFolder:
        """The folder as it is now."""
        return ca_files.load(self.folder)

    def code(self, identity: Identity = CAR, days: int = 90) -> str:
        """A claim code."""
        return ca_admin.make_code(self.register, identity, "V2", days, self.clock())[0]

    def device_file(self, device: str = "car-1") -> Path:
        """What the collector reads."""
        return self.collector / "devices" / "fund" / f"{device}.crt"


@dataclass
class Device:
    """A node as the server sees it: two keys, and the TLS certificate once it has one."""

    home: Path
    port: int
    root: x509.Certificate
    identity: Identity = CAR
    tls_key: ec.EllipticCurvePrivateKey = field(default_factory=ca.new_key)
    event_key: ec.EllipticCurvePrivateKey = field(default_factory=ca.new_key)
    tls: x509.Certificate | None = None
    chain: tuple[x509.Certificate, ...] = ()

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        mtls: bool = True,
    ) -> Answered:
        """One request, with the TLS certificate where there is one."""
        context = ssl.create_default_context(cadata=pem(self.root).decode())
        if mtls and self.tls is not None:
            path_ = self.home / f"{self.identity.device}.{self.tls.serial_number:x}.pem"
            path_.write_bytes(key_pem(self.tls_key) + pem(self.tls, *self.chain))
            context.load_cert_chain(path_)
        connection = http.client.HTTPSConnection("localhost", self.port, context=context, timeout=20)
        try:
            connection.request(method, path, body or None, headers or {})
            answer = connection.getresponse()
            return Answered(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def post(self, path: str, csr: bytes, code: str = "", *, mtls: bool = True) -> Answered:
        """A PKCS#10 request."""
        headers = {"Content-Type": est.CSR_TYPE} | ({"Authorization": est.basic(code)} if code else {})
        return self.request("POST", path, est.encode_der(csr), headers, mtls=mtls)

    def enrol_tls(self, code: str) -> Answered:
        """By claim code."""
        answer = self.post(
            est.enroll_path(Purpose.TLS), make_csr(self.tls_key, self.identity), code, mtls=False
        )
        if answer.status == 200:
            self.tls = answer.certificate()
        return answer

    def enrol_event(self) -> Answered:
        """By TLS certificate."""
        return self.post(est.enroll_path(Purpose.EVENT), make_csr(self.event_key, self.identity))

    def renew(self, purpose: Purpose, key: ec.EllipticCurvePrivateKey) -> Answered:
        """By TLS certificate, for another key."""
        return self.post(est.enroll_path(purpose, again=True), make_csr(key, self.identity))

    def node(self) -> dict[str, Any]:
        """Trust and uplink."""
        answer = self.request("GET", est.NODE)
        assert answer.status == 200, answer.body
        value = json.loads(answer.body)
        assert isinstance(value, dict)
        return value


@contextmanager
def serving(world: World) -> Iterator[EstServer]:
    """The server, on a port of its own. Its clock is the world's; TLS of the client uses real time."""
    server = EstServer(world.enrolment, "127.0.0.1", 0)
    server.start()
    try:
        yield server
    finally:
        server.stop()
