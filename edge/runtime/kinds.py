"""Everything that the daemons of a node may say (docs/metrics.md lists it with the journal's MESSAGE_IDs)."""

from __future__ import annotations

from typing import Final

from firmware_bridge.logline import Kind, table
from firmware_bridge.runtime.journal import Teller

EDGE_KINDS: Final = table(
    Kind("not_started", "error", "did not start: {error}"),
    Kind(
        "facts_refused", "warning", "a message on facts.sock cannot be understood: {error}",
        "Look which program of this node wrote it: an old version, or one that is not ours",
    ),
    Kind(
        "facts_stranger", "warning", "user {uid} may not use facts.sock",
        "Run uplink, status and metrics as the edge's user or as root",
    ),
    Kind(
        "receipt_refused", "warning", "a receipt is not believed: {error}",
        "If it goes on, compare trust.json with the collector's: `holdfast doctor`",
    ),
    Kind(
        "receipt_of_other_bytes", "error", "a receipt names other bytes than ours for {segments}",
        "A copy of this node exists: find it and revoke its key",
    ),
    Kind(
        "port_task_hangs", "error", "no sign of life from the tasks of {ports}; systemd restarts the node",
        "If it comes back, change cable, hub or driver of the port",
    ),
    Kind(
        "not_accepted_at_the_end", "error", "{events} readings could not be written before the end",
        "Make the outbox's disk writable; the loss is told in the chain at the next start",
    ),
    Kind(
        "fault", "error", "a fault in {task} was survived: {error} at {where}",
        "Report it with this line; what was in hand there is lost, the node goes on",
    ),
    Kind(
        "reserve_released", "warning", "the disk is full: the reserve was released for alarms",
        "Free space in the state folder",
    ),
    Kind(
        "store_failed", "error", "the outbox does not take {pending} readings: {error}",
        "They wait in memory: free space, or make the disk writable",
    ),
    Kind(
        "high_water_unusable", "warning", "the high-water mark cannot be kept: {error}",
        "A crash now could not say how much it cost: check the state folder's disk and owner",
    ),
    Kind("lost_in_crash", "warning", "{events} events of run {run} were lost in a crash; the chain says so"),
    Kind("sealed_after_crash", "info", "{segments} segments were sealed after a crash"),
    Kind(
        "store_damaged", "error", "the outbox is damaged: {detail}",
        "A new one was begun and the old kept as {set_aside}: `holdfast outbox fsck` says what is in it",
    ),
    Kind("store_salvaged", "info", "{segments} segments were taken over from the damaged outbox"),
    Kind(
        "store_not_salvaged", "warning", "nothing was taken over from the damaged outbox: {error}",
        "`holdfast outbox export` may read single segments of it",
    ),
    Kind(
        "upkeep_failed", "warning", "the outbox was not kept in bounds: {error}",
        "Nothing is lost; if it goes on, look at the disk",
    ),
    Kind(
        "thinned", "warning", "{segments} sealed segments with {events} events were dropped to keep the"
        " outbox in bounds; the chain says so",
        "Bring the node where it can reach the broker, or give the outbox more room ([outbox] max_bytes)",
    ),
    Kind(
        "no_reserve", "warning", "no space for the reserve: {error}",
        "Free space: when the disk is full there is none for alarms either",
    ),
    Kind("reloaded", "info", "the configuration was read again: {detail}"),
    Kind(
        "reload_refused", "error", "the configuration was not read again: {error}",
        "The node works on with the old one: correct it, `holdfast config check` says where",
    ),
)  # fmt: skip
"""Of `holdfast edge` and `holdfast roadside`."""

UPLINK_KINDS: Final = table(
    Kind("uplink_not_started", "error", "did not start: {error}"),
    Kind(
        "uplink_away", "warning", "no connection to {broker}: {error}",
        "Nothing is lost while the outbox has room", burst=1, per_minute=1,
    ),
    Kind(
        "uplink_conflict", "warning",
        "another client uses this identity ({client}): the broker ends each connection though it can be"
        " reached; connecting once a minute",
        "Look for a copied card", burst=1, per_minute=1,
    ),
    Kind("uplink_lost", "warning", "connection ended after {spent_ms} ms: {error}", burst=1, per_minute=1),
    Kind("uplink_connected", "info", "connected to {broker}"),
    Kind(
        "uplink_receipt_refused", "warning", "a receipt is not believed: {error}",
        "If it goes on, compare trust.json with the collector's: `holdfast doctor`", burst=1, per_minute=1,
    ),
    Kind("outbox_unreadable", "warning", "{error}", "Is `holdfast edge` running?", burst=1, per_minute=1),
    Kind(
        "edge_away", "warning", "the edge does not answer; {receipts} receipts wait for it: {error}",
        "Is `holdfast edge` running?", burst=1, per_minute=1,
    ),
    Kind("uplink_trouble", "warning", "{detail}", "`holdfast status` says what is on its way"),
    Kind("uplink_well", "info", "what was wrong is over"),
    Kind(
        "uplink_stopped", "info", "stopped: {segments} segments sent, {receipts} receipts brought to the edge"
    ),
)  # fmt: skip
"""Of `holdfast uplink`."""

uplink_say: Final = Teller("holdfast.uplink", UPLINK_KINDS)
