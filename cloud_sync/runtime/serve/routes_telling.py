"""Routes of being told: rules, webhooks, and the messages on their way."""

from __future__ import annotations

import json
import secrets
import sqlite3
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Path, Query
from starlette.responses import Response

from cloud_sync import notices
from cloud_sync.access import MANAGE, READ_AUDIT, Principal
from cloud_sync.errors import BadRequest, Denied, NotFound
from cloud_sync.runtime import cursors
from cloud_sync.runtime.serve import noting, outbound, rule_store, telling
from cloud_sync.runtime.serve.asked import KnownQuery
from cloud_sync.runtime.serve.db import ServeDb
from cloud_sync.runtime.serve.deps import Ctx, Reader, iso, principal, require
from cloud_sync.runtime.serve.mail import check_address
from cloud_sync.runtime.serve.schemas import (
    Delivery,
    DeliveryList,
    Rule,
    RuleBody,
    RuleList,
    WebhookList,
    WebhookMade,
    WebhookRequest,
)
from cloud_sync.runtime.serve.telling_source import StoreSource
from cloud_sync.runtime.serve.webhooks import check_url, new_secret

MAX_PAGE: Final = 500
DEFAULT_PAGE: Final = 50
MAX_NUMBER: Final = (1 << 53) - 1
"""Largest number that a browser's JSON holds exactly."""

router = APIRouter(prefix="/api/v1", tags=["telling"], dependencies=[KnownQuery])


def looks(who: Annotated[Principal, Depends(principal)]) -> Principal:
    """Who may read rules and messages: managers and auditors. Raises Denied."""
    if not (who.may(MANAGE) or who.may(READ_AUDIT)):
        raise Denied(
            "reading rules and messages needs manage or read:audit: ask somebody who manages accounts"
        )
    return who


def opened(ctx: Ctx) -> ServeDb:
    """serve.db with the tables of being told."""
    return telling.serve_db(ctx)


def everywhere(who: Annotated[Principal, Depends(looks)]) -> Principal:
    """Who may read webhooks and messages, which tell of every branch. Raises Denied."""
    return _unconfined(who)


def manages_everywhere(who: Annotated[Principal, Depends(require(MANAGE))]) -> Principal:
    """Who may change webhooks and messages. Raises Denied."""
    return _unconfined(who)


def _unconfined(who: Principal) -> Principal:
    if who.branches:
        raise Denied(
            "this account is confined to branches, and webhooks and messages belong to all of them:"
            " ask somebody who manages without being confined"
        )
    return who


Db = Annotated[ServeDb, Depends(opened)]
Looks = Annotated[Principal, Depends(looks)]
Everywhere = Annotated[Principal, Depends(everywhere)]
Manages = Annotated[Principal, Depends(require(MANAGE))]
ManagesEverywhere = Annotated[Principal, Depends(manages_everywhere)]
Number = Annotated[int, Path(ge=1, le=MAX_NUMBER)]


@router.get("/rules")
def list_rules(ctx: Ctx, serve: Db, who: Looks) -> RuleList:
    """All rules of the tenant; who is confined to branches sees those of its branches alone."""
    with serve.reading() as db:
        return RuleList(items=_theirs(db, who), mail=ctx.config.smtp is not None)


@router.post("/rules", status_code=201)
def add_rule(ctx: Ctx, serve: Db, who: Manages, body: RuleBody) -> Rule:
    """A new rule. It tells of incidents that open, or change, from now on."""
    since_feed = StoreSource(ctx).newest(who.tenant)
    with serve.transaction() as db:
        _check_rule(db, who, body)
        _check_reach(who, body, frozenset())
        made = rule_store.add_rule(db, who.tenant, body, since_feed, ctx.real_ms())
    noting.by(ctx, who, "rule", f"made rule {made.id}")
    return made


@router.put("/rules/{number}")
def change_rule(ctx: Ctx, serve: Db, who: Manages, number: Number, body: RuleBody) -> Rule:
    """Put another rule in the place of this one."""
    with serve.transaction() as db:
        before = _one(db, who, number)
        _check_rule(db, who, body)
        _check_reach(who, body, frozenset(before.webhooks))
        made = rule_store.change_rule(db, who.tenant, number, body)
    noting.by(ctx, who, "rule", f"changed rule {number}")
    return made


@router.delete("/rules/{number}", status_code=204)
def remove_rule(ctx: Ctx, serve: Db, who: Manages, number: Number) -> Response:
    """Remove a rule, and what it holds back."""
    with serve.transaction() as db:
        _one(db, who, number)
        rule_store.remove_rule(db, who.tenant, number)
    noting.by(ctx, who, "rule", f"removed rule {number}")
    return Response(status_code=204)


@router.get("/webhooks")
def list_webhooks(serve: Db, who: Everywhere) -> WebhookList:
    """All webhooks of the tenant, without their secrets."""
    with serve.reading() as db:
        return WebhookList(items=rule_store.webhooks(db, who.tenant))


@router.post("/webhooks", status_code=201)
def add_webhook(ctx: Ctx, serve: Db, who: ManagesEverywhere, body: WebhookRequest) -> WebhookMade:
    """A new webhook; its signing secret is told this once."""
    check_url(body.url, allow_private=ctx.config.webhooks_allow_private)
    name, secret = notices.clean(body.name, 80), new_secret()
    if not name:
        raise BadRequest("the name has no letter that can be seen")
    with serve.transaction() as db:
        number = rule_store.add_webhook(db, who.tenant, name, body.url, secret, ctx.real_ms())
        made = rule_store.webhooks(db, who.tenant, number)[0]
    noting.by(ctx, who, "webhook", f"made webhook {number}")
    return WebhookMade(webhook=made, secret=secret)


