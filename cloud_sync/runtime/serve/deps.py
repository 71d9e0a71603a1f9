"""What a route gets: the server's context, who asks, and connections to read and write.

A route names what it needs in its signature:

    def vehicles(ctx: Ctx, who: Annotated[Principal, Depends(require(READ_FLEET))], db: Reader) -> VehicleList

Routes are plain functions: they run in worker threads, where SQLite may block. A coroutine (SSE) uses
`ctx.stores.reading()` inside `anyio.to_thread.run_sync`.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPBearer

from cloud_sync.access import Principal
from cloud_sync.errors import StoreBusy
from cloud_sync.runtime.collector_files import CollectorConfig, CollectorKeys
from cloud_sync.runtime.serve import sessions, tokens
from cloud_sync.runtime.serve.accounts import AccountRow, Passwords
from cloud_sync.runtime.serve.config import ServeConfig
from cloud_sync.runtime.serve.db import ServeDb, StorePool
from cloud_sync.runtime.serve.problems import ApiProblem
from cloud_sync.runtime.store import Store
from cloud_sync.words import Words
from firmware_bridge.runtime.clock import Clock
from firmware_bridge.wire import cose

COOKIE: Final = "holdfast"
SECURE_COOKIE: Final = "__Host-holdfast"
"""With https: of this host alone; no other host of the domain can set it (RFC 6265bis, 4.1.3.2)."""
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_API_COOKIE: Final = APIKeyCookie(
    name=COOKIE, scheme_name="session", auto_error=False,
    description="Set by POST /api/v1/session; `__Host-holdfast` over https. Needs X-CSRF-Token to write.",
)  # fmt: skip
_API_BEARER: Final = HTTPBearer(
    scheme_name="token", auto_error=False, description="An API token: `hft_<id>_<secret>`."
)


@dataclass(slots=True)
class Context:
    """What all parts of the server share. Made once by `app.open_context`."""

    config: ServeConfig
    collector: CollectorConfig
    keys: CollectorKeys
    clock: Clock
    """The collector's: what is compared with the times of devices."""
    tenant: str | None
    """[collector] tenant of collector.toml: whose the very first account is."""
    stores: StorePool
    """store.db: `reading()`, `writing()`."""
    db: ServeDb
    """serve.db: `reading()`, `transaction()`."""
    words: Mapping[str, Words]
    """Language -> catalogue."""
    passwords: Passwords
    version: str
    base_url: str
    """Scheme, host and port, without a slash at the end; known when the port is."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the server ends: streams end then."""
    at_stop: list[Callable[[], None]] = field(default_factory=list)
    """Called in the event loop when the server begins to end: streams wake up and close."""
    extras: dict[str, object] = field(default_factory=dict)
    """What other parts keep here, such as the live hub."""

    @property
    def ledger_key(self) -> cose.PrivateKey:
        """What statements of the cloud are signed with."""
        return self.keys.ledger

    @property
    def https(self) -> bool:
        """Whether people reach the server by https."""
        return self.base_url.startswith("https://")

    @property
    def cookie(self) -> str:
        """Name of the session's cookie."""
        return SECURE_COOKIE if self.https else COOKIE

    def now_ms(self) -> int:
        """The collector's clock, in ms since 1970-01-01T00:00:00Z."""
        return self.clock.wall_ns() // 1_000_000

    def now(self) -> str:
        """The collector's clock, as the API says times."""
        return iso(self.now_ms())

    @staticmethod
    def real_ms() -> int:
        """Real time, for sessions, waits and retries."""
        return time.time_ns() // 1_000_000

    def close(self) -> None:
        """Close databases and threads."""
        self.stopping.set()
        self.passwords.close()
        self.stores.close()
        self.db.close()


