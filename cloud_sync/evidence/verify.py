"""The offline verifier: bundle bytes and keys in, a report out. Knows neither store nor collector.

What a verified bundle proves: the device that the fleet's authority certified signed these events, and
where its certificate has ended since, before that end by the log's own signed time; the log holds each
segment and statement at the index given, under a checkpoint that the log's key signed; within each run
nothing between the first and the last segment shown was added, changed or left out without the device itself
having said so. What it cannot prove stands in `Report.unproven`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cloud_sync.evidence.bundle import Bundle, SegmentEntry, StatementEntry, decode
from cloud_sync.evidence.chain import Link, RunReport, check_runs
from cloud_sync.evidence.keys import FOREIGN, UNREADABLE, claimed_trust, differences, is_foreign
from cloud_sync.evidence.lines import IncidentLine, incident_line, statement_line
from cloud_sync.evidence.logged import Times, Window, judge, read_revocations, read_times
from cloud_sync.statement import TITLE, parse_statement, peek_statement
from edge import segment as sg
from edge.chain import check as check_chain
from edge.errors import EdgeError
from edge.event import Kind
from edge.merkle import leaf_hash, verify_inclusion
from edge.note import Checkpoint, verify_checkpoint
from edge.trust import Trust
from firmware_bridge.errors import WireError
from firmware_bridge.wire import cose
from firmware_bridge.wire.stamp import ClockKind
from provisioning.ca import verify_event_certificate
from provisioning.errors import IdentityError

MAX_FAILURES: Final = 100
"""Sentences about what failed; a bundle of rubbish would have thousands."""


@dataclass(slots=True)
class Report:
    """What was checked and what came out."""

    scope: str = ""
    tenant: str = ""
    device: str = ""
    origin: str = ""
    log_size: int = 0
    trusted: bool = False
    """The keys came from outside of the bundle (--trust)."""
    foreign: bool = False
    """Signed by a log key that the trust file does not hold: nothing else was checked."""
    checked: bool = False
    """The checkpoint holds, so that what stands under it could be checked. Else the counts are what the
    bundle says of itself, and its events are not counted."""
    segments: int = 0
    erased: int = 0
    events: int = 0
    statements: int = 0
    clocks: dict[str, int] = field(default_factory=dict)
    """Segments by the kind of clock they were made under."""
    runs: list[RunReport] = field(default_factory=list)
    incidents: list[IncidentLine] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    """Statements of the cloud in the order of the log, each beginning with its time or 'time unknown'."""
    times: int = 0
    """TIME statements of the log that hold."""
    by_time: int = 0
    """Segments whose certificate has ended or was revoked since, and that the log shows from before."""
    revocation_lists: int = 0
    """Revocation lists of the device CA that were given."""
    title_words: bool = False
    """A title statement is among `titles`: it names organisations."""
    failures: list[str] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing that was checked failed."""
        return not self.failures

    @property
    def complete(self) -> bool:
        """Nothing is missing up to the last segment shown: all runs hang together, from segment 0 on."""
        return self.ok and self.erased == 0 and bool(self.runs) and all(run.rooted for run in self.runs)

    def fail(self, sentence: str) -> None:
        """Note a failed check."""
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(sentence)


def verify(
    data: bytes, trust: Trust | None, now: datetime | None = None, revocations: Sequence[bytes] = ()
) -> Report:
    """Check the bundle in `data` with the keys of `trust`, or with its own claimed keys where that is None.

    `now` (with a time zone) is the verifier's time: certificates that have ended by then, or by the newest
    time in the bundle, need a TIME statement of the log; None takes the latter alone. `revocations` are
    lists of the device CA (DER) beside those of the bundle. The bundle's own keys must be those of `trust`.
    Raises BundleError when the bytes are not a bundle. Whatever else is wrong stands in `Report.failures`.
    """
    bundle = decode(data)
    report = Report(bundle.scope, bundle.tenant, bundle.device, bundle.origin, trusted=trust is not None)
    report.segments, report.statements = len(bundle.segments), len(bundle.statements)
    report.erased = sum(entry.data is None for entry in bundle.segments)
    keys = trust or claimed_trust(bundle)
    checkpoint = _checkpoint(bundle, keys, report)
    if checkpoint is None:
        return report
    report.checked, report.log_size = True, checkpoint.size
    if trust is not None:
        for sentence in differences(bundle, trust):
            report.fail(sentence)
    known = _event_keys(bundle, keys, report)
    links, sealed = _segments(bundle, checkpoint, {kid: key for kid, (key, _) in known.items()}, report)
    times = _times(bundle, checkpoint, keys, report)
    _logged(bundle, sealed, _windows(bundle, keys, known, revocations, report), times, now, report)
    _statements(bundle, checkpoint, keys, report)
    _chain(links, sealed, report)
    _incidents(bundle, links, report)
    _unproven(bundle, keys, report)
    return report


