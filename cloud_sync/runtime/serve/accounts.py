"""Accounts in serve.db: who may enter, with which role, and how a password is checked.

Passwords are hashed with argon2id (RFC 9106) at argon2-cffi's defaults: 64 MiB, 3 passes, 4 lanes, about
0.1 s of one core. A name that does not exist costs the same as one that does. Names are unique within a
tenant; whoever shares a name with an older account of another tenant logs in as `tenant/name`.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import sqlite3
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from cloud_sync.access import Principal, branches_of, needs_branches, scopes_of
from cloud_sync.errors import BadRequest, Conflict, NotFound, StoreBusy

LINK_LIFE_MS: Final = 48 * 3_600_000
"""A one-time link that was not used for two days is forgotten in somebody's mailbox."""
MAX_ACCOUNTS: Final = 1000
"""Of one tenant; a list of them is one answer."""
HASHERS: Final = 2
"""Passwords hashed at once: 64 MiB and one core each, so that logins cannot eat the machine."""
MAX_WAITING: Final = 16
"""Requests with a password at once, about a second's worth; more are told to come back."""
MIN_PASSWORD_CHARS: Final = 12
SEEN_EVERY_MS: Final = 60_000
"""How coarse 'last seen' and 'last used' are: reading must not mean writing."""


CHANGEABLE: Final = frozenset({"role", "manages", "branches", "language", "email", "disabled"})
"""Columns that a manager, or the identity provider's word, may set."""


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account as it is stored, without its password."""

    id: int
    tenant: str
    name: str
    role: str
    manages: bool
    branches: tuple[str, ...]
    language: str
    email: str | None
    disabled: bool
    seen_ms: int | None
    has_password: bool
    """False: nobody has used its link yet, or it enters by the identity provider."""

    def principal(self) -> Principal:
        """What this account may do when it is logged in itself."""
        return Principal(
            self.tenant, self.id, self.name, self.role, scopes_of(self.role, self.manages),
            branches_of(self.role, self.branches), self.language,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class NewAccount:
    """What an account is made of."""

    tenant: str
    name: str
    role: str
    manages: bool = False
    branches: tuple[str, ...] = ()
    language: str = "en"
    email: str | None = None


COLUMNS: Final = (
    "a.id, a.tenant, a.name, a.role, a.manages, a.branches, a.language, a.email, a.disabled, a.seen_ms,"
    " a.password IS NOT NULL"
)


def row_of(columns: Sequence[object]) -> AccountRow:
    """An account from COLUMNS."""
    number, tenant, name, role, manages, branches, language, email, disabled, seen_ms, has = columns
    return AccountRow(
        int(str(number)), str(tenant), str(name), str(role), bool(manages), tuple(json.loads(str(branches))),
        str(language), None if email is None else str(email), bool(disabled),
        None if seen_ms is None else int(str(seen_ms)), bool(has),
    )  # fmt: skip


NOBODY: Final = frozenset({"device", "rule"})
"""Authors of acts that no person did (`schemas.Act.author`)."""


def name_key(name: str) -> str:
    """What makes two names the same: compatibility forms, case and spaces at the ends do not count."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).strip()


_NAME: Final = re.compile(r"\w[\w .@+-]*")


def good_name(name: str) -> bool:
    """Whether an account may have this name: the pattern of `AccountRequest.name`."""
    return _NAME.fullmatch(name) is not None


class Passwords:
    """Hashes and checks passwords, at most HASHERS at once, in threads of its own."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._threads = ThreadPoolExecutor(HASHERS, "password")
        self._waiting = 0
        self._lock = threading.Lock()
        self._nobody = self._hasher.hash(secrets.token_hex(16))
        """What the password of a name that does not exist is compared with, for equal time."""

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue; taken before an attempt is counted. Raises StoreBusy when it is full."""
        with self._lock:
            if self._waiting >= MAX_WAITING:
                raise StoreBusy("too many passwords wait to be checked")
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    def hash(self, password: str) -> str:
        """The stored form. Blocks: call it in a worker thread, with a `place`."""
        return self._threads.submit(self._hasher.hash, normal(password)).result()

    def verify(self, stored: str | None, password: str) -> bool:
        """Whether `password` is the one of `stored`; as slow for None. Blocks, as `hash` does."""

        def check() -> bool:
            try:
                return self._hasher.verify(stored or self._nobody, normal(password))
            except (VerificationError, InvalidHashError):
                return False

        return self._threads.submit(check).result() and stored is not None

    def renewed(self, stored: str, password: str) -> str | None:
        """`password` hashed anew where `stored` has older parameters than those of today, else None."""
        return self.hash(password) if self._hasher.check_needs_rehash(stored) else None

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def normal(password: str) -> str:
    """NFC (RFC 8265, OpaqueString): the same password from another keyboard is the same."""
    return unicodedata.normalize("NFC", password)


