"""Entries of the audit about accounts: who came in, who failed to, who changed what of whom.

They stand in the audit table of the collector's store, unsigned. When that store is busy the act itself goes
on and the entry is said in the server's log instead: nobody is locked out because an entry cannot be written.
"""

from __future__ import annotations

from cloud_sync.access import Principal
from cloud_sync.errors import CloudError
from cloud_sync.runtime import audit
from cloud_sync.runtime.kinds import serve_say as say
from cloud_sync.runtime.serve.deps import Context


def about(ctx: Context, tenant: str, account: str, action: str, what: str = "") -> None:
    """Note what an account did about itself."""
    try:
        with ctx.stores.writing() as store, store.transaction() as db:
            audit.note_account(db, tenant, account, action, what, ctx.now_ms())
    except CloudError as error:
        say("no_audit_entry", action=action, error=error)


def by(ctx: Context, who: Principal, action: str, what: str) -> None:
    """Note what `who` did to accounts or tokens."""
    try:
        with ctx.stores.writing() as store:
            audit.note(store, who, action, None, what, "", None, ctx.now_ms(), signed=False)
    except CloudError as error:
        say("no_audit_entry", action=action, error=error)
