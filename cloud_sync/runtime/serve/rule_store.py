"""Rules and webhooks of serve.db, and what each rule has done about each incident."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cloud_sync.errors import BadRequest, NotFound
from cloud_sync.notices import Notice, Offset, QuietHours, Rule
from cloud_sync.runtime.serve import outbound
from cloud_sync.runtime.serve.schemas import Rule as RuleModel
from cloud_sync.runtime.serve.schemas import RuleBody, Webhook

MAX_RULES: Final = 100
"""Of a tenant. More cannot be overlooked by those who would have to."""
MAX_WEBHOOKS: Final = 50
OVERDUE_MARK: Final = ".overdue."
"""Between device and time in a notice's key; an incident's id has a run of 32 digits there."""
NOTICES_KEEP_MS: Final = 90 * 24 * 3_600_000
"""What a rule did about an incident that is settled is remembered so long, in case it is opened again."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS rules(
  id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, body TEXT NOT NULL,
  since_feed INTEGER NOT NULL, made_ms INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS rules_tenant ON rules(tenant, id);
CREATE TABLE IF NOT EXISTS notices(
  tenant TEXT NOT NULL, rule INTEGER NOT NULL, incident TEXT NOT NULL, status TEXT NOT NULL,
  state TEXT NOT NULL, severity INTEGER NOT NULL, at_ms INTEGER NOT NULL, why TEXT NOT NULL,
  due_ms INTEGER, told_ms INTEGER, PRIMARY KEY(tenant, rule, incident)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS notices_open ON notices(tenant, rule, status, state);
CREATE INDEX IF NOT EXISTS notices_incident ON notices(tenant, incident);
CREATE TABLE IF NOT EXISTS tellings(tenant TEXT NOT NULL, rule INTEGER NOT NULL, at_ms INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS tellings_rule ON tellings(tenant, rule, at_ms);
"""
_NOTICE: Final = "incident, status, state, severity, at_ms, why, due_ms, told_ms"


def migrate(db: sqlite3.Connection) -> None:
    """Create the tables of being told where they are missing."""
    outbound.migrate(db)
    for statement in _SCHEMA.split(";"):
        if statement.strip():
            db.execute(statement)


@cache
def zones() -> frozenset[str]:
    """IANA names that this machine knows."""
    return frozenset(available_timezones())


@cache
def offset_in(zone: str) -> Offset:
    """Seconds east of UTC in `zone`; UTC where this machine does not know it (any more)."""
    try:
        info = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        info = ZoneInfo("UTC")

    def offset(wall_ms: int) -> int:
        shift = datetime.fromtimestamp(wall_ms // 1000, UTC).astimezone(info).utcoffset()
        return 0 if shift is None else int(shift.total_seconds())

    return offset


def rule_of(row: tuple[Any, ...]) -> Rule:
    """A rule as decisions want it, of (id, tenant, body, since_feed)."""
    number, tenant, text, since_feed = row
    body = RuleBody.model_validate_json(text)
    quiet = None
    if body.quiet is not None:
        quiet = QuietHours(
            _minutes(body.quiet.start),
            _minutes(body.quiet.end),
            frozenset(body.quiet.days),
            body.quiet.except_severity,
            body.quiet.zone,
        )
    return Rule(
        number, tenant, body.name, frozenset(body.branches), frozenset(body.causes), body.min_severity,
        tuple(body.emails), tuple(body.webhooks), body.language, quiet, body.escalate_after_s,
        tuple(body.escalate_to), body.digest_after, body.digest_s, body.enabled, body.overdue,
        since_feed,
    )  # fmt: skip


def tenants(db: sqlite3.Connection) -> list[str]:
    """Tenants that have a rule."""
    return [str(row[0]) for row in db.execute("SELECT DISTINCT tenant FROM rules ORDER BY tenant")]


def rules(db: sqlite3.Connection, tenant: str) -> list[Rule]:
    """All rules of a tenant."""
    found = db.execute("SELECT id, tenant, body, since_feed FROM rules WHERE tenant=? ORDER BY id", (tenant,))
    return [rule_of(row) for row in found]


def models(db: sqlite3.Connection, tenant: str) -> list[RuleModel]:
    """All rules of a tenant, as the API shows them."""
    found = db.execute("SELECT id, body FROM rules WHERE tenant=? ORDER BY id", (tenant,))
    return [_model(number, text) for number, text in found]


def add_rule(db: sqlite3.Connection, tenant: str, body: RuleBody, since_feed: int, now_ms: int) -> RuleModel:
    """A new rule; it tells of what comes after `since_feed`. Raises BadRequest when there are too many."""
    count = db.execute("SELECT count(*) FROM rules WHERE tenant=?", (tenant,)).fetchone()[0]
    if count >= MAX_RULES:
        raise BadRequest(f"there are {MAX_RULES} rules already: change or remove one")
    made = db.execute(
        "INSERT INTO rules(tenant, body, since_feed, made_ms) VALUES(?,?,?,?)",
        (tenant, body.model_dump_json(), since_feed, now_ms),
    )
    return _model(int(made.lastrowid or 0), body.model_dump_json())


def change_rule(db: sqlite3.Connection, tenant: str, number: int, body: RuleBody) -> RuleModel:
    """Put `body` in the place of a rule's. Raises NotFound."""
    changed = db.execute(
        "UPDATE rules SET body=? WHERE tenant=? AND id=?", (body.model_dump_json(), tenant, number)
    )
    if not changed.rowcount:
        raise NotFound(f"there is no rule {number}")
    return _model(number, body.model_dump_json())


def remove_rule(db: sqlite3.Connection, tenant: str, number: int) -> None:
    """Remove a rule and what it holds back. Raises NotFound."""
    if not db.execute("DELETE FROM rules WHERE tenant=? AND id=?", (tenant, number)).rowcount:
        raise NotFound(f"there is no rule {number}")
    db.execute("DELETE FROM notices WHERE tenant=? AND rule=?", (tenant, number))
    db.execute("DELETE FROM tellings WHERE tenant=? AND rule=?", (tenant, number))


def webhooks(db: sqlite3.Connection, tenant: str, number: int | None = None) -> list[Webhook]:
    """Webhooks of a tenant (or the one with `number`), with how their queue stands."""
    found = db.execute(
        "SELECT w.id, w.name, w.url, w.last_error,"
        " (SELECT count(*) FROM deliveries d WHERE d.tenant = w.tenant AND d.lane = 'webhook:' || w.id"
        " AND d.state = 'waiting'),"
        " (SELECT count(*) FROM deliveries d WHERE d.tenant = w.tenant AND d.lane = 'webhook:' || w.id"
        " AND d.state = 'dead')"
        " FROM webhooks w WHERE w.tenant = ?1 AND (?2 IS NULL OR w.id = ?2) ORDER BY w.id",
        (tenant, number),
    )
    return [
        Webhook(id=row[0], name=row[1], url=row[2], last_error=row[3], waiting=row[4], dead=row[5])
        for row in found
    ]


def add_webhook(db: sqlite3.Connection, tenant: str, name: str, url: str, secret: str, now_ms: int) -> int:
    """A new webhook's number. Raises BadRequest when there are too many."""
    count = db.execute("SELECT count(*) FROM webhooks WHERE tenant=?", (tenant,)).fetchone()[0]
    if count >= MAX_WEBHOOKS:
        raise BadRequest(f"there are {MAX_WEBHOOKS} webhooks already: remove one")
    made = db.execute(
        "INSERT INTO webhooks(tenant, name, url, secret, made_ms) VALUES(?,?,?,?,?)",
        (tenant, name, url, secret, now_ms),
    )
    return int(made.lastrowid or 0)


def remove_webhook(db: sqlite3.Connection, tenant: str, number: int, now_ms: int) -> None:
    """Remove a webhook with its secret; what waits for it is dead. Raises NotFound; BadRequest while a rule
    names it."""
    names = [rule.name for rule in rules(db, tenant) if number in rule.webhooks]
    if names:
        raise BadRequest(f"the rule “{names[0]}” sends to this webhook: take it out of the rule first")
    if not db.execute("DELETE FROM webhooks WHERE tenant=? AND id=?", (tenant, number)).rowcount:
        raise NotFound(f"there is no webhook {number}")
    outbound.bury(db, tenant, f"{outbound.WEBHOOK}:{number}", "the webhook was removed", now_ms)


def enable_webhook(db: sqlite3.Connection, tenant: str, number: int) -> None:
    """Take a webhook up again that was disabled, and try it at once."""
    db.execute("UPDATE webhooks SET disabled_ms=NULL WHERE tenant=? AND id=?", (tenant, number))
    lane = f"{outbound.WEBHOOK}:{number}"
    db.execute("UPDATE lanes SET open_ms=0 WHERE tenant=? AND lane=?", (tenant, lane))


def webhook_target(db: sqlite3.Connection, tenant: str, number: int | None) -> tuple[str, str] | None:
    """(url, secret) of a webhook that is there and not disabled."""
    row = db.execute(
        "SELECT url, secret FROM webhooks WHERE tenant=? AND id=? AND disabled_ms IS NULL", (tenant, number)
    ).fetchone()
    return None if row is None else (str(row[0]), str(row[1]))


def webhook_names(db: sqlite3.Connection, tenant: str) -> dict[int, str]:
    """Number -> name of the webhooks that take messages."""
    return dict(
        db.execute(
            "SELECT id, name FROM webhooks WHERE tenant=? AND disabled_ms IS NULL", (tenant,)
        ).fetchall()
    )


def notice(db: sqlite3.Connection, tenant: str, rule: int, incident: str) -> Notice | None:
    """What a rule has done about an incident."""
    row = db.execute(
        f"SELECT {_NOTICE} FROM notices WHERE tenant=? AND rule=? AND incident=?", (tenant, rule, incident)
    ).fetchone()
    return None if row is None else Notice(*row)


def held(db: sqlite3.Connection, tenant: str, rule: int) -> list[Notice]:
    """What a rule holds back."""
    return _notices(
        db.execute(
            f"SELECT {_NOTICE} FROM notices WHERE tenant=? AND rule=? AND status='held'", (tenant, rule)
        )
    )


def waiting(db: sqlite3.Connection, tenant: str, rule: int) -> list[Notice]:
    """What a rule has told and nobody has acted upon."""
    return _notices(
        db.execute(
            f"SELECT {_NOTICE} FROM notices WHERE tenant=? AND rule=? AND status='told' AND state='open'",
            (tenant, rule),
        )
    )


def overdue_known(db: sqlite3.Connection, tenant: str, rule: int) -> frozenset[str]:
    """Keys of the overdue vehicles about which a rule has decided."""
    found = db.execute(
        "SELECT incident FROM notices WHERE tenant=? AND rule=? AND instr(incident, ?)",
        (tenant, rule, OVERDUE_MARK),
    )
    return frozenset(str(row[0]) for row in found)


def overdue_key(device: str, due_ms: int) -> str:
    """What stands for an incident's id in the notice of a vehicle that was due at `due_ms`."""
    return f"{device}{OVERDUE_MARK}{due_ms}"


def overdue_of(key: str) -> tuple[str, int] | None:
    """(device, due_ms) of an `overdue_key`; None for an incident's id."""
    device, mark, due_ms = key.partition(OVERDUE_MARK)
    return (device, int(due_ms)) if mark else None


def begin_anew(db: sqlite3.Connection, tenant: str, newest: int) -> None:
    """The feed ends at `newest`. Rules that wait for later lines were made with another store's feed: they
    tell of everything from now on."""
    db.execute("UPDATE rules SET since_feed=0 WHERE tenant=? AND since_feed > ?", (tenant, newest))


def save(db: sqlite3.Connection, tenant: str, rule: int, items: Iterable[Notice]) -> None:
    """Remember what a rule has done."""
    db.executemany(
        f"INSERT OR REPLACE INTO notices(tenant, rule, {_NOTICE}) VALUES(?,?,?,?,?,?,?,?,?,?)",
        [
            (tenant, rule, n.incident, n.status, n.state, n.severity, n.at_ms, n.why, n.due_ms, n.told_ms)
            for n in items
        ],
    )


def recent(db: sqlite3.Connection, rule: Rule, now_ms: int) -> list[int]:
    """Times of the rule's messages within its window."""
    found = db.execute(
        "SELECT at_ms FROM tellings WHERE tenant=? AND rule=? AND at_ms > ?",
        (rule.tenant, rule.id, now_ms - rule.digest_s * 1000),
    )
    return [int(row[0]) for row in found]


def note_telling(db: sqlite3.Connection, rule: Rule, now_ms: int) -> None:
    """A message of `rule` was made; those out of its window are forgotten."""
    db.execute(
        "DELETE FROM tellings WHERE tenant=? AND rule=? AND at_ms <= ?",
        (rule.tenant, rule.id, now_ms - rule.digest_s * 1000),
    )
    db.execute("INSERT INTO tellings(tenant, rule, at_ms) VALUES(?,?,?)", (rule.tenant, rule.id, now_ms))


def prune_overdue(db: sqlite3.Connection, tenant: str, current: Collection[str]) -> None:
    """Forget what was done about vehicles that were heard since; `current`: keys of those that are due."""
    found = db.execute(
        "SELECT DISTINCT incident FROM notices WHERE tenant=? AND instr(incident, ?) AND status<>'held'",
        (tenant, OVERDUE_MARK),
    ).fetchall()
    gone = [(tenant, key) for (key,) in found if key not in current]
    db.executemany("DELETE FROM notices WHERE tenant=? AND incident=?", gone)


def prune(db: sqlite3.Connection, now_ms: int) -> None:
    """Forget what was done about incidents that were closed long ago."""
    db.execute(
        "DELETE FROM notices WHERE state='closed' AND status<>'held' AND at_ms < ?"
        " AND NOT instr(incident, ?)",
        (now_ms - NOTICES_KEEP_MS, OVERDUE_MARK),
    )


def _notices(found: Iterable[Sequence[Any]]) -> list[Notice]:
    return [Notice(*row) for row in found]


def _model(number: int, text: str) -> RuleModel:
    return RuleModel(id=number, **RuleBody.model_validate_json(text).model_dump())


def _minutes(clock: str) -> int:
    return int(clock[:2]) * 60 + int(clock[3:])