def weakness(password: str, name: str) -> str | None:
    """Why `password` is refused, None when it is good (NIST SP 800-63B, 5.1.1.2: length, not recipes)."""
    if len(password) < MIN_PASSWORD_CHARS:
        return f"It has {len(password)} characters, at least {MIN_PASSWORD_CHARS} are needed."
    if len(set(password)) < 5:
        return "It repeats a few characters."
    if name_key(name) in name_key(password) and len(name) >= 4:
        return "It contains the account's name."
    if "holdfast" in password.casefold():
        return "It contains the product's name."
    return None


# --- accounts ------------------------------------------------------------------------------------------


def find(db: sqlite3.Connection, tenant: str, number: int) -> AccountRow:
    """The account `number` of `tenant`. Raises NotFound."""
    row = db.execute(
        f"SELECT {COLUMNS} FROM accounts a WHERE a.tenant = ? AND a.id = ?", (tenant, number)
    ).fetchone()
    if row is None:
        raise NotFound("there is no such account")
    return row_of(row)


def by_login(db: sqlite3.Connection, typed: str) -> tuple[AccountRow | None, str | None]:
    """The account meant by what was typed as the name (`name` or `tenant/name`), and its password's hash."""
    tenant, slash, name = typed.rpartition("/")
    row = db.execute(
        f"SELECT {COLUMNS}, a.password FROM accounts a WHERE a.name_key = ? AND (? = '' OR a.tenant = ?)"
        " ORDER BY a.id LIMIT 1",
        (name_key(name), slash, tenant.strip()),
    ).fetchone()
    return (None, None) if row is None else (row_of(row[:-1]), row[-1])


def all_of(db: sqlite3.Connection, tenant: str) -> list[AccountRow]:
    """The accounts of `tenant` by name."""
    rows = db.execute(
        f"SELECT {COLUMNS} FROM accounts a WHERE a.tenant = ? ORDER BY a.name_key", (tenant,)
    ).fetchall()
    return [row_of(row) for row in rows]


def any_account(db: sqlite3.Connection, tenant: str | None = None) -> bool:
    """Whether there is an account (of `tenant`)."""
    row = db.execute("SELECT 1 FROM accounts WHERE ? IS NULL OR tenant = ? LIMIT 1", (tenant, tenant))
    return row.fetchone() is not None


def add(db: sqlite3.Connection, new: NewAccount, now_ms: int, password: str | None = None) -> int:
    """Make an account with the stored `password`; returns its number. In a transaction.

    Raises Conflict when the name is taken within the tenant, BadRequest for a role that cannot manage, a
    partner without a branch, a name that means no person in the life of an incident, or a tenant that has
    MAX_ACCOUNTS.
    """
    if name_key(new.name) in NOBODY:
        raise BadRequest(f"{new.name!r:.80} is the author of what no person does: choose another name")
    _check_role(new.role, new.manages, new.branches)
    (count,) = db.execute("SELECT count(*) FROM accounts WHERE tenant = ?", (new.tenant,)).fetchone()
    if count >= MAX_ACCOUNTS:
        raise BadRequest(f"there are {count} accounts already: disable and rename some that are not used")
    try:
        cursor = db.execute(
            "INSERT INTO accounts(tenant, name, name_key, role, manages, branches, language, email, password,"
            " made_ms) VALUES(?,?,?,?,?,?,?,?,?,?)",
            (
                new.tenant, new.name.strip(), name_key(new.name), new.role, new.manages,
                json.dumps(list(new.branches), ensure_ascii=False), new.language, new.email, password, now_ms,
            ),
        )  # fmt: skip
    except sqlite3.IntegrityError as error:
        raise Conflict(f"there is an account {new.name!r:.80} already: choose another name") from error
    return int(cursor.lastrowid or 0)


