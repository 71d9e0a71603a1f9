"""Who may do what on the API: roles, scopes, branches. Pure.

A role gives scopes; an API token has a subset of its account's. A principal belongs to one tenant and sees
the vehicles of its branches (none named: of all). There is no principal above tenants.
A partner, who is another company, sees the branches that are named and never all.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

READ_FLEET: Final = "read:fleet"
READ_INCIDENTS: Final = "read:incidents"
WRITE_INCIDENTS: Final = "write:incidents"
READ_EXACT: Final = "read:exact"
"""Exact positions of incidents; every use is audited."""
READ_TITLES: Final = "read:titles"
READ_LOG: Final = "read:log"
READ_EVIDENCE: Final = "read:evidence"
"""Export bundles; they hold exact positions, so every use is audited too."""
READ_AUDIT: Final = "read:audit"
WRITE_FLEET: Final = "write:fleet"
"""Names, branches and notes of vehicles."""
MANAGE: Final = "manage"
"""Accounts, tokens of others, rules, webhooks."""

ROLE_SCOPES: Final[dict[str, frozenset[str]]] = {
    "operator": frozenset(
        {
            READ_FLEET, READ_INCIDENTS, WRITE_INCIDENTS, READ_EXACT, READ_TITLES, READ_LOG, READ_EVIDENCE,
            WRITE_FLEET,
        }
    ),
    "auditor": frozenset({READ_FLEET, READ_INCIDENTS, READ_TITLES, READ_LOG, READ_EVIDENCE, READ_AUDIT}),
    "technician": frozenset({READ_FLEET, READ_LOG}),
    "partner": frozenset({READ_FLEET, READ_INCIDENTS}),
}  # fmt: skip
"""Operators decide; auditors read everything but change nothing; technicians see devices and not incidents;
partners see fleet and incidents of their branches, coarse."""
ROLES: Final = tuple(ROLE_SCOPES)
SCOPES: Final = (
    READ_FLEET, READ_INCIDENTS, WRITE_INCIDENTS, READ_EXACT, READ_TITLES, READ_LOG, READ_EVIDENCE, READ_AUDIT,
    WRITE_FLEET, MANAGE,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody whose request was authenticated."""

    tenant: str
    account: int
    """Number of the account within serve.db."""
    name: str
    role: str
    scopes: frozenset[str]
    branches: frozenset[str]
    """Empty: all of the tenant."""
    language: str = "en"
    token: str | None = None
    """Id of the API token; None for a session."""

    def may(self, scope: str) -> bool:
        """Whether this principal has `scope`."""
        return scope in self.scopes

    def sees(self, branch: str | None) -> bool:
        """Whether a vehicle of `branch` is this principal's business. One without a branch is everybody's
        who is not confined to branches."""
        return not self.branches or branch in self.branches

    def covers(self, branches: Collection[str]) -> bool:
        """Whether somebody confined to `branches` (none named: to nothing) sees no more than this principal:
        what one may give to others, and whose account, token or rule one may touch."""
        return not self.branches or (bool(branches) and self.branches.issuperset(branches))


NO_BRANCH: Final = ""
"""The branch of no vehicle: all that a partner sees to whom nobody has given a branch."""


def branches_of(role: str, branches: Collection[str]) -> frozenset[str]:
    """What an account is confined to; empty: nothing."""
    return frozenset(branches) or frozenset({NO_BRANCH} if needs_branches(role) else ())


def needs_branches(role: str) -> bool:
    """Whether an account of `role` must be confined to branches."""
    return role == "partner"


def scopes_of(role: str, manages: bool) -> frozenset[str]:
    """The scopes of an account. A partner never manages, whatever its account says."""
    own = ROLE_SCOPES.get(role, frozenset())
    return own | {MANAGE, READ_AUDIT} if manages and role in ("operator", "auditor") else own
