"""Coming in and going out: entry, login, one-time links, one's own language and password."""

from __future__ import annotations

import sqlite3
from typing import Final, get_args

from fastapi import APIRouter, Request, Response
from pydantic import Field

from cloud_sync.access import SCOPES, WRITE_INCIDENTS, Principal
from cloud_sync.errors import Conflict
from cloud_sync.runtime.serve import accounts, attempts, noting, sessions
from cloud_sync.runtime.serve.accounts import AccountRow, NewAccount
from cloud_sync.runtime.serve.asked import KnownQuery
from cloud_sync.runtime.serve.deps import Context, Ctx, LoggedIn, Login, client_address, iso
from cloud_sync.runtime.serve.problems import ApiProblem
from cloud_sync.runtime.serve.schemas import (
    Account,
    ClockKind,
    EnterRequest,
    Entry,
    Language,
    LoginRequest,
    MapSettings,
    Model,
    Session,
)
from firmware_bridge.wire.stamp import ClockKind as Kind

router = APIRouter(prefix="/api/v1", tags=["session"], dependencies=[KnownQuery])

ADMIN_ROLE: Final = "operator"
"""Of the first account of a tenant; it manages the others."""
_WRONG: Final = (
    "Name or password is wrong, or the account is disabled.",
    "Try again; whoever shares a name with another tenant's account writes tenant/name.",
)


class SessionChange(Model):
    """What one changes for oneself."""

    language: Language


class PasswordChange(Model):
    """A new password for oneself."""

    old: str = Field(min_length=1, max_length=256)
    new: str = Field(min_length=12, max_length=256)


@router.get("/entry")
def entry(ctx: Ctx) -> Entry:
    """What the page may know before anybody is logged in."""
    with ctx.db.reading() as db:
        first = not accounts.any_account(db)
    return Entry(oidc=ctx.config.oidc.name if ctx.config.oidc else None, first=first, version=ctx.version)


@router.get("/session")
def session(ctx: Ctx, found: LoggedIn) -> Session:
    """Who is here, and what the page needs to know."""
    return told(ctx, found.account, found)


@router.post("/session")
def log_in(ctx: Ctx, request: Request, response: Response, body: LoginRequest) -> Session:
    """Log in with name and password. Many wrong ones make a name and an address wait (429, Retry-After)."""
    address = client_address(request)
    with ctx.passwords.place():
        _begin(ctx, body.name, address)
        with ctx.db.reading() as db:
            account, stored = accounts.by_login(db, body.name)
        fits = ctx.passwords.verify(stored, body.password)
    if not fits or account is None or account.disabled:
        if account is not None:
            noting.about(ctx, account.tenant, account.name, "login_failed")
        raise ApiProblem("login_failed", *_WRONG)
    newer = ctx.passwords.renewed(str(stored), body.password)
    now_ms = ctx.real_ms()
    with ctx.db.transaction() as db:
        attempts.end_attempt(db, body.name, address)
        if not accounts.still(db, account, stored):
            raise ApiProblem("login_failed", *_WRONG)
        if newer is not None:
            db.execute("UPDATE accounts SET password = ? WHERE id = ?", (newer, account.id))
        leave(ctx, request, db)
        token = sessions.open_session(db, account.tenant, account.id, now_ms)
    noting.about(ctx, account.tenant, account.name, "login")
    set_cookie(ctx, response, token)
    return told(ctx, account, Login(account.principal(), account, token))


@router.delete("/session", status_code=204)
def log_out(ctx: Ctx, found: LoggedIn) -> Response:
    """End this session."""
    response = Response(status_code=204)
    if found.session is not None:
        with ctx.db.transaction() as db:
            sessions.close_session(db, found.session)
        response.delete_cookie(ctx.cookie, path="/", secure=ctx.https, httponly=True, samesite="strict")
    return response


@router.patch("/session")
def change_session(ctx: Ctx, found: LoggedIn, body: SessionChange) -> Session:
    """Set one's own language."""
    with ctx.db.transaction() as db:
        account = accounts.change(db, found.account.tenant, found.account.id, {"language": body.language})
    return told(ctx, account, found)


@router.post("/session/password")
def change_password(
    ctx: Ctx, request: Request, response: Response, found: LoggedIn, body: PasswordChange
) -> Session:
    """Set a new password; every session of the account ends, and this one gets a new token."""
    account, address = found.account, client_address(request)
    if found.session is None:
        raise ApiProblem("denied", "A token cannot set a password.", "Log in on the page.")
    typed = f"{account.tenant}/{account.name}"
    with ctx.passwords.place():
        _begin(ctx, typed, address)
        with ctx.db.reading() as db:
            _, stored = accounts.by_login(db, typed)
        if not ctx.passwords.verify(stored, body.old):
            raise ApiProblem("login_failed", "The old password is wrong.", "Try again.")
    hashed = _hashed(ctx, body.new, account.name)
    with ctx.db.transaction() as db:
        attempts.end_attempt(db, typed, address)
        if not accounts.still(db, account, stored):
            raise Conflict("the account was changed meanwhile")
        accounts.set_password(db, account.tenant, account.id, hashed)
        token = sessions.open_session(db, account.tenant, account.id, ctx.real_ms())
    noting.about(ctx, account.tenant, account.name, "password")
    set_cookie(ctx, response, token)
    return told(ctx, account, Login(account.principal(), account, token))


