"""Evidence outlives certificates: enrolled, logged, renewed, expired; and what was made or revoked since."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cloudkit import Device, TestClock, make_kit
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

from cloud_sync.evidence import bundle as bd
from cloud_sync.evidence.__main__ import verify as command
from cloud_sync.evidence.bundle import Bundle, TimeEntry
from cloud_sync.evidence.logged import Times, Window, judge
from cloud_sync.evidence.verify import Report, verify
from cloud_sync.log.checkpoint import public_bytes, sign_checkpoint, sign_time
from cloud_sync.runtime import bundles
from cloud_sync.runtime.collector_files import load_config, load_keys
from cloud_sync.runtime.collectord import open_intake
from cloud_sync.runtime.sequencer import TIME_EVERY_S
from edge.errors import NoteError
from edge.note import Checkpoint, TimedCheckpoint, verify_checkpoint, verify_time
from edge.segment import Sealed
from edge.trust import Trust
from firmware_bridge.wire.stamp import ClockKind
from provisioning import ca
from provisioning.ca import Purpose, Revoked, Validity
from provisioning.csr import make_csr
from provisioning.runtime import ca_admin, ca_parties
from tests.ca_kit import CAR, World

DAY_MS = 86_400_000


@dataclass
class Life:
    """A device enrolled at an authority whose clock is the story's, and the collector beside it."""

    home: Path
    world: World = field(init=False)
    clock: TestClock = field(init=False)
    car: Device = field(init=False)
    tls: x509.Certificate = field(init=False)
    certificates: list[x509.Certificate] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world = World(self.home)
        (self.world.collector / "collector.toml").write_text(
            '[collector]\norigin = "log.example"\ntenant = "fund"\n[mqtt]\nhost = "127.0.0.1"\nport = 1\n'
        )
        self.clock = TestClock(self.ms)
        event, enrolment = ca.new_key(), self.world.enrolment
        self.tls = enrolment.enroll_tls(self.world.code(), make_csr(ca.new_key(), CAR), "test").certificate
        self.certificates.append(enrolment.enroll_event(self.tls, make_csr(event, CAR)).certificate)
        self.car = Device("fund", "car-1", event, wall_ms=self.ms)

    @property
    def ms(self) -> int:
        return int(self.world.clock().timestamp() * 1000)

    @property
    def trust(self) -> Trust:
        return Trust.from_json((self.world.collector / "trust.json").read_text())

    def forward(self, days: float) -> None:
        self.world.clock.forward(days)
        self.clock.wall_ms = self.ms

    def renew(self) -> None:
        """New keys and certificates, as a node gets them; a new run begins."""
        tls, event = ca.new_key(), ca.new_key()
        renewed = self.world.enrolment.renew(Purpose.EVENT, self.tls, make_csr(event, CAR))
        self.tls = self.world.enrolment.renew(Purpose.TLS, self.tls, make_csr(tls, CAR)).certificate
        self.certificates.append(renewed.certificate)
        self.car.key = event
        self.car.restart()

    def seal(self, count: int = 3) -> list[Sealed]:
        self.car.wall_ms = self.ms
        return [self.car.seal(2) for _ in range(count)]

    def log(self, sealed: list[Sealed]) -> None:
        """Through the collector, at the story's time."""
        config = load_config(self.world.collector / "collector.toml")
        store, _, intake = open_intake(config, load_keys(config), self.clock)
        with store:
            outcome, _ = intake.process([self.car.message(one) for one in sealed])
        assert outcome.accepted == len(sealed), outcome.refused

    def export(self) -> bytes:
        config = load_config(self.world.collector / "collector.toml")
        return bundles.export_device(config.store, "fund", "car-1", self.home / "b.hfb").read_bytes()

    def check(self, data: bytes | None = None, days: float = 0) -> Report:
        """Verified so many days from now."""
        return verify(
            self.export() if data is None else data, self.trust, self.world.clock() + timedelta(days=days)
        )


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Life:
    """Enrolled; three segments; renewed at 61 days; three more. 90-day certificates."""
    life = Life(tmp_path_factory.mktemp("life"))
    life.log(life.seal())
    life.forward(61)
    life.renew()
    life.log(life.seal())
    return life


def changed(data: bytes, change: Callable[[Bundle], Bundle]) -> bytes:
    return bd.encode(change(bd.decode(data)))


