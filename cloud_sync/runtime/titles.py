"""Title transitions as people make them: an organisation's desk at the collector's database.

The desk turns what is typed (VIN, owner, loan number) into keyed hashes, calls the contract, and commits
the transition together with its signed statement; a running collector's sequencer picks the statement up
from the same database. The token key stays in `keys/token-<tenant>.key` beside the other keys.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cloud_sync.errors import ConfigError
from cloud_sync.ledger import engine
from cloud_sync.ledger import vin as vins
from cloud_sync.ledger.contract import Role
from cloud_sync.ledger.errors import Conflict, Refused, WrongState
from cloud_sync.ledger.vin import Market
from cloud_sync.projection import sensor_id
from cloud_sync.runtime import fleet, projector, title_state
from cloud_sync.runtime.collector_files import load_config, load_keys, make_clock
from cloud_sync.runtime.store import Store, log_statement
from cloud_sync.runtime.title_state import Committed, SqliteState, list_titles
from cloud_sync.statement import BINDING, make_statement, valid_tenant
from firmware_bridge.wire import cose

MAX_TYRES: Final = 8
"""Enrolled tyre sensors of one vehicle: four wheels, a spare set of four."""
ATTEMPTS: Final = 5
"""How often a call that lost a race is run again on what the winner left; it then mostly hears a refusal."""
DEMO_ORGS: Final = {Role.REGISTRY: "registry", Role.LENDER: "lender", Role.GUARANTOR: "guarantor"}


def submit(
    store: Store,
    tenant: str,
    call: engine.Call,
    key: cose.PrivateKey,
    also: Callable[[sqlite3.Connection], None] | None = None,
) -> Committed:
    """Run `call` and commit it with its statement and whatever `also` writes: all or nothing.

    It is simulated on a snapshot first; when another call has won meanwhile, it is simulated again on what
    that one left. Raises Refused as the contract does, Conflict after ATTEMPTS lost races, StoreBusy.
    """
    for _ in range(ATTEMPTS):
        outcome = engine.simulate(SqliteState(store.db, tenant), call)
        try:
            with store.transaction() as db:
                committed = title_state.apply(db, tenant, outcome, key)
                log_statement(db, tenant, committed.statement)
                fleet.add_feed(db, tenant, "title", "", str(committed.title["token"]), call.time_ms)
                if also is not None:
                    also(db)
                return committed
        except Conflict:
            continue
    raise Conflict(f"{call.function} lost {ATTEMPTS} races for this title: read it again and decide")


def bind(
    store: Store,
    tenant: str,
    token: str,
    device: str,
    tyres: Iterable[str],
    wall_ms: int,
    key: cose.PrivateKey,
) -> bytes:
    """Say which device and which enrolled tyre sensors the vehicle of `token` carries; a logged statement.

    Raises Refused when the title does not exist, or the device watches another vehicle whose title is
    locked: it must not be led away from a pledge. FormatError for an impossible sensor id.
    """
    ids = sorted({sensor_id(text) for text in tyres})
    if not valid_tenant(device):  # the two have one grammar
        raise Refused(f"{device!r:.80} is not a device name (lower-case letters, digits, hyphens)")
    if len(ids) > MAX_TYRES:
        raise Refused(f"{len(ids)} tyre sensors, at most {MAX_TYRES} belong to a vehicle")
    with store.transaction() as db:
        title_state.ask(db, tenant, "OwnerOf", token)
        other = title_state.bound_token(db, tenant, device)
        if other is not None and other != token and title_state.ask(db, tenant, "locked", other):
            raise WrongState(f"device {device} watches another pledged vehicle: release that lien first")
        db.execute(
            "INSERT INTO title_devices(tenant, device, token) VALUES(?, ?, ?)"
            " ON CONFLICT(tenant, device) DO UPDATE SET token = excluded.token",
            (tenant, device, token),
        )
        db.execute("DELETE FROM device_tyres WHERE tenant = ? AND device = ?", (tenant, device))
        db.executemany(
            "INSERT INTO device_tyres(tenant, device, sensor_id) VALUES(?, ?, ?)",
            [(tenant, device, text) for text in ids],
        )
        statement = make_statement(BINDING, tenant, wall_ms, {1: bytes.fromhex(token), 2: device}, key)
        log_statement(db, tenant, statement)
        fleet.add_feed(db, tenant, "title", device, token, wall_ms)
    return statement


class Desk:
    """What one tenant's organisations do with titles. `wall_ms` is the collector's clock."""

    def __init__(
        self, store: Store, tenant: str, keys: Path, ledger_key: cose.PrivateKey, wall_ms: Callable[[], int]
    ) -> None:
        self.store = store
        self.tenant = tenant
        self._keys = keys
        self._ledger_key = ledger_key
        self._wall_ms = wall_ms
        if store.db.execute("SELECT 1 FROM sqlite_master WHERE name = 'projector_counts'").fetchone() is None:
            with store.transaction() as db:
                projector.migrate(db)

    def token(self, typed: str) -> str:
        """The token of a title named by the beginning of its token or by its whole VIN.

        Raises WrongState when no title, or more than one, has that beginning; VinError for anything else
        that is no VIN.
        """
        bare = typed.strip()
        if bare and set(bare.lower()) <= set("0123456789abcdef") and len(bare) != vins.VIN_CHARS:
            return title_state.find_token(self.store.db, self.tenant, bare)
        return vins.token_id(typed, self._token_key())

    def mint(self, number: str, market: Market, owner: str, uri: str, org: str) -> dict[str, Any]:
        """A title for the vehicle with the VIN `number`. Raises VinError, Refused."""
        key = self._token_key()
        token = vins.token_id(vins.validate(number, market), key)
        args = (token, vins.reference("owner", owner, key), uri)
        return self._call("MintWithTokenURI", args, org, Role.REGISTRY, ("owner", owner))

    def propose(self, token: str, loan: str, org: str) -> dict[str, Any]:
        """The lender `org` proposes a lien for `loan`."""
        args = (token, vins.reference("loan", loan, self._token_key()))
        return self._call("ProposeLien", args, org, Role.LENDER, ("loan", loan))

    def consent(self, token: str, loan: str, org: str, role: str) -> dict[str, Any]:
        """The guarantor or the registry consents to the lien for `loan`."""
        args = (token, vins.reference("loan", loan, self._token_key()))
        return self._call("ConsentLien", args, org, role)

    def withdraw(self, token: str, org: str) -> dict[str, Any]:
        """The lender takes its proposal back."""
        return self._call("WithdrawLien", (token,), org, Role.LENDER)

    def release(self, token: str, org: str) -> dict[str, Any]:
        """The lender releases the lien."""
        return self._call("ReleaseLien", (token,), org, Role.LENDER)

    def transfer(self, token: str, owner: str, org: str) -> dict[str, Any]:
        """The registry writes down another owner; refused while the title is claimed or locked."""
        sender = str(title_state.ask(self.store.db, self.tenant, "OwnerOf", token))
        receiver = vins.reference("owner", owner, self._token_key())
        args = (token, sender, receiver)
        return self._call("TransferFrom", args, org, Role.REGISTRY, ("owner", owner))

    def alert(self, token: str, evidence: str, cause: str, org: str) -> dict[str, Any]:
        """An oracle reports evidence: the SHA-256 of a logged segment."""
        return self._call("ReportAlert", (token, evidence, cause), org, Role.ORACLE)

    def cure(self, token: str, evidence: str, org: str) -> dict[str, Any]:
        """An oracle reports that the matter is settled, with evidence: the SHA-256 of what shows it."""
        return self._call("ReportCure", (token, evidence), org, Role.ORACLE)

    def tick(self, token: str, org: str) -> dict[str, Any]:
        """Let time decide: ALERT to DEFAULT, DEFAULT to DISPOSAL. Anyone may, any one suffices."""
        return self._call("Tick", (token,), org, "keeper")

    def bind(self, token: str, device: str, tyres: Iterable[str]) -> dict[str, Any]:
        """Say which device and tyre sensors the vehicle carries."""
        bind(self.store, self.tenant, token, device, tyres, self._wall_ms(), self._ledger_key)
        return self.show(token)

    def show(self, token: str) -> dict[str, Any]:
        """One title with its words, devices and transitions."""
        return title_state.describe(self.store.db, self.tenant, token)

    def list(self) -> list[dict[str, Any]]:
        """All titles of the tenant."""
        return list_titles(self.store.db, self.tenant)

    def _call(
        self, function: str, args: tuple[str, ...], org: str, role: str, word: tuple[str, str] | None = None
    ) -> dict[str, Any]:
        call = engine.Call(function, args, org, role, self._wall_ms())

        def also(db: sqlite3.Connection) -> None:
            if word is not None:
                title_state.set_private(db, self.tenant, args[0], *word)

        submit(self.store, self.tenant, call, self._ledger_key, also)
        return self.show(args[0])

    def _token_key(self) -> bytes:
        """The tenant's token key, made at the first need and never again once there are titles.

        Raises ConfigError when it is lost or damaged: another key would give every vehicle a second token.
        """
        path = self._keys / f"token-{self.tenant}.key"
        if not path.exists():
            if SqliteState(self.store.db, self.tenant).keys("title/"):
                raise ConfigError(f"{path} is missing but titles exist: restore it from a backup")
            _create_key(path)
        try:
            key = bytes.fromhex(path.read_text("ascii").strip())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read as hexadecimal: {error}") from error
        if len(key) != vins.TOKEN_KEY_BYTES:
            raise ConfigError(f"{path} holds {len(key)} bytes, a token key has {vins.TOKEN_KEY_BYTES}")
        return key


def _create_key(path: Path) -> None:
    """Write a new token key that only its owner may read, atomically: of two at once, one key stays."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(vins.TOKEN_KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(fresh, path)
        except FileExistsError:
            return
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    finally:
        fresh.unlink(missing_ok=True)


