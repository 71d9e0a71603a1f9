"""Accounts and API tokens, by those who manage them; everybody makes tokens for themselves."""

from __future__ import annotations

import sqlite3
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response

from cloud_sync.access import MANAGE, Principal
from cloud_sync.errors import BadRequest, Conflict, Denied, NotFound
from cloud_sync.runtime.serve import accounts, noting, tokens
from cloud_sync.runtime.serve.accounts import NewAccount
from cloud_sync.runtime.serve.asked import KnownQuery
from cloud_sync.runtime.serve.deps import Context, Ctx, LoggedIn, iso, require
from cloud_sync.runtime.serve.problems import ApiProblem
from cloud_sync.runtime.serve.routes_session import shown
from cloud_sync.runtime.serve.schemas import (
    AccountChange,
    AccountList,
    AccountMade,
    AccountRequest,
    TokenList,
    TokenMade,
    TokenRequest,
    TokenRow,
)

router = APIRouter(prefix="/api/v1", tags=["accounts"], dependencies=[KnownQuery])

Manager = Annotated[Principal, Depends(require(MANAGE))]
Number = Annotated[int, Path(ge=1, le=(1 << 53) - 1)]
TokenId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]


@router.get("/accounts")
def list_accounts(ctx: Ctx, who: Manager) -> AccountList:
    """All accounts of one's tenant, by name; who is confined to branches sees those that are confined to
    them too."""
    with ctx.db.reading() as db:
        return AccountList(
            items=[shown(row) for row in accounts.all_of(db, who.tenant) if who.covers(row.branches)]
        )


@router.post("/accounts", status_code=201)
def make_account(ctx: Ctx, who: Manager, body: AccountRequest) -> AccountMade:
    """Make an account; its owner sets a password with the one-time link, which is shown this once."""
    new = NewAccount(
        who.tenant, body.name, body.role, body.manages, tuple(body.branches), body.language,
        _email(body.email),
    )  # fmt: skip
    _within(who, new.branches)
    now_ms = ctx.real_ms()
    try:
        with ctx.db.transaction() as db:
            number = accounts.add(db, new, now_ms)
            link = accounts.make_link(db, who.tenant, number, now_ms)
            made = accounts.find(db, who.tenant, number)
    except Conflict as error:
        raise ApiProblem("name_taken", str(error), "Choose another name.") from error
    noting.by(ctx, who, "account_made", f"{made.name}: {made.role}")
    return AccountMade(account=shown(made), link=link_url(ctx, link))


@router.patch("/accounts/{number}")
def change_account(ctx: Ctx, who: Manager, number: Number, body: AccountChange) -> AccountMade:
    """Change an account; disabled, its sessions and tokens end. `new_link`: for a forgotten password."""
    values = {
        name: getattr(body, name)
        for name in ("role", "manages", "branches", "language", "disabled")
        if getattr(body, name) is not None
    }
    if "email" in body.model_fields_set:
        values["email"] = _email(body.email)
    now_ms = ctx.real_ms()
    link = None
    with ctx.db.transaction() as db:
        if not who.covers(accounts.find(db, who.tenant, number).branches):
            raise Denied("this account sees more than you do: ask somebody who is not confined to branches")
        if body.branches is not None:
            _within(who, tuple(body.branches))
        after = accounts.change(db, who.tenant, number, values)
        if body.new_link:
            if after.disabled:
                raise BadRequest("a disabled account gets no link: enable it first")
            link = accounts.make_link(db, who.tenant, number, now_ms)
    said = [name for name in (*values, "link" if link else "") if name]
    noting.by(ctx, who, "account_changed", f"{after.name}: {', '.join(sorted(said)) or 'nothing'}")
    return AccountMade(account=shown(after), link=link_url(ctx, link) if link else None)


@router.get("/tokens")
def list_tokens(ctx: Ctx, found: LoggedIn) -> TokenList:
    """One's own API tokens; with `manage` those of the accounts that one may change."""
    with ctx.db.reading() as db:
        rows = tokens.all_of(db, found.principal.tenant, _whose(found.principal))
        theirs = _theirs(db, found.principal)
    return TokenList(items=[token_row(one) for one in rows if one.account in theirs])


@router.post("/tokens", status_code=201)
def make_token(ctx: Ctx, found: LoggedIn, body: TokenRequest) -> TokenMade:
    """Make an API token for oneself; the secret is shown this once."""
    if found.session is None:
        raise Denied("a token cannot make tokens: log in on the page")
    with ctx.db.transaction() as db:
        made, secret = tokens.make_token(
            db, found.principal, body.name, list(body.scopes), body.days, ctx.real_ms()
        )
    noting.by(ctx, found.principal, "token_made", f"{made.id} {made.name}: {', '.join(made.scopes)}")
    return TokenMade(token=token_row(made), secret=secret)


@router.delete("/tokens/{token}", status_code=204)
def delete_token(ctx: Ctx, found: LoggedIn, token: TokenId) -> Response:
    """End an API token: one's own, or with `manage` one of an account that one may change."""
    with ctx.db.transaction() as db:
        rows = tokens.all_of(db, found.principal.tenant, _whose(found.principal))
        theirs = _theirs(db, found.principal)
        if not any(one.id == token and one.account in theirs for one in rows):
            raise NotFound("there is no such token")
        tokens.delete_token(db, found.principal.tenant, _whose(found.principal), token)
    noting.by(ctx, found.principal, "token_deleted", token)
    return Response(status_code=204)


def link_url(ctx: Context, token: str) -> str:
    """Where a one-time link leads. The token stands behind the #: it is in no log and no Referer."""
    return f"{ctx.base_url}/#/enter/{token}"


def token_row(token: tokens.Token) -> TokenRow:
    """A token as the API says it."""
    return TokenRow.model_validate(
        {
            "id": token.id, "name": token.name, "scopes": list(token.scopes), "account": token.account_name,
            "made_at": iso(token.made_ms), "expires_at": iso(token.expires_ms),
            "last_used": None if token.used_ms is None else iso(token.used_ms),
        }
    )  # fmt: skip


def _whose(who: Principal) -> int | None:
    return None if who.may(MANAGE) else who.account


def _theirs(db: sqlite3.Connection, who: Principal) -> frozenset[int]:
    """Numbers of the accounts that `who` may look after: one's own, and those that see no more."""
    manages = who.may(MANAGE)
    return frozenset(
        row.id
        for row in accounts.all_of(db, who.tenant)
        if row.id == who.account or (manages and who.covers(row.branches))
    )


def _within(who: Principal, branches: tuple[str, ...]) -> None:
    """Who is confined to branches gives nobody more."""
    if not who.covers(branches):
        raise Denied(f"you see {', '.join(sorted(who.branches))} alone: name some of these")


def _email(text: str | None) -> str | None:
    """An address that can stand in a header; empty means none. Raises ApiProblem."""
    if not text:
        return None
    local, at, domain = text.rpartition("@")
    if not (local and at and domain) or any(c.isspace() or not c.isprintable() for c in text):
        raise ApiProblem("invalid", "email: not an address.", "Correct it or leave it out.")
    return text