def times_of(change: Callable[[TimeEntry], TimeEntry]) -> Callable[[Bundle], Bundle]:
    return lambda b: dataclasses.replace(b, times=tuple(change(one) for one in b.times))


# --- the story ------------------------------------------------------------------------------------------


def test_what_was_logged_before_renewal_verifies_after_every_expiry(told: Life) -> None:
    for days, by_time in ((0, 0), (28, 0), (30, 3), (100, 6), (4000, 6)):
        report = told.check(days=days)
        assert report.failures == [] and report.complete and report.trusted, days
        assert (report.segments, report.by_time, report.times) == (6, by_time, 2), days


def test_the_command_judges_by_the_moment_it_is_given(told: Life) -> None:
    path, trust = told.home / "b.hfb", told.world.collector / "trust.json"
    path.write_bytes(told.export())
    later = f"{told.world.clock() + timedelta(days=200):%Y-%m-%dT%H:%M:%SZ}"
    result = CliRunner().invoke(command, [str(path), "--trust", str(trust), "--at", later])
    assert result.exit_code == 0 and "6 segments are of a certificate that has ended" in result.stdout
    bare = changed(path.read_bytes(), lambda b: dataclasses.replace(b, times=()))
    path.write_bytes(bare)
    result = CliRunner().invoke(command, [str(path), "--trust", str(trust), "--at", later, "--json"])
    assert (
        result.exit_code == 40
        and "nothing here shows that it was logged before" in json.loads(result.stdout)["error"]
    )
    result = CliRunner().invoke(command, [str(path), "--trust", str(trust), "--at", "2026-11-25"])
    assert result.exit_code == 0


def test_a_segment_that_is_dated_back_and_logged_later_is_refused(tmp_path: Path) -> None:
    """A thief of the old key, and a collector that takes it: the log's own time tells."""
    life = Life(tmp_path)
    life.log(life.seal())
    forged = life.seal(1)  # its timestamps are of the first day
    life.forward(91)
    force(life, forged)
    report = life.check()
    (why,) = report.failures
    assert "segment 3 of run" in why and "ended on" in why and "dated back" in why
    assert report.by_time == 3, "what was logged in time is believed all the same"
    assert life.check(days=1000).failures == report.failures
    assert not verify(life.export(), life.trust).ok, "without a clock the bundle's own newest time counts"


def force(life: Life, sealed: list[Sealed]) -> None:
    """Log what an honest collector would refuse: its clock is put back while it judges."""
    config = load_config(life.world.collector / "collector.toml")
    store, sequencer, intake = open_intake(config, load_keys(config), life.clock)
    with store:
        life.clock.wall_ms -= 90 * DAY_MS
        outcome = intake.commit([life.car.message(one) for one in sealed])
        assert outcome.accepted == len(sealed)
        life.clock.wall_ms += 90 * DAY_MS
        sequencer.step()


def test_an_honest_collector_takes_nothing_after_the_end(tmp_path: Path) -> None:
    life = Life(tmp_path)
    late = life.seal(1)
    life.forward(91)
    with pytest.raises(AssertionError, match="not valid now"):
        life.log(late)