@router.post("/enter")
def enter(ctx: Ctx, request: Request, response: Response, body: EnterRequest) -> Session:
    """Use a one-time link: it sets the password (and, for the first account of a tenant, the name)."""
    with ctx.db.reading() as db:
        target = accounts.link_target(db, body.token, ctx.real_ms())
        known = accounts.find(db, target[0], target[1]) if target and target[1] is not None else None
    if target is None:
        raise _gone()
    tenant, number = target
    if known is None and (body.name is None or not accounts.good_name(body.name)):
        raise ApiProblem(
            "invalid", "name: letters, digits, spaces and . @ + - _, beginning with a letter or digit.",
            "Choose a name for the first account.",
        )  # fmt: skip
    name = known.name if known else str(body.name)
    hashed = _hashed(ctx, body.password, name)
    now_ms = ctx.real_ms()
    with ctx.db.transaction() as db:
        if not accounts.use_link(db, body.token, now_ms):
            raise _gone()
        if number is None:
            if accounts.any_account(db, tenant):
                raise _gone()
            new = NewAccount(tenant, name, ADMIN_ROLE, manages=True, language=body.language)
            number = accounts.add(db, new, now_ms, hashed)
        else:
            accounts.set_password(db, tenant, number, hashed)
        account = accounts.find(db, tenant, number)
        if account.disabled:
            raise _gone()
        leave(ctx, request, db)
        token = sessions.open_session(db, tenant, number, now_ms)
    noting.about(ctx, account.tenant, account.name, "link_used")
    set_cookie(ctx, response, token)
    return told(ctx, account, Login(account.principal(), account, token))


def _begin(ctx: Context, name: str, address: str) -> None:
    with ctx.db.transaction() as db:
        wait_s = attempts.begin_attempt(db, name, address, ctx.real_ms())
    if wait_s:
        raise ApiProblem(
            "too_often", f"Too many attempts; the next one counts in {wait_s} s.",
            "Wait, or ask for a new one-time link.", {"Retry-After": str(wait_s)},
        )  # fmt: skip


def _hashed(ctx: Context, password: str, name: str) -> str:
    why = accounts.weakness(password, name)
    if why is not None:
        raise ApiProblem("weak_password", why, "Choose a longer one, such as four unrelated words.")
    with ctx.passwords.place():
        return ctx.passwords.hash(password)


def _gone() -> ApiProblem:
    return ApiProblem(
        "link_gone", "This link was used, has expired, or never existed.",
        "Ask for a new one; on the server: holdfast serve --config serve.toml --new-link NAME.",
    )  # fmt: skip


def leave(ctx: Context, request: Request, db: sqlite3.Connection) -> None:
    """End the session that the browser still has: one login at a time."""
    old = request.cookies.get(ctx.cookie)
    if old:
        sessions.close_session(db, old)


def set_cookie(ctx: Context, response: Response, token: str) -> None:
    """The session's cookie. Strict even with an identity provider: its callback only sets the cookie, and the
    page's own requests, which send it, come from this site whatever link led here."""
    response.set_cookie(
        ctx.cookie, token, max_age=ctx.config.session.life_s, path="/", secure=ctx.https, httponly=True,
        samesite="strict",
    )  # fmt: skip


def told(ctx: Context, account: AccountRow, found: Login) -> Session:
    """The session as the page is told of it."""
    with ctx.db.reading() as db:
        others = [one for one in accounts.all_of(db, account.tenant) if not one.disabled]
    names = [one.name for one in others if _works_with(found.principal, one.principal())]
    with ctx.stores.reading() as db:
        kinds = _kinds(db, account.tenant)
        branches = _branches(db, account.tenant)
    own = account.branches
    tiles = ctx.config.tiles
    return Session(
        account=shown(account), tenant=account.tenant,
        scopes=[scope for scope in SCOPES if found.principal.may(scope)],
        csrf=sessions.csrf_of(found.session) if found.session else "",
        clocks=kinds,
        map=MapSettings(
            tiles=tiles.url if tiles else None, attribution=tiles.attribution if tiles else "",
            datum=tiles.datum if tiles else "wgs84",
            outline=ctx.config.outline is not None and ctx.config.outline.is_file(),
        ),
        branches=[name for name in branches if not own or name in own],
        accounts=names if found.principal.may(WRITE_INCIDENTS) else [],
        version=ctx.version, now=ctx.now(),
    )  # fmt: skip


def _works_with(who: Principal, other: Principal) -> bool:
    """Whether an incident that `who` sees may be given to `other`."""
    shared = not who.branches or not other.branches or bool(who.branches & other.branches)
    return other.may(WRITE_INCIDENTS) and shared


def shown(account: AccountRow) -> Account:
    """An account as the API says it."""
    return Account.model_validate(
        {
            "id": account.id, "name": account.name, "role": account.role, "manages": account.manages,
            "branches": list(account.branches), "language": account.language, "email": account.email,
            "disabled": account.disabled,
            "last_seen": None if account.seen_ms is None else iso(account.seen_ms),
        }
    )  # fmt: skip


def _kinds(db: sqlite3.Connection, tenant: str) -> list[ClockKind]:
    """Whose time the tenant's vehicles live in."""
    names: tuple[ClockKind, ...] = get_args(ClockKind)
    rows = db.execute("SELECT DISTINCT clock FROM vehicles WHERE tenant = ? ORDER BY clock", (tenant,))
    return [name for (number,) in rows for name in names if name == Kind(number).name.lower()]


def _branches(db: sqlite3.Connection, tenant: str) -> list[str]:
    rows = db.execute(
        "SELECT DISTINCT branch FROM cards WHERE tenant = ? AND branch IS NOT NULL ORDER BY branch", (tenant,)
    )
    return [str(row[0]) for row in rows]
