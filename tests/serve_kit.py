"""What tests of the server share: a store with the vehicles of two tenants, accounts of every role, clients.

    def test_it(kit: ServeKit) -> None:                 # fixture `kit` below: from serve_kit import kit
        assert kit.client("operator").get("/api/v1/vehicles").json()["items"]

`client(role, tenant)` is logged in by a session (cookie and X-CSRF-Token), `token_client` by an API token,
`anonymous()` is nobody. These speak to the application in process, without its background tasks. `server()`
is a real uvicorn on a loopback port, background tasks included, for browsers and event streams.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from cloudkit import TENANT, Device, Kit, make_kit
from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import FastAPI
from starlette.testclient import TestClient

from cloud_sync.access import ROLES, Principal
from cloud_sync.runtime import fleet
from cloud_sync.runtime.serve import accounts, sessions, tokens
from cloud_sync.runtime.serve.accounts import NewAccount, Passwords
from cloud_sync.runtime.serve.app import create_app, open_context
from cloud_sync.runtime.serve.config import load_config
from cloud_sync.runtime.serve.daemon import Running
from cloud_sync.runtime.serve.deps import Context
from provisioning import ca
from provisioning.ca import Validity
from provisioning.identity import Identity

OTHER = "other"
"""The tenant whose things nobody of `fund` may ever see; its device has a name of its own."""
PASSWORD = "four unrelated words"
"""Of every account of the kit."""
PARTNERS = "partners"
"""The branch of the kit's partner; no vehicle is of it until a test says so (`branch`)."""
BASE = "http://127.0.0.1:8480"


def quick_passwords() -> Passwords:
    """argon2id at its smallest: tests of logins are not tests of its cost."""
    return Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


@dataclass(slots=True)
class ServeKit:
    """A lab, its devices, the context and the application."""

    kit: Kit
    context: Context
    app: FastAPI
    devices: dict[str, Device]
    """car-1, car-2 of `fund`; far-1 of `other`."""
    accounts: dict[tuple[str, str], int] = field(default_factory=dict)
    """(tenant, role) -> number. Named `<role>` in both tenants; operators manage."""
    _open: list[TestClient] = field(default_factory=list)

    def ingest(self, *devices: str, events: int = 3, segments: int = 1) -> None:
        """Let devices seal segments and the collector take and log them."""
        messages = [m for name in devices for m in self.devices[name].messages(segments, events)]
        with self.kit.collector() as (_, _, intake):
            intake.finish(intake.commit(messages))

    def take(self, *sealed: tuple[str, object]) -> None:
        """Let the collector take sealed segments: pairs of device and what `Device.seal` gave."""
        with self.kit.collector() as (_, _, intake):
            intake.finish(intake.commit([self.devices[n].message(s) for n, s in sealed]))  # type: ignore[arg-type]

    def incident(self, device: str = "car-1", number: int = 1) -> str:
        """Let a device open an incident; its id."""
        one = self.devices[device]
        self.take((device, one.seal([one.event(), one.incident(number), one.event()])))
        return f"{device}.{one.run.hex()}.{number}"

    def branch(self, device: str, branch: str, tenant: str = TENANT) -> None:
        """Put a vehicle into a branch."""
        with self.context.stores.writing() as store, store.transaction() as db:
            fleet.set_card(db, tenant, device, None, branch, None)

    def confined(
        self, name: str, branches: tuple[str, ...], role: str = "operator", manages: bool = True
    ) -> TestClient:
        """A browser of a new account of `fund` that is confined to branches, logged in; it manages."""
        new = NewAccount(TENANT, name, role, manages, branches)
        with self.context.db.transaction() as db:
            self.accounts[TENANT, name] = accounts.add(db, new, self.context.real_ms())
        return self.client(name)

    def principal(self, role: str = "operator", tenant: str = TENANT) -> Principal:
        """What the account of `role` may do."""
        with self.context.db.reading() as db:
            return accounts.find(db, tenant, self.accounts[tenant, role]).principal()

    def session(self, role: str = "operator", tenant: str = TENANT) -> str:
        """A new session's token."""
        with self.context.db.transaction() as db:
            return sessions.open_session(db, tenant, self.accounts[tenant, role], self.context.real_ms())

    def api_token(self, role: str = "operator", tenant: str = TENANT, *scopes: str, days: int = 1) -> str:
        """A new API token with `scopes` (none named: all of the account)."""
        who = self.principal(role, tenant)
        with self.context.db.transaction() as db:
            chosen = list(scopes) or sorted(who.scopes)
            return tokens.make_token(db, who, "kit", chosen, days, self.context.real_ms())[1]

    def client(self, role: str = "operator", tenant: str = TENANT) -> TestClient:
        """A browser of the account of `role`, logged in."""
        client, token = self.anonymous(), self.session(role, tenant)
        client.cookies.set(self.context.cookie, token, domain="127.0.0.1", path="/")
        client.headers["X-CSRF-Token"] = sessions.csrf_of(token)
        return client

    def token_client(self, role: str = "operator", tenant: str = TENANT, *scopes: str) -> TestClient:
        """A program with an API token of the account of `role`."""
        client = self.anonymous()
        client.headers["Authorization"] = f"Bearer {self.api_token(role, tenant, *scopes)}"
        return client

    def anonymous(self) -> TestClient:
        """Nobody."""
        client = TestClient(self.app, base_url=BASE, follow_redirects=False)
        self._open.append(client)
        return client

    @contextmanager
    def server(self) -> Iterator[str]:
        """The application on a loopback port; its address."""
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.context.base_url = url
        self.context.stopping.clear()
        server = Running(self.app, self.context)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
        thread.start()
        try:
            assert server.ready.wait(30), "the server does not start"
            yield url
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the server does not end"

    def close(self) -> None:
        """Close clients and databases."""
        for client in self._open:
            client.close()
        self.context.close()