def iso(wall_ms: int) -> str:
    """A time as the API says it: ISO 8601, UTC, milliseconds, `Z`."""
    when = datetime.fromtimestamp(wall_ms // 1000, UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{wall_ms % 1000:03d}Z"


async def context(request: Request) -> Context:
    """The server's context."""
    found = request.app.state.context
    assert isinstance(found, Context)
    return found


Ctx = Annotated[Context, Depends(context)]


@dataclass(frozen=True, slots=True)
class Login:
    """An authenticated request."""

    principal: Principal
    account: AccountRow
    session: str | None
    """Token of the session; None with an API token."""


def login(
    request: Request,
    ctx: Ctx,
    cookie: Annotated[str | None, Depends(_API_COOKIE)] = None,
    bearer: Annotated[object, Depends(_API_BEARER)] = None,
) -> Login:
    """Who asks. An Authorization header counts alone, even when there is a cookie too.

    Raises ApiProblem: not_logged_in, csrf.
    """
    given = request.headers.get("authorization")
    if given is not None:
        return _by_token(ctx, given)
    token = request.cookies.get(ctx.cookie)
    now_ms = ctx.real_ms()
    found = None
    if token:
        with ctx.db.reading() as db:
            found = sessions.find_session(db, token, ctx.config.session, now_ms)
    if token is None or found is None:
        raise _nobody("The session has ended." if token else "This needs a login.")
    if request.method not in SAFE_METHODS and not sessions.csrf_fits(
        token, request.headers.get("x-csrf-token", "")
    ):
        raise ApiProblem(
            "csrf", "X-CSRF-Token is missing or not the one of this session.", "Load the page again."
        )
    account, stale = found
    if stale:
        _note(ctx, lambda db: sessions.touch_session(db, token, account.id, now_ms))
    return Login(account.principal(), account, token)


def _by_token(ctx: Context, header: str) -> Login:
    scheme, _, text = header.partition(" ")
    now_ms = ctx.real_ms()
    found = None
    if scheme.lower() == "bearer":
        with ctx.db.reading() as db:
            found = tokens.find_token(db, text.strip(), now_ms)
    if found is None:
        raise _nobody("This token does not exist, has ended, or its account is disabled.")
    account, principal, stale = found
    if stale:
        _note(ctx, lambda db: tokens.touch_token(db, str(principal.token), now_ms))
    return Login(principal, account, None)


def _note(ctx: Context, write: Callable[[sqlite3.Connection], None]) -> None:
    """Note a use; when the database is busy it is noted the next time."""
    try:
        with ctx.db.transaction() as db:
            write(db)
    except StoreBusy:
        return


def _nobody(detail: str) -> ApiProblem:
    return ApiProblem(
        "not_logged_in", detail, "Log in, or send a token that is valid.",
        {"WWW-Authenticate": 'Bearer realm="holdfast"'},
    )  # fmt: skip


LoggedIn = Annotated[Login, Depends(login)]


def principal(found: LoggedIn) -> Principal:
    """Who asks, whatever they may do. Raises ApiProblem not_logged_in."""
    return found.principal


def require(*scopes: str) -> Callable[[Login], Principal]:
    """A dependency that gives the principal and refuses one who lacks a scope (ApiProblem scope_missing)."""

    def allowed(found: LoggedIn) -> Principal:
        lacking = [scope for scope in scopes if not found.principal.may(scope)]
        if lacking:
            said = " ".join(lacking)
            raise ApiProblem(
                "scope_missing", f"This needs {said}, which this account or token does not have.",
                "Ask somebody who manages accounts.",
                {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{said}"'},
            )  # fmt: skip
        return found.principal

    return allowed


def reader(ctx: Ctx) -> Iterator[sqlite3.Connection]:
    """A read-only connection of store.db, on one snapshot for the whole request."""
    with ctx.stores.reading() as db:
        yield db


def writer(ctx: Ctx) -> Iterator[Store]:
    """The collector's store, for short write transactions."""
    with ctx.stores.writing() as store:
        yield store


def accounts_db(ctx: Ctx) -> ServeDb:
    """serve.db."""
    return ctx.db


Reader = Annotated[sqlite3.Connection, Depends(reader, scope="function")]
"""Given back before the answer is sent: a slow viewer holds no snapshot."""
Writer = Annotated[Store, Depends(writer, scope="function")]


def client_address(request: Request) -> str:
    """Address of the client; of a believed proxy's client behind one."""
    return request.client.host if request.client else ""
