"""Everything that the cloud's daemons may say (docs/metrics.md lists it with the journal's MESSAGE_IDs)."""

from __future__ import annotations

from typing import Final

from firmware_bridge.logline import Kind, table
from firmware_bridge.runtime.journal import Teller

COLLECT_KINDS: Final = table(
    Kind("collecting", "info", "collecting from {broker}"),
    Kind(
        "collector_away", "warning", "{error}; again in {wait_s} s",
        "Devices keep what they have until then",
    ),
    Kind(
        "collector_store_busy", "warning", "{error}; again in {wait_s} s",
        "Nothing is lost: free space, or end the other writer",
    ),
    Kind(
        "quarantined", "warning", "quarantined from {tenant}/{device}, {reason}: {detail}; {remedy}",
        by="reason",
    ),
    Kind("collector_alarm", "error", "{reason} of {tenant}/{device}: {detail}", by="reason"),
    Kind("batch", "debug", "{segments} accepted, {count} duplicates"),
    Kind(
        "certificate_unused", "error", "this certificate is not used: {detail}",
        "Replace it in the devices folder, or take it out",
    ),
    Kind(
        "clock_behind", "warning",
        "this clock stands before a time that the log has signed, or before this software was made: no TIME"
        " statements until it is right",
        "Set the clock",
    ),
    Kind("projection_fault", "debug", "projection of a segment failed: {error}"),
)  # fmt: skip
"""Of `holdfast collect`."""

BROKER_KINDS: Final = table(
    Kind("broker_right_refused", "warning", "{client} may not {action} {topic}", "Look what runs on it"),
    Kind("broker_connection_lost", "info", "connection lost: {error}"),
    Kind("broker_client_refused", "warning", "refused a client at {peer}: {error}"),
    Kind(
        "broker_client_twice", "warning", "{client} connected again: its first connection ends",
        "If it goes on, two devices use one identity: find the copy",
    ),
    Kind("broker_not_started", "error", "{error}"),
)  # fmt: skip
"""Of `holdfast broker`."""

SERVE_KINDS: Final = table(
    Kind("request", "info", "{method} {route} {status} {spent_ms} ms", burst=200, per_minute=600),
    Kind(
        "no_audit_entry", "warning", "no audit entry {action}: {error}",
        "The act itself was done; note it by hand if it matters",
    ),
    Kind(
        "serve_fault", "error", "error {reason}: a request ended in a fault: {error}",
        "Report it with this line; the caller was told the number",
    ),
    Kind("serve_store_busy", "warning", "store: {error}", "The caller was told to try again"),
    Kind("task_failed", "error", "{task} failed: {error}", "It begins again in {wait_s} s; report it"),
    Kind("sessions_not_swept", "warning", "ended sessions are not deleted yet: {error}"),
    Kind("live_store_busy", "warning", "live: the store cannot be read, trying again: {error}"),
    Kind("viewer_cut", "info", "live: a viewer does not read and was cut off, {count} so far"),
    Kind(
        "places_unread", "warning", "places: {path}: {error}; {detail}",
        "Correct the file; it is read again",
    ),
    Kind("places_read", "info", "places: {count} from {path}{detail}"),
    Kind("place_left_out", "warning", "places: {path} line {number} left out: {error}", burst=25),
    Kind("places_left_out", "warning", "places: {count} more lines left out"),
    Kind("telling_failed", "error", "{task}: {error}", "It is tried again; messages wait", by="task"),
    Kind("no_next_steps", "warning", "no next steps for a message: {error}"),
    Kind(
        "message_broken", "error", "message {number} to {task} could not be sent: {error}",
        "Report it; the page lists what was not delivered",
    ),
    Kind(
        "message_not_settled", "error", "what became of message {number} could not be written down: {error}",
        "It may be sent twice: free space, or end the other writer",
    ),
)  # fmt: skip
"""Of `holdfast serve`."""

collect_say: Final = Teller("cloud_sync.collect", COLLECT_KINDS)
broker_say: Final = Teller("holdfast.broker", BROKER_KINDS)
serve_say: Final = Teller("holdfast.serve", SERVE_KINDS)