@router.delete("/webhooks/{number}", status_code=204)
def remove_webhook(ctx: Ctx, serve: Db, who: ManagesEverywhere, number: Number) -> Response:
    """Remove a webhook and its secret; what waits for it is dead."""
    with serve.transaction() as db:
        rule_store.remove_webhook(db, who.tenant, number, ctx.real_ms())
    noting.by(ctx, who, "webhook", f"removed webhook {number}")
    return Response(status_code=204)


@router.post("/webhooks/{number}/test", status_code=202)
def test_webhook(ctx: Ctx, serve: Db, who: ManagesEverywhere, number: Number) -> Delivery:
    """Send a message that tells of nothing; GET /deliveries says what became of it. A webhook that was
    disabled because its target was gone is taken up again."""
    now_ms = ctx.real_ms()
    with serve.transaction() as db:
        found = rule_store.webhooks(db, who.tenant, number)
        if not found:
            raise NotFound(f"there is no webhook {number}")
        message = notices.compose_test(
            who.tenant, found[0].name, ctx.words[who.language], ctx.base_url, now_ms
        )
        identity = f"msg_test_{secrets.token_hex(12)}"
        event = json.dumps(notices.cloud_event(message, identity), ensure_ascii=False)
        parcel = outbound.Parcel(
            who.tenant, outbound.WEBHOOK, found[0].name, identity, message.subject, event, number
        )
        rule_store.enable_webhook(db, who.tenant, number)
        outbound.enqueue(db, parcel, now_ms)
        return delivery_of(outbound.rows(db, who.tenant, None, None, 1)[0])


@router.get("/deliveries")
def list_deliveries(
    ctx: Ctx,
    serve: Db,
    who: Everywhere,
    reader: Reader,
    state: Annotated[Literal["waiting", "delivered", "dead"] | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE,
    cursor: Annotated[str | None, Query(max_length=1000)] = None,
) -> DeliveryList:
    """Messages, newest first; `state=dead` is the list of those that nobody got."""
    key = cursors.secret(reader)
    kind = f"deliveries.{who.tenant}.{state or 'all'}"
    before = None if cursor is None else int(cursors.decode(kind, cursor, key)[0])
    with serve.reading() as db:
        found = outbound.rows(db, who.tenant, state, before, limit + 1)
    following = cursors.encode(kind, [int(found[limit - 1]["id"])], key) if len(found) > limit else None
    return DeliveryList(
        items=[delivery_of(row) for row in found[:limit]], next=following, now=iso(ctx.now_ms())
    )


@router.post("/deliveries/{number}/retry")
def retry_delivery(ctx: Ctx, serve: Db, who: ManagesEverywhere, number: Number) -> Delivery:
    """Let a dead message wait again, with its whole patience."""
    with serve.transaction() as db:
        outbound.retry(db, who.tenant, number, ctx.real_ms())
        return delivery_of(outbound.rows(db, who.tenant, None, number + 1, 1)[0])


def delivery_of(row: dict[str, Any]) -> Delivery:
    """A row of the queue, as the API shows it."""
    waiting = row["state"] == "waiting"
    return Delivery(
        id=row["id"],
        channel=row["channel"],
        target=row["target"],
        subject=row["subject"],
        state=row["state"],
        attempts=row["attempts"],
        made_at=iso(row["made_ms"]),
        next_at=iso(row["next_ms"]) if waiting else None,
        delivered_at=iso(row["done_ms"]) if row["state"] == "delivered" else None,
        error=row["error"],
    )


def _theirs(db: sqlite3.Connection, who: Principal) -> list[Rule]:
    return [rule for rule in rule_store.models(db, who.tenant) if who.covers(rule.branches)]


def _one(db: sqlite3.Connection, who: Principal, number: int) -> Rule:
    """A rule that `who` may touch. Raises NotFound."""
    for rule in _theirs(db, who):
        if rule.id == number:
            return rule
    raise NotFound(f"there is no rule {number}")


def _check_reach(who: Principal, body: RuleBody, had: frozenset[int]) -> None:
    """Raise Denied for a rule that tells more than its author may see; `had`: webhooks it has already."""
    if not who.covers(body.branches):
        raise Denied(
            f"this account sees {', '.join(sorted(who.branches))} alone: a rule of its names some of these"
        )
    if who.branches and not had.issuperset(body.webhooks):
        raise Denied("webhooks belong to all branches: ask somebody who manages without being confined")


def _check_rule(db: sqlite3.Connection, who: Principal, body: RuleBody) -> None:
    """Raise BadRequest for a rule that could never do what it says."""
    if not notices.clean(body.name):
        raise BadRequest("the name has no letter that can be seen")
    for address in (*body.emails, *body.escalate_to):
        check_address(address)
    known = {hook.id for hook in rule_store.webhooks(db, who.tenant)}
    if missing := sorted(set(body.webhooks) - known):
        raise BadRequest(f"there is no webhook {missing[0]}: make it first")
    if body.quiet is not None:
        if body.quiet.zone not in rule_store.zones():
            raise BadRequest(
                f"{notices.clean(body.quiet.zone, 40)} is no time zone: write one like Asia/Shanghai"
            )
        if not body.quiet.days:
            raise BadRequest("quiet hours on no day: name days (0 is Monday), or leave quiet away")
    if body.escalate_to and body.escalate_after_s is None:
        raise BadRequest("escalate_to needs escalate_after_s: say after how long")