def _checkpoint(bundle: Bundle, keys: Trust, report: Report) -> Checkpoint | None:
    """The checkpoint under which everything else is checked; None, and why, where it does not hold."""
    why = f"the bundle is of log {bundle.origin!r:.80}, not of {keys.origin!r:.80}"
    if bundle.origin == keys.origin:
        try:
            return verify_checkpoint(bundle.note, keys.origin, keys.log_key)
        except EdgeError as error:
            why = f"checkpoint: {error}"
    report.foreign = report.trusted and is_foreign(bundle, keys)
    if report.foreign:
        report.fail(FOREIGN)
    report.fail(why)
    return None


Known = dict[bytes, tuple[cose.PublicKey, list[x509.Certificate]]]
"""Key id -> an event key of the bundle's device, and what the device CA certified it with."""


def _event_keys(bundle: Bundle, trust: Trust, report: Report) -> Known:
    keys: Known = {}
    if trust.device_ca is None:
        report.fail("the trust file names no device_ca: nothing can be said about who signed")
        return keys
    for der in bundle.certificates:
        try:
            certificate = x509.load_der_x509_certificate(der)
            at = max(certificate.not_valid_before_utc, trust.device_ca.not_valid_before_utc)
            identity = verify_event_certificate(certificate, trust.device_ca, at)
            public = certificate.public_key()
        except (*UNREADABLE, IdentityError) as error:
            report.fail(f"event certificate: {error}")
            continue
        if (identity.tenant, identity.device) != (bundle.tenant, bundle.device):
            report.fail(f"the certificate is of {identity.tenant}/{identity.device}, another device")
        elif isinstance(public, ec.EllipticCurvePublicKey):
            keys.setdefault(cose.key_id(public), (public, []))[1].append(certificate)
    return keys


def _times(bundle: Bundle, checkpoint: Checkpoint, trust: Trust, report: Report) -> Times:
    times, problems = read_times(bundle.times, trust, checkpoint)
    for sentence in problems:
        report.fail(sentence)
    report.times = len(times.moments)
    return times


def _windows(
    bundle: Bundle, trust: Trust, known: Known, more: Sequence[bytes], report: Report
) -> dict[bytes, list[Window]]:
    """Key id -> when its certificates are good, by the revocation lists that hold."""
    if trust.device_ca is None:
        return {}
    revoked, problems = read_revocations([*bundle.revocations, *more], trust.device_ca)
    for sentence in problems:
        report.fail(sentence)
    report.revocation_lists = len(bundle.revocations) + len(more)
    return {
        kid: [
            Window(one.not_valid_before_utc, one.not_valid_after_utc, revoked.get(one.serial_number))
            for one in certificates
        ]
        for kid, (_, certificates) in known.items()
    }


def _logged(
    bundle: Bundle,
    sealed: Sequence[sg.Sealed],
    windows: dict[bytes, list[Window]],
    times: Times,
    now: datetime | None,
    report: Report,
) -> None:
    """Refuse segments whose certificate was not good when they were logged.

    A replay's or a simulation's time is not that of certificates; it is said what they are.
    """
    index = {entry.hash: entry.index for entry in bundle.segments}
    present = max((one for one in (now, times.last) if one is not None), default=None)
    for one in sealed:
        if one.segment.clock is not ClockKind.LIVE:
            continue
        found = judge(windows.get(one.kid, []), times.by(index[one.hash]), present)
        report.by_time += found.by_time
        if found.refused:
            report.fail(f"segment {one.segment.number} of run {one.segment.run.hex()[:8]}: {found.refused}")


def _segments(
    bundle: Bundle, checkpoint: Checkpoint, keys: dict[bytes, cose.PublicKey], report: Report
) -> tuple[list[Link], list[sg.Sealed]]:
    links: list[Link] = []
    good: list[sg.Sealed] = []
    if len({entry.hash for entry in bundle.segments}) != len(bundle.segments):
        report.fail("the same segment stands in the bundle twice")
    for entry in bundle.segments:
        what = f"segment {entry.number} of run {entry.run.hex()[:8]}"
        _proof(what, entry, checkpoint, report)
        sealed = None if entry.data is None else _sealed(what, bundle, entry, entry.data, keys, report)
        links.append(Link(entry, None if sealed is None else sealed.segment))
        if sealed is not None:
            good.append(sealed)
    report.events = sum(len(sealed.segment.events) for sealed in good)
    report.clocks = dict(Counter(sealed.segment.clock.name.lower() for sealed in good))
    return links, good