def _check_role(role: str, manages: bool, branches: Sequence[str]) -> None:
    if manages and "manage" not in scopes_of(role, True):
        raise BadRequest(f"a {role} cannot manage accounts: operators and auditors can")
    if needs_branches(role) and not branches:
        raise BadRequest(f"a {role} sees the branches that are named, never all: name at least one")


def change(db: sqlite3.Connection, tenant: str, number: int, values: dict[str, object]) -> AccountRow:
    """Set columns of an account (role, manages, branches, language, email, disabled). In a transaction.

    What it may do less from now on holds at once for its sessions and tokens; disabled, it loses them. The
    last account that manages cannot be disabled or lose that. Raises NotFound, BadRequest.
    """
    before = find(db, tenant, number)
    after = update(db, tenant, number, values)
    _check_role(after.role, after.manages, after.branches)
    manager = db.execute(
        "SELECT 1 FROM accounts WHERE tenant = ? AND manages = 1 AND disabled = 0 LIMIT 1", (tenant,)
    ).fetchone()
    if manager is None and before.manages and not before.disabled:
        raise BadRequest("this is the last account that manages accounts: let another one manage first")
    if after.disabled:
        db.execute("DELETE FROM links WHERE account = ?", (number,))
        db.execute("DELETE FROM sessions WHERE account = ?", (number,))
        db.execute("DELETE FROM tokens WHERE account = ?", (number,))
    return after


def update(db: sqlite3.Connection, tenant: str, number: int, values: dict[str, object]) -> AccountRow:
    """Set columns as `change` does, without asking whether that is wise. In a transaction."""
    for column, value in values.items():
        if column not in CHANGEABLE:
            raise ValueError(f"{column} is not for changing")
        stored = json.dumps(value, ensure_ascii=False) if column == "branches" else value
        db.execute(f"UPDATE accounts SET {column} = ? WHERE tenant = ? AND id = ?", (stored, tenant, number))
    return find(db, tenant, number)


def still(db: sqlite3.Connection, account: AccountRow, stored: str | None) -> bool:
    """Whether the account is enabled and its password's hash is still `stored`. In a transaction."""
    row = db.execute(
        "SELECT 1 FROM accounts WHERE tenant = ? AND id = ? AND disabled = 0 AND password IS ?",
        (account.tenant, account.id, stored),
    ).fetchone()
    return row is not None


def set_password(db: sqlite3.Connection, tenant: str, number: int, password: str) -> None:
    """Store the hash `password` and end every session and link of the account. In a transaction."""
    db.execute("UPDATE accounts SET password = ? WHERE tenant = ? AND id = ?", (password, tenant, number))
    db.execute("DELETE FROM sessions WHERE account = ?", (number,))
    db.execute("DELETE FROM links WHERE account = ?", (number,))


# --- one-time links ------------------------------------------------------------------------------------


def make_link(db: sqlite3.Connection, tenant: str, account: int | None, now_ms: int) -> str:
    """A new one-time token for `account` (None: the first account of `tenant`); older ones of it end."""
    token = secrets.token_urlsafe(32)
    db.execute("DELETE FROM links WHERE tenant = ? AND account IS ?", (tenant, account))
    db.execute("DELETE FROM links WHERE expires_ms <= ?", (now_ms,))
    db.execute(
        "INSERT INTO links(hash, tenant, account, expires_ms) VALUES(?,?,?,?)",
        (digest(token), tenant, account, now_ms + LINK_LIFE_MS),
    )
    return token


def link_target(db: sqlite3.Connection, token: str, now_ms: int) -> tuple[str, int | None] | None:
    """Tenant and account of a link that can still be used."""
    row = db.execute(
        "SELECT tenant, account FROM links WHERE hash = ? AND expires_ms > ?", (digest(token), now_ms)
    ).fetchone()
    return None if row is None else (str(row[0]), row[1])


def use_link(db: sqlite3.Connection, token: str, now_ms: int) -> bool:
    """Take the link: True for exactly one caller. In a transaction."""
    done = db.execute("DELETE FROM links WHERE hash = ? AND expires_ms > ?", (digest(token), now_ms))
    return done.rowcount == 1


def digest(token: str) -> bytes:
    """How a random token is stored: SHA-256. It has 256 bits of chance, so that nothing slower is needed."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
