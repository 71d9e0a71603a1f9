"""The metrics of the cloud: names, what they mean and what to do. docs/metrics.md lists them.

No label of the cloud names a device: ten thousand devices would be ten thousand series of each metric. The
collector counts devices by how long ago they were heard (six series); which they are says `holdfast log` or
the fleet page. A node's own metrics name it.
"""

from __future__ import annotations

from typing import Final

from firmware_bridge.metric import Metric, table

LATENCIES: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds. A batch takes some ms on a good disk; a request is promised in 300 ms."""
HEARD: Final = (("5m", 300), ("1h", 3600), ("1d", 86_400), ("7d", 7 * 86_400))
"""Devices are counted by when they were last heard, each once: within so many seconds, or longer ago."""

COLLECT_METRICS: Final = table(
    Metric("holdfast_collect_build", "info", "Version of Holdfast and Python.", "-", ("version", "python")),
    Metric(
        "holdfast_collect_connected", "gauge", "1 while the collector receives from the broker.",
        "The journal has a line of kind `collector_away` that says why; devices keep what they have.",
    ),
    Metric(
        "holdfast_collect_segments", "counter", "Segments that were verified: accepted, or duplicate.",
        "Only duplicates: receipts do not reach the devices.", ("result",),
    ),
    Metric(
        "holdfast_collect_quarantined", "counter", "Messages that were refused, by reason.",
        "`holdfast log` lists device, reason and remedy.", ("reason",),
    ),
    Metric(
        "holdfast_collect_alarms", "counter", "Alarms raised: chain_fork, projection_failed.",
        "chain_fork: two devices use one identity; find the copy and revoke its key.", ("kind",),
    ),
    Metric("holdfast_collect_receipts", "counter", "Receipts handed to the broker.", "-"),
    Metric(
        "holdfast_collect_commit_seconds", "histogram",
        "Verifying and committing one batch, durable at its end.",
        "Over a second: the disk is slow or another writer holds the store.",
        unit="seconds", buckets=LATENCIES,
    ),
    Metric(
        "holdfast_collect_log_seconds", "histogram", "Logging, signing and making the receipts of one batch.",
        "As commit.", unit="seconds", buckets=LATENCIES,
    ),
    Metric(
        "holdfast_collect_store_waits", "counter",
        "Times the store could not be written and was tried again.",
        "Rising: free space, or end the other writer.",
    ),
    Metric(
        "holdfast_collect_devices", "gauge",
        "Devices by when they were last heard: 5m, 1h, 1d, 7d, longer, never; each is counted once.",
        "Many in 1d or 7d: `holdfast log` and the fleet page name them.", ("heard",),
    ),
    Metric(
        "holdfast_collect_gaps", "gauge", "Ranges of segments that are missing in the records of devices.",
        "They may still come; the completeness page shows of whom.",
    ),
    Metric("holdfast_collect_forks", "gauge", "Places in a chain that two segments claim.", "See alarms."),
    Metric("holdfast_collect_log_entries", "gauge", "Entries in the transparency log.", "-"),
    Metric(
        "holdfast_collect_checkpoint_age_seconds", "gauge",
        "Seconds since the newest signed checkpoint was made.",
        "Old while `holdfast_collect_pending` is not 0: the sequencer stands still; see the journal.",
        unit="seconds",
    ),
    Metric(
        "holdfast_collect_pending", "gauge", "Verified entries that are not in the log yet.",
        "Growing: as above. No receipt is given for them.",
    ),
    Metric("holdfast_collect_quarantine_rows", "gauge", "Refused messages kept for a look (bounded).", "-"),
    Metric(
        "holdfast_collect_store_bytes", "gauge", "Size of store.db with its WAL.",
        "A WAL that only grows: some reader holds a transaction.", ("file",), "bytes",
    ),
    Metric(
        "holdfast_collect_disk_free_bytes", "gauge", "Bytes free where the store lies.",
        "Below 5 GB or a tenth: free space, or give it a larger disk.", unit="bytes",
    ),
    Metric(
        "holdfast_collect_disk_size_bytes", "gauge", "Size of the file system of the store.", "-",
        unit="bytes",
    ),
    Metric(
        "holdfast_collect_certificate_days", "gauge", "Days left of the collector's own TLS certificate.",
        "Below 14: `holdfast ca collector` gives a new one.", unit="days",
    ),
)  # fmt: skip

SERVE_METRICS: Final = table(
    Metric("holdfast_serve_build", "info", "Version of Holdfast and Python.", "-", ("version", "python")),
    Metric(
        "holdfast_serve_requests", "counter",
        "Answers, by class of route (session, fleet, incidents, records, live, telling, accounts, page, none)"
        " and status; 0 is a client that left.",
        "5xx: the journal has a line of kind `serve_fault` or `serve_store_busy` for each.",
        ("route", "status"),
    ),
    Metric(
        "holdfast_serve_request_seconds", "histogram",
        "From a request to the end of its answer, by class of route; event streams are not in it.",
        "p95 over 0.3: see the disk, and the store's size.", ("route",), "seconds", LATENCIES,
    ),
    Metric(
        "holdfast_serve_live_streams", "gauge", "Open event streams.",
        "Near 1000: a second server is needed.",
    ),
    Metric(
        "holdfast_serve_viewers_cut", "counter", "Viewers that did not read and were cut off.",
        "Many: a slow network, or a proxy that buffers event streams.",
    ),
    Metric(
        "holdfast_serve_deliveries", "gauge",
        "Messages to people and webhooks by state: waiting, delivered, dead (kept: 30 and 365 days).",
        "dead: the page of messages says why; send them again there.", ("state",),
    ),
    Metric(
        "holdfast_serve_delivery_oldest_seconds", "gauge", "Age of the oldest message that waits.",
        "Over an hour: its target is away; the page of messages names it.", unit="seconds",
    ),
    Metric(
        "holdfast_serve_login_failures", "counter",
        "Logins refused for name or password, and those made to wait.",
        "A jump: somebody guesses; the audit says on which account.",
    ),
    Metric("holdfast_serve_sessions", "gauge", "Sessions that are kept.", "-"),
)  # fmt: skip