@contextmanager
def open_desk(config_path: Path, tenant: str | None = None) -> Iterator[Desk]:
    """The desk of the collector whose collector.toml is given, for `tenant` or the one it names.

    Raises ConfigError, StoreError.
    """
    config = load_config(config_path)
    name = tenant_of(config_path, tenant)
    clock = make_clock(config)
    with Store(config.store) as store:
        yield Desk(store, name, config.keys, load_keys(config).ledger, lambda: clock.wall_ns() // 1_000_000)


def tenant_of(config_path: Path, given: str | None) -> str:
    """`given`, or [collector] tenant of collector.toml. Raises ConfigError where neither says one."""
    try:
        name = given or tomllib.loads(config_path.read_text("utf-8")).get("collector", {}).get("tenant")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{config_path}: {error}") from error
    if not isinstance(name, str) or not valid_tenant(name):
        raise ConfigError(f"no tenant: give --tenant, or tenant = ... in [collector] of {config_path}")
    return name


def pledge_for_demo(config_path: Path, *, vin: str, device: str, tyres: Iterable[str]) -> dict[str, Any]:
    """Mint, propose, consent twice and bind, as four organisations would: the title, PLEDGED."""
    loan = "demo loan 1"
    registry, lender, guarantor = (DEMO_ORGS[role] for role in (Role.REGISTRY, Role.LENDER, Role.GUARANTOR))
    with open_desk(config_path) as desk:
        token = str(desk.mint(vin, Market.EU, "demo owner", "", registry)["token"])
        desk.bind(token, device, tyres)
        desk.propose(token, loan, lender)
        desk.consent(token, loan, guarantor, Role.GUARANTOR)
        return desk.consent(token, loan, registry, Role.REGISTRY)


__all__ = ["ATTEMPTS", "Committed", "Desk", "bind", "list_titles", "open_desk", "pledge_for_demo", "submit"]
