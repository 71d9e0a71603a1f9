"""The metrics of the enrolment server: a table, what is counted as it answers, what is read when asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from platform import python_version
from typing import Final

from firmware_bridge.metric import Metric, Sample, table
from firmware_bridge.runtime.exposition import Gathered, Meters, installed_version, new_registry
from provisioning.ca import Purpose
from provisioning.errors import CaError
from provisioning.runtime.ca_service import Answer, Enrolment

LEFT: Final = (("under_14d", 14), ("under_30d", 30))
"""Certificates are counted by the days they have left, each once."""

_OPEN: Final = "SELECT count(*) FROM claim WHERE withdrawn = 0 AND tls_key = x'' AND not_after > ?"

CA_METRICS: Final = table(
    Metric("holdfast_ca_build", "info", "Version of Holdfast and Python.", "-", ("version", "python")),
    Metric(
        "holdfast_ca_enrolments", "counter",
        "Certificates given, by purpose (tls, event) and result (enrolled, renewed, repeated).",
        "No renewals for weeks: the nodes' timers do not reach this server.", ("purpose", "result"),
    ),
    Metric(
        "holdfast_ca_refused", "counter", "Requests refused, by reason.",
        "code_unknown or too_many_wrong_codes rising: somebody guesses; the journal names the address.",
        ("reason",),
    ),
    Metric(
        "holdfast_ca_claims_open", "gauge", "Claim codes that were made and not used.",
        "Many old ones: withdraw what will not be installed (`holdfast ca list`).",
    ),
    Metric(
        "holdfast_ca_certificates", "gauge",
        "The newest certificate of each device by days left: expired, under_14d, under_30d, longer.",
        "under_14d: these nodes do not renew; `holdfast ca list` names them.", ("purpose", "left"),
    ),
    Metric("holdfast_ca_revoked", "gauge", "Certificates on the revocation lists' register.", "-"),
    Metric(
        "holdfast_ca_authority_days", "gauge", "Days left of the authority's own certificates.",
        "Below 90: `holdfast ca renew-issuing` with the offline key.", ("certificate",), "days",
    ),
    Metric(
        "holdfast_ca_crl_age_seconds", "gauge", "Age of a revocation list's file.",
        "Over 4 days: the server does not write it; see its journal.", ("purpose",), "seconds",
    ),
)  # fmt: skip


class CaMetrics:
    """The meters of one enrolment server; its `registry` has them."""

    def __init__(self, enrolment: Enrolment) -> None:
        self._enrolment = enrolment
        self.registry = new_registry(Gathered(CA_METRICS, self.gather))
        self._meters = Meters(CA_METRICS, self.registry, ("holdfast_ca_enrolments", "holdfast_ca_refused"))

    def gave(self, answer: Answer, *, again: bool) -> None:
        """A certificate was given."""
        result = "repeated" if answer.repeated else "renewed" if again else "enrolled"
        self._meters.count("holdfast_ca_enrolments", answer.purpose.value, result)

    def refused(self, reason: str, by: int = 1) -> None:
        """Requests were refused. `reason` is one of the codes of this program."""
        self._meters.count("holdfast_ca_refused", reason, by=by)

    def gather(self) -> Iterator[Sample]:
        """What is read at a scrape; what cannot be read is missing."""
        yield _one("build", 1, installed_version(), python_version())
        now, opened = self._enrolment.now(), self._enrolment.opened
        for name, certificate in (
            ("root", opened.root), ("tls", opened.tls.certificate), ("event", opened.event.certificate)
        ):  # fmt: skip
            left = certificate.not_valid_after_utc - now
            yield _one("authority_days", left.total_seconds() / 86_400, name)
        for purpose in Purpose:
            try:
                made = (opened.path / "crl" / f"{purpose.value}.crl").stat().st_mtime
            except OSError:
                continue
            yield _one("crl_age_seconds", max(now.timestamp() - made, 0), purpose.value)
        try:
            yield from list(self._register(now))
        except CaError:
            return

    def _register(self, now: datetime) -> Iterator[Sample]:
        at = int(now.timestamp())
        with self._enrolment.register.transaction() as db:
            yield _one("revoked", db.execute("SELECT count(*) FROM revoked").fetchone()[0])
            yield _one("claims_open", db.execute(_OPEN, (at,)).fetchone()[0])
            newest = db.execute(
                "SELECT purpose, max(not_after) FROM issued WHERE serial NOT IN (SELECT serial FROM revoked)"
                " GROUP BY tenant, device, purpose"
            ).fetchall()
        counts = Counter((purpose, _left((not_after - at) / 86_400)) for purpose, not_after in newest)
        for purpose in Purpose:
            for left in ("expired", *(name for name, _ in LEFT), "longer"):
                yield _one("certificates", counts[purpose.value, left], purpose.value, left)


def _left(days: float) -> str:
    if days <= 0:
        return "expired"
    return next((name for name, limit in LEFT if days < limit), "longer")


def _one(name: str, value: float, *labels: str) -> Sample:
    return Sample(f"holdfast_ca_{name}", value, labels)