def add_device(kit: Kit, tenant: str, name: str) -> Device:
    """One more device, of any tenant, enrolled at the collector."""
    key = ca.new_key()
    issuer = kit.lab.event.certificate
    life = Validity(issuer.not_valid_before_utc, issuer.not_valid_after_utc)
    certificate = ca.issue_event(kit.lab.event, key.public_key(), Identity(tenant, name), life)
    folder = kit.lab.collector / "devices" / tenant
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    return Device(tenant, name, key, b"\x07" * 16)


def write_serve_config(folder: Path, kit: Kit, extra: str = "", serve: str = "") -> Path:
    """serve.toml in `folder`; `serve` are more lines of [serve], `extra` more sections."""
    path = folder / "serve.toml"
    path.write_text(f'[serve]\ncollector = "{kit.config_path}"\nport = 0\n{serve}\n{extra}\n', "utf-8")
    return path


def make_serve_kit(
    home: Path, extra: str = "", serve: str = "", kinds: tuple[str, ...] = ("live",)
) -> ServeKit:
    """A kit below `home`: three devices that were heard once, accounts of every role in two tenants."""
    kit = make_kit(home / "lab", kinds=kinds)
    far = add_device(kit, OTHER, "far-1")
    devices = {"car-1": kit.device("car-1"), "car-2": kit.device("car-2"), "far-1": far}
    with kit.collector() as (_, _, intake):
        intake.finish(intake.commit([one.message(one.seal(2)) for one in devices.values()]))
    config = load_config(write_serve_config(home, kit, extra, serve))
    context = open_context(config, clock=kit.clock, passwords=quick_passwords())
    context.base_url = config.base_url or BASE
    made = ServeKit(kit, context, create_app(context), devices)
    stored = context.passwords.hash(PASSWORD)
    with context.db.transaction() as db:
        for tenant in (TENANT, OTHER):
            for role in ROLES:
                branches = (PARTNERS,) if role == "partner" else ()
                new = NewAccount(tenant, role, role, role == "operator", branches)
                made.accounts[tenant, role] = accounts.add(db, new, context.real_ms(), stored)
    return made


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[ServeKit]:
    """A kit of its own for one test."""
    made = make_serve_kit(tmp_path)
    try:
        yield made
    finally:
        made.close()
