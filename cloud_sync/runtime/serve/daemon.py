"""`holdfast serve`: one uvicorn in one process, until SIGTERM.

It says `{"ready": true, "url": ..., "port": ...}` on stdout, as the other daemons do, with the one-time
`link` of the first account while there is none; on a terminal it says so in words. It ends within STOP_S,
open event streams included. Exit codes: 0 an orderly end, 2 a configuration that cannot be meant, 13 owner,
mode or mount are in the way, 1 anything else that keeps it from serving.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import signal
import socket
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI

from cloud_sync.errors import BadRequest, CloudError, ConfigError, NotFound, StoreReadOnly
from cloud_sync.runtime.serve import accounts
from cloud_sync.runtime.serve.accounts import AccountRow, NewAccount
from cloud_sync.runtime.serve.app import create_app, open_context, url_of
from cloud_sync.runtime.serve.config import ServeConfig, load_config
from cloud_sync.runtime.serve.db import ServeDb
from cloud_sync.runtime.serve.deps import Context
from cloud_sync.runtime.serve.metrics import install
from cloud_sync.runtime.serve.protocol import ReachableProtocol
from cloud_sync.runtime.serve.routes_session import ADMIN_ROLE
from cloud_sync.runtime.titles import tenant_of
from cloud_sync.statement import valid_tenant
from edge.runtime.notify import Notify
from firmware_bridge.runtime.exposition import ListenError, exposed
from firmware_bridge.runtime.journal import open_journal

STOP_S: Final = 3
"""Answers in hand get so long at the end; then what is open is cut."""
KEEPALIVE_S: Final = 20
"""An idle connection is kept a little longer than the page's longest pause between requests."""
HEAD_S: Final = 20.0
"""From the connection to the end of the first request's headers."""
MAX_CONNECTIONS: Final = 1000
"""200 viewers with a stream and some requests each; more are told 503."""
MAX_HEAD_BYTES: Final = 32 << 10
"""Request line and headers; h11 refuses more."""
BACKLOG: Final = 256
EXIT_OK, EXIT_FAILED, EXIT_CONFIG, EXIT_PERMISSION = 0, 1, 2, 13


