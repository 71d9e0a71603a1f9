"""When a segment was logged, and whether its certificate was good then. Pure.

A certificate lives for months and evidence for years. What counts is not whether the certificate is valid
while somebody verifies, but whether it was when the segment was logged; the device's own clock says nothing
about that. The log signs, every few minutes, when it had which tree (a TIME statement, `edge.note`): all
that lies under that tree was logged by then. A segment is believed

- while its certificate is valid and not revoked, or
- when a TIME statement over it is from within the certificate's validity and before its revocation.

Everything else might have been made after the end, by whoever held the old key, and is refused.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cloud_sync.evidence.bundle import TimeEntry
from edge.errors import EdgeError
from edge.merkle import verify_consistency
from edge.note import Checkpoint, TimedCheckpoint, verify_time
from edge.trust import Trust


@dataclass(frozen=True, slots=True)
class Window:
    """From when until when one certificate of an event key is good."""

    first: datetime
    last: datetime
    revoked: datetime | None = None


@dataclass(frozen=True, slots=True)
class Times:
    """Signed moments of one log, by size; they do not go back."""

    moments: tuple[TimedCheckpoint, ...] = ()

    def by(self, index: int) -> datetime | None:
        """The first moment by which the entry at `index` was logged, as far as it is known here."""
        at = bisect_right(self.moments, index, key=lambda one: one.checkpoint.size)
        return _utc(self.moments[at].at_s) if at < len(self.moments) else None

    @property
    def last(self) -> datetime | None:
        """The newest of them."""
        return _utc(self.moments[-1].at_s) if self.moments else None


def read_times(entries: Iterable[TimeEntry], trust: Trust, checkpoint: Checkpoint) -> tuple[Times, list[str]]:
    """The TIME statements that hold under log key and checkpoint; a sentence for each that does not."""
    good: list[TimedCheckpoint] = []
    problems: list[str] = []
    for entry in entries:
        try:
            one = verify_time(entry.note, trust.origin, trust.log_key)
            head = one.checkpoint
            verify_consistency(head.size, checkpoint.size, head.root, checkpoint.root, entry.proof)
        except EdgeError as error:
            problems.append(f"TIME statement: {error}")
            continue
        good.append(one)
    good.sort(key=lambda one: (one.checkpoint.size, one.at_s))
    if any(after.at_s < before.at_s for before, after in pairwise(good)):
        problems.append("TIME statements: the log's time goes back, so none of them can be relied on")
        good = []
    return Times(tuple(good)), problems


def read_revocations(
    lists: Iterable[bytes], device_ca: x509.Certificate
) -> tuple[dict[int, datetime], list[str]]:
    """Serial -> when it was revoked, by lists of `device_ca`; a sentence for each list that is not.

    A list that has ended still says what it said: nobody is taken off it again.
    """
    revoked: dict[int, datetime] = {}
    problems: list[str] = []
    for data in lists:
        try:
            public = device_ca.public_key()
            crl = x509.load_der_x509_crl(data)
            good = isinstance(public, ec.EllipticCurvePublicKey) and crl.is_signature_valid(public)
            # An ECDSA signature is DER, so its BIT STRING has no unused bits; a reader that drops them would
            # take a changed list for the same one.
            unused_bits = crl.public_bytes(Encoding.DER)[-len(crl.signature) - 1]
            if not good or unused_bits or crl.issuer != device_ca.subject:
                problems.append("revocation list: it is not of the authority that certifies the devices")
                continue
            for one in crl:
                at = one.revocation_date_utc
                revoked[one.serial_number] = min(at, revoked.get(one.serial_number, at))
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
            problems.append(f"revocation list: {error}")
    return revoked, problems


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is to be said about one segment."""

    refused: str = ""
    """A sentence, empty where it is believed."""
    by_time: bool = False
    """It is believed for the log's time alone: its certificate has ended or was revoked since."""


def judge(windows: Sequence[Window], logged_by: datetime | None, now: datetime | None) -> Judgement:
    """Whether a segment of a key with these certificates is believed `now` (None: nothing has ended)."""
    problems: list[str] = []
    for one in windows:
        if one.revoked is None and (now is None or now <= one.last):
            return Judgement()
        limit = one.last if one.revoked is None else min(one.last, one.revoked)
        if logged_by is not None and one.first <= logged_by <= limit:
            return Judgement(by_time=True)
        problems.append(_why(one, limit, logged_by))
    return Judgement(problems[-1] if problems else "no certificate of its key is here")


def _why(one: Window, limit: datetime, logged_by: datetime | None) -> str:
    ended = f"was revoked on {_iso(limit)}" if limit == one.revoked else f"ended on {_iso(limit)}"
    if logged_by is None:
        return f"its certificate {ended}, and nothing here shows that it was logged before: export it anew"
    if logged_by < one.first:
        return f"the log shows it from {_iso(logged_by)}, before its certificate began ({_iso(one.first)})"
    return (
        f"its certificate {ended}, and the log shows it from {_iso(logged_by)} at the earliest: made, or "
        "dated back, afterwards"
    )


def _utc(at_s: int) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)


def _iso(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"