def _sealed(
    what: str,
    bundle: Bundle,
    entry: SegmentEntry,
    data: bytes,
    keys: dict[bytes, cose.PublicKey],
    report: Report,
) -> sg.Sealed | None:
    try:
        sealed = sg.verify(data, keys.get)
    except (WireError, EdgeError) as error:
        report.fail(f"{what}: {error}")
        return None
    segment = sealed.segment
    if sealed.hash != entry.hash:
        report.fail(f"{what}: its bytes have another hash than the log's entry")
    elif (segment.tenant, segment.device) != (bundle.tenant, bundle.device):
        report.fail(f"{what}: it is of {segment.tenant}/{segment.device}")
    elif (segment.run, segment.number) != (entry.run, entry.number):
        report.fail(f"{what}: the segment itself says number {segment.number} of run {segment.run.hex()[:8]}")
    else:
        return sealed
    return None


def _statements(bundle: Bundle, checkpoint: Checkpoint, trust: Trust, report: Report) -> None:
    for entry in bundle.statements:
        what = f"statement at {entry.index}"
        _proof(what, entry, checkpoint, report)
        if entry.data is None:
            continue
        try:
            made = (
                parse_statement(entry.data, trust.ledger_keys.get)
                if trust.ledger_keys
                else peek_statement(entry.data)
            )
        except (WireError, EdgeError) as error:
            report.fail(f"{what}: {error}")
            continue
        if made.hash != entry.hash or made.tenant != bundle.tenant:
            report.fail(f"{what}: it is not the log's entry, or of another tenant")
            continue
        report.titles.append(statement_line(made))
        report.title_words = report.title_words or made.type == TITLE


def _proof(what: str, entry: SegmentEntry | StatementEntry, checkpoint: Checkpoint, report: Report) -> None:
    try:
        verify_inclusion(entry.index, checkpoint.size, leaf_hash(entry.hash), entry.proof, checkpoint.root)
    except EdgeError as error:
        report.fail(f"{what}: {error}")


def _chain(links: list[Link], sealed: list[sg.Sealed], report: Report) -> None:
    report.runs = check_runs(links)
    if len(sealed) < len(links):  # erased ones hold their place by their hash only
        for run in report.runs:
            for sentence in (*run.broken, *run.gaps):
                report.fail(f"chain of run {run.run.hex()[:8]}: {sentence}")
        return
    chain = check_chain(sealed)
    for hole in chain.gaps:
        report.fail(
            f"segments {hole.first} to {hole.last} of run {hole.run.hex()[:8]} are missing without a word"
        )
    for fork in chain.forks:
        report.fail(
            f"{len(fork.hashes)} segments exclude each other at {fork.number} of run {fork.run.hex()[:8]}: "
            "two devices use this identity"
        )
    for flaw in chain.breaks:
        report.fail(f"segment {flaw.number} of run {flaw.run.hex()[:8]}: {flaw.text}")


def _incidents(bundle: Bundle, links: list[Link], report: Report) -> None:
    opening = bundle.incident is None
    for link in links:
        for event in link.segment.events if link.segment else ():
            if event.kind is not Kind.INCIDENT:
                continue
            report.incidents.append(incident_line(link.entry.run, event))
            if bundle.incident == (link.entry.run, event.seq):
                opening = True
    if not opening:
        erased = any(
            link.segment is None and bundle.incident and link.entry.run == bundle.incident[0]
            for link in links
        )
        if not erased:
            report.fail("the event that opened the incident is not in the bundle")


def _unproven(bundle: Bundle, trust: Trust, report: Report) -> None:
    say = report.unproven.append
    if not report.trusted:
        say("WHO SIGNED: the keys came from the bundle itself. Anybody can make such a bundle. Use --trust.")
    if any(kind != ClockKind.LIVE.name.lower() for kind in report.clocks):
        say("THAT IT HAPPENED: made under a replayed or simulated clock, as every segment of it says.")
    say("that the sensors were right: only that this device read and signed it.")
    if report.segments > report.erased and not report.revocation_lists:
        say("that no key of it was revoked: no revocation list of the device CA is in the bundle, or given.")
    say("what the device did after the last segment shown: a later heartbeat or segment would show it.")
    if bundle.incident is not None:
        say("other runs of the device: an incident's bundle holds one run, or a stretch of it.")
    if report.erased:
        say(f"what {report.erased} erased segments said: their place in log and chain is proven, not more.")
        say("whether what is erased was made under a live clock: the clock's kind was in what is erased.")
    if report.statements and not trust.ledger_keys:
        say("who made the title statements: the trust file names no ledger_keys; only that they are logged.")
    if report.trusted and not trust.ledger_keys:
        say("the ledger keys in the bundle: the trust file names none to compare them with.")
    if report.title_words:
        say(
            "that lender, guarantor or registry acted: the collector wrote their names (this version holds "
            "one ledger key)."
        )
    if any(run.first > 0 for run in report.runs):
        say("what stood in a run before its first segment shown.")
