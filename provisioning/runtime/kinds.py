"""Everything that the enrolment server may say (docs/metrics.md lists it with the journal's MESSAGE_IDs)."""

from __future__ import annotations

from typing import Final

from firmware_bridge.logline import Kind, table
from firmware_bridge.runtime.journal import Teller

CA_KINDS: Final = table(
    Kind("ca_ready", "info", "enrolment server ready on port {port}"),
    Kind("ca_stopped", "info", "stopped"),
    Kind("ca_reloaded", "info", "configuration and certificates were read again"),
    Kind("crl_written", "info", "revocation lists written"),
    Kind(
        "enrolled", "info", "{device} has its {purpose} certificate until {not_after}",
        burst=50, per_minute=100,
    ),
    Kind(
        "renewed", "info", "{device} renewed its {purpose} certificate until {not_after}",
        burst=50, per_minute=100,
    ),
    Kind(
        "enrolment_refused", "warning", "refused {peer} with {status} {reason}: {detail}",
        "It was told: {remedy}", burst=20, per_minute=20, by="reason",
    ),
    Kind(
        "turned_away", "warning", "{count} connections were turned away: too many at once",
        "If it goes on, see whose addresses they are",
    ),
    Kind(
        "housekeeping_failed", "error", "housekeeping failed: {detail}",
        "Enrolment goes on with what was read before; `holdfast ca` commands say what is wrong",
    ),
    Kind("connection_ended", "debug", "connection of {peer} ended: {error}"),
    Kind(
        "ca_fault", "error", "a request ended in a fault: {error}",
        "Report it with this line; other requests go on",
    ),
)  # fmt: skip

say: Final = Teller("enrol", CA_KINDS)