class _Impatient(ReachableProtocol):
    """Ends a connection that opens and then says nothing: each holds one of MAX_CONNECTIONS."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn does, and begin to wait."""
        super().connection_made(transport)
        self._waiting = self.loop.call_later(HEAD_S, self._silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn does."""
        self._waiting.cancel()
        super().connection_lost(exc)

    def _silent(self) -> None:
        if self.cycle is None:
            self.transport.close()


class Running(uvicorn.Server):
    """A uvicorn whose streams end when it ends; `ready` is set when it answers."""

    def __init__(self, app: FastAPI, context: Context) -> None:
        config = context.config
        super().__init__(
            uvicorn.Config(
                app, lifespan="on", loop="asyncio", http=_Impatient, ws="none", log_config=None,
                access_log=False, server_header=False, proxy_headers=config.behind_proxy,
                forwarded_allow_ips=list(config.proxies), ssl_certfile=config.cert, ssl_keyfile=config.key,
                timeout_keep_alive=KEEPALIVE_S, timeout_graceful_shutdown=STOP_S, backlog=BACKLOG,
                limit_concurrency=MAX_CONNECTIONS, h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            )
        )  # fmt: skip
        self.ready = threading.Event()
        self._context = context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if self.started:
            self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wake the streams, then end as uvicorn does."""
        self._context.stopping.set()
        for wake in list(self._context.at_stop):
            wake()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would raise a caught SIGTERM again at the end, and the exit code would be its."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.end)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def end(self) -> None:
        """Begin to end; the second time at once."""
        self.force_exit = self.should_exit
        self.should_exit = True


def run(config_path: Path, *, as_json: bool = False, metrics: str | None = None) -> int:
    """Serve until SIGTERM or SIGINT; `metrics` is where to serve those. See the module for the exit codes."""
    try:
        config = load_config(config_path)
        open_journal("holdfast-serve", config.log_level)
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # its comings and goings are ours to say
        _check_secrets(config)
        listener = _listen(config)
    except CloudError as error:
        return _failed(error)
    except OSError as error:
        return _not_bound(config, error)
    with listener:
        try:
            context = open_context(config)
        except CloudError as error:
            return _failed(error)
        try:
            port = int(listener.getsockname()[1])
            context.base_url = config.base_url or url_of(config, port)
            link = first_link(context)
            server = Running(create_app(context), context)
            with exposed(metrics, install(context).registry):
                return asyncio.run(_serve(server, listener, context, link, as_json))
        except ListenError as error:
            print(f"serve: metrics: {error}", file=sys.stderr)
            return error.code
        except CloudError as error:
            return _failed(error)
        except OSError as error:  # the certificate or its key
            print(f"serve: {error}; check [serve] cert and key", file=sys.stderr)
            return EXIT_PERMISSION if error.errno in (errno.EACCES, errno.EPERM) else EXIT_CONFIG
        finally:
            context.close()


async def _serve(
    server: Running, listener: socket.socket, context: Context, link: str | None, as_json: bool
) -> int:
    notify = Notify()
    serving = asyncio.create_task(server.serve([listener]))
    try:
        while not server.ready.is_set():
            if serving.done():
                await serving
                return EXIT_FAILED
            await asyncio.sleep(0.02)
        _say_ready(context, int(listener.getsockname()[1]), link, as_json)
        notify.tell("READY=1")
        while not serving.done():
            await asyncio.wait({serving}, timeout=notify.interval_s)
            notify.tell("STOPPING=1" if serving.done() or server.should_exit else "WATCHDOG=1")
        await serving
    finally:
        serving.cancel()
    return EXIT_OK


def _say_ready(context: Context, port: int, link: str | None, as_json: bool) -> None:
    if sys.stdout.isatty() and not as_json:
        line = f"Holdfast is at {context.base_url}"
        if link is not None:
            line = f"{line}; make the first account within 48 hours, once: {link}"
    else:
        value: dict[str, object] = {"ready": True, "url": context.base_url, "port": port}
        line = json.dumps(value if link is None else value | {"link": link})
    print(line, flush=True)


def first_link(context: Context) -> str | None:
    """A one-time link for the first account while there is none; an older one ends. Raises ConfigError."""
    with context.db.reading() as db:
        if accounts.any_account(db):
            return None
    tenant = context.tenant or tenant_of(context.config.collector, None)
    with context.db.transaction() as db:
        token = accounts.make_link(db, tenant, None, context.real_ms())
    return f"{context.base_url}/#/enter/{token}"


def new_link(config_path: Path, name: str, tenant: str | None) -> dict[str, str]:
    """A one-time link for the account `name`, or for a tenant's first account, which is made then.

    For whoever sits at the server: no login is asked for. Returns {account, tenant, link}. Raises
    ConfigError, NotFound, BadRequest, StoreError.
    """
    config = load_config(config_path)
    if config.base_url is None and config.port == 0:
        raise ConfigError(f"{config_path}: the link needs [serve] base_url, or a port that is not 0")
    if tenant is not None and not valid_tenant(tenant):
        raise ConfigError(f"{tenant!r:.80} is not a tenant's name")
    base = config.base_url or url_of(config, config.port)
    db = ServeDb(config.store)
    try:
        with db.transaction() as rows:
            found, _ = accounts.by_login(rows, f"{tenant}/{name}" if tenant else name)
            now_ms = Context.real_ms()
            if found is None:
                found = _first_of(rows, config, name, tenant, now_ms)
            if found.disabled:
                raise BadRequest(f"the account {found.name} is disabled: somebody who manages must enable it")
            token = accounts.make_link(rows, found.tenant, found.id, now_ms)
    finally:
        db.close()
    return {"account": found.name, "tenant": found.tenant, "link": f"{base}/#/enter/{token}"}


def _first_of(
    db: sqlite3.Connection, config: ServeConfig, name: str, tenant: str | None, now_ms: int
) -> AccountRow:
    """The first account of a tenant that has none. Raises NotFound where it has."""
    whose = tenant or tenant_of(config.collector, None)
    if accounts.any_account(db, whose):
        raise NotFound(f"tenant {whose} has no account {name!r:.80}: check the name, or give --tenant")
    if not accounts.good_name(name):
        raise BadRequest("a name has letters, digits, spaces and . @ + - _, and begins with a letter")
    number = accounts.add(db, NewAccount(whose, name, ADMIN_ROLE, manages=True), now_ms)
    return accounts.find(db, whose, number)


def _check_secrets(config: ServeConfig) -> None:
    """Said now, not at the first login or mail. Raises ConfigError."""
    if config.oidc is not None and config.oidc.client_secret_file is not None:
        config.secret(config.oidc.client_secret_file)
    if config.smtp is not None and config.smtp.password_file is not None:
        config.secret(config.smtp.password_file)
    for file in (config.cert, config.key):
        if file is not None and not file.is_file():
            raise ConfigError(f"{config.path}: {file} is not there")


def _listen(config: ServeConfig) -> socket.socket:
    """A listening socket, before anything else is done. Raises OSError, ConfigError."""
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ConfigError(f"{config.path}: [serve] host {config.host}: {error.strerror}") from error
    family, kind, proto, _, address = found[0]
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener


def _not_bound(config: ServeConfig, error: OSError) -> int:
    where = f"{config.host}:{config.port}"
    if error.errno in (errno.EACCES, errno.EPERM):
        print(f"serve: may not listen on {where}: ports below 1024 belong to root", file=sys.stderr)
        return EXIT_PERMISSION
    if error.errno == errno.EADDRINUSE:
        print(f"serve: {where} is taken: end what listens there, or set [serve] port", file=sys.stderr)
        return EXIT_FAILED
    print(f"serve: cannot listen on {where}: {error}; check [serve] host", file=sys.stderr)
    return EXIT_CONFIG if error.errno == errno.EADDRNOTAVAIL else EXIT_FAILED


def _failed(error: CloudError) -> int:
    print(f"serve: {error}", file=sys.stderr)
    if isinstance(error, ConfigError):
        return EXIT_CONFIG
    return EXIT_PERMISSION if isinstance(error, StoreReadOnly) else EXIT_FAILED