def test_what_was_logged_before_a_revocation_stands_and_what_came_later_falls(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.log(life.seal())
    life.forward(10)
    ca_admin.revoke(
        life.world.opened, life.world.register, CAR, x509.ReasonFlags.key_compromise, life.world.clock()
    )
    assert (life.world.collector / "devices" / "device_ca.crl").exists()
    report = life.check()
    assert report.ok and report.by_time == 3 and report.revocation_lists == 1
    assert not any("was revoked" in text for text in report.unproven)
    stolen = life.seal(1)
    life.forward(1)
    ca_parties.write_devices(life.world.register, life.world.collector)
    life.world.device_file().write_bytes(life.certificates[0].public_bytes(Encoding.PEM))
    life.log(stolen)  # a collector that was not told
    (why,) = life.check().failures
    assert "segment 3" in why and "was revoked on" in why and "afterwards" in why
    without = changed(life.export(), lambda b: dataclasses.replace(b, revocations=()))
    report = verify(without, life.trust, life.world.clock())
    assert report.ok and any("no key of it was revoked" in text for text in report.unproven)
    given = (life.world.folder / "crl" / "event.crl").read_bytes()
    assert not verify(without, life.trust, life.world.clock(), [given]).ok
    path = tmp_path / "without.hfb"
    path.write_bytes(without)
    args = [str(path), "--trust", str(life.world.collector / "trust.json")]
    for name in ("event.crl", "event.pem"):
        crl = str(life.world.folder / "crl" / name)
        assert CliRunner().invoke(command, [*args, "--crl", crl]).exit_code == 40
    assert CliRunner().invoke(command, [*args, "--crl", str(tmp_path / "none")]).exit_code == 2


def test_what_was_logged_after_the_last_time_before_the_end_cannot_be_told_and_is_refused(
    tmp_path: Path,
) -> None:
    life = Life(tmp_path)
    life.forward(90 - 60 / 86400)
    life.log(life.seal())
    assert life.check().ok
    life.log(life.seal())
    life.forward(TIME_EVERY_S / 86400)
    force(life, [])
    report = life.check()
    assert len(report.failures) == 3 and report.by_time == 3
    assert all("dated back" in why for why in report.failures)


def test_a_replay_is_not_judged_by_certificates(tmp_path: Path) -> None:
    kit = make_kit(tmp_path / "lab", kinds=("simulated",))
    car = kit.device("car-1")
    car.clock = ClockKind.SIMULATED
    with kit.collector() as (store, _, intake):
        intake.process(car.messages(2))
        data = bundles.export_device(store, "fund", "car-1", tmp_path / "b.hfb").read_bytes()
    assert verify(data, kit.trust, datetime(2200, 1, 1, tzinfo=UTC)).ok


# --- bundles of version 1 ---------------------------------------------------------------------------------


def first_version(data: bytes) -> bytes:
    return changed(data, lambda b: dataclasses.replace(b, version=1, times=(), revocations=()))


def test_an_old_bundle_verifies_while_its_certificates_do_and_says_what_to_do_then(told: Life) -> None:
    """Taking the times out is no way around them."""
    old = first_version(told.export())
    assert told.check(old).ok
    report = told.check(old, days=30)
    assert len(report.failures) == 3 and all("export it anew" in why for why in report.failures)


def test_a_store_of_older_software_is_exported_without_times(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.log(life.seal())
    config = load_config(life.world.collector / "collector.toml")
    store, _, _ = open_intake(config, load_keys(config), life.clock)
    with store:
        store.db.execute("DROP TABLE times")
    report = life.check()
    assert report.ok and report.times == 0


# --- tampering --------------------------------------------------------------------------------------------


def test_a_tampered_time_is_refused(told: Life) -> None:
    data = told.export()
    keys = load_keys(load_config(told.world.collector / "collector.toml"))
    origin = told.trust.origin
    bundle = bd.decode(data)
    last = verify_time(bundle.times[-1].note, origin, told.trust.log_key)
    rogue = make_rogue_time(last.checkpoint)
    other = Checkpoint(origin, last.checkpoint.size, b"\x07" * 32)
    plain = sign_checkpoint(last.checkpoint, keys.log)
    forked, early = sign_time(other, last.at_s, keys.log), sign_time(last.checkpoint, 1_600_000_000, keys.log)
    cases: dict[str, tuple[Callable[[Bundle], Bundle], str]] = {
        "a flipped byte": (times_of(lambda t: dataclasses.replace(t, note=flip(t.note))), "TIME statement"),
        "another key": (times_of(lambda t: dataclasses.replace(t, note=rogue)), "one cosignature"),
        "no cosignature": (times_of(lambda t: dataclasses.replace(t, note=plain)), "one cosignature"),
        "another root": (
            times_of(lambda t: dataclasses.replace(t, note=forked)), "TIME statement",
        ),
        "no proof": (times_of(lambda t: dataclasses.replace(t, proof=(b"x" * 32,))), "TIME statement"),
        "going back": (
            lambda b: dataclasses.replace(
                b,
                times=(b.times[0], TimeEntry(early, b.times[-1].proof)),
            ),
            "goes back",
        ),
        "rubbish": (times_of(lambda t: dataclasses.replace(t, note=b"rubbish")), "TIME statement"),
    }  # fmt: skip
    for what, (change, why) in cases.items():
        report = told.check(changed(data, change), days=200)
        assert not report.ok and any(why in text for text in report.failures), (what, report.failures)


def flip(note: bytes) -> bytes:
    at = note.index("—".encode()) - 4
    return note[:at] + bytes([note[at] ^ 1]) + note[at + 1 :]


def make_rogue_time(checkpoint: Checkpoint) -> bytes:

    return sign_time(checkpoint, 1_900_000_000, Ed25519PrivateKey.generate())


def test_no_changed_byte_of_the_times_and_lists_passes(tmp_path: Path) -> None:
    life = Life(tmp_path)
    ca_admin.write_crls(life.world.opened, life.world.register, life.world.clock())
    life.log(life.seal(1))
    data = life.export()
    bundle = bd.decode(data)
    start = data.index(bundle.times[0].note)
    assert bundle.revocations and data.index(bundle.revocations[0]) > start
    assert life.check(days=200).ok
    for at in range(start - 3, len(data)):
        spoilt = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        try:
            report = life.check(spoilt, days=200)
        except bd.BundleError:
            continue
        assert not report.ok, at


def test_lists_of_another_authority_are_refused(told: Life, tmp_path: Path) -> None:
    other = World(tmp_path)
    valid = Validity(told.world.clock(), told.world.clock() + timedelta(days=1))
    serial = told.certificates[0].serial_number
    line = [Revoked(serial, told.world.clock(), x509.ReasonFlags.key_compromise)]
    for data, why in (
        (ca.make_crl(other.opened.event, line, 1, valid).public_bytes(Encoding.DER), "not of the authority"),
        (b"rubbish", "revocation list"),
    ):
        report = verify(told.export(), told.trust, told.world.clock(), [data])
        assert not report.ok and why in report.failures[0]


# --- the rule ---------------------------------------------------------------------------------------------

D = [datetime(2027, 1, day, tzinfo=UTC) for day in range(1, 30)]


@pytest.mark.parametrize(
    ("window", "logged", "now", "verdict"),
    [
        (Window(D[0], D[10]), None, D[5], "good"),
        (Window(D[0], D[10]), None, D[10], "good"),
        (Window(D[0], D[10]), None, D[11], "refused"),
        (Window(D[0], D[10]), None, None, "good"),
        (Window(D[0], D[10]), D[10], D[20], "by time"),
        (Window(D[0], D[10]), D[10] + timedelta(seconds=1), D[20], "refused"),
        (Window(D[5], D[10]), D[4], D[20], "refused"),
        (Window(D[0], D[10], D[5]), D[5], D[6], "by time"),
        (Window(D[0], D[10], D[5]), D[6], D[6], "refused"),
        (Window(D[0], D[10], D[5]), None, D[6], "refused"),
        (Window(D[0], D[10], D[20]), D[11], D[25], "refused"),
    ],
)
def test_the_rule(window: Window, logged: datetime | None, now: datetime | None, verdict: str) -> None:
    found = judge([window], logged, now)
    assert ("refused" if found.refused else "by time" if found.by_time else "good") == verdict


def test_a_key_with_two_certificates_is_good_under_either() -> None:
    two = [Window(D[0], D[10]), Window(D[8], D[20])]
    assert not judge(two, D[15], D[25]).refused and not judge(two, D[5], D[25]).refused
    assert judge(two, D[21], D[25]).refused
    assert judge([], None, None).refused


def test_the_first_time_over_an_entry_counts() -> None:
    times = Times(tuple(TimedCheckpoint(Checkpoint("log", size, b""), size * 100) for size in (2, 5)))
    found = [times.by(index) for index in range(6)]
    assert [None if one is None else one.timestamp() for one in found] == [200, 200, 500, 500, 500, None]


# --- the signature ----------------------------------------------------------------------------------------


def test_a_time_is_a_cosignature_and_no_checkpoint(told: Life) -> None:
    """C2SP tlog-cosignature: its own key id and its own message, so that neither stands for the other."""
    log = load_keys(load_config(told.world.collector / "collector.toml")).log
    checkpoint = Checkpoint("log.example", 7, b"\x05" * 32)
    note = sign_time(checkpoint, 1_800_000_000, log)
    assert verify_time(note, "log.example", public_bytes(log)) == TimedCheckpoint(checkpoint, 1_800_000_000)
    with pytest.raises(NoteError, match="no key that is trusted"):
        verify_checkpoint(note, "log.example", public_bytes(log))
    with pytest.raises(NoteError, match="one cosignature"):
        verify_time(sign_checkpoint(checkpoint, log), "log.example", public_bytes(log))
    with pytest.raises(NoteError, match="one cosignature"):
        verify_time(note, "log.other", public_bytes(log))
    for at_s in (0, 1 << 50):
        with pytest.raises(NoteError, match="no time"):
            sign_time(checkpoint, at_s, log)
