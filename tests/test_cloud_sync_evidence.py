"""Evidence bundles: exported by the collector, verified by a process that knows neither it nor its store."""

from __future__ import annotations

import base64
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cloudkit import START_MS, TENANT, Device, Kit, make_kit
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cloud_sync.errors import BundleError, NotFound
from cloud_sync.evidence import bundle as bd
from cloud_sync.evidence.__main__ import text
from cloud_sync.evidence.__main__ import verify as command_app
from cloud_sync.evidence.bundle import Bundle
from cloud_sync.evidence.keys import FOREIGN
from cloud_sync.evidence.lines import IncidentLine
from cloud_sync.evidence.verify import Report, verify
from cloud_sync.log.checkpoint import sign_checkpoint
from cloud_sync.runtime import bundles, queries
from cloud_sync.runtime.bundles import IncidentRef
from cloud_sync.runtime.collector_files import load_keys
from cloud_sync.runtime.store import log_statement
from cloud_sync.statement import TITLE, make_statement
from edge.note import Checkpoint
from edge.segment import Lost, Tombstone
from edge.trust import Trust
from firmware_bridge.wire import cbor
from firmware_bridge.wire.stamp import ClockKind

BINDING = {1: b"\x0a" * 16, 2: "car-1"}
TITLED = {1: b"\x0a" * 16, 2: 3, 3: "ReportAlert"}


def thinned(device: Device, count: int) -> Tombstone:
    """Seal `count` segments, throw them away, and return what stands for them."""
    first, before = device.number, device.previous
    assert isinstance(before, bytes)
    events = 0
    for _ in range(count):
        events += len(device.seal(2).segment.events)
        device.sealed.pop()
    assert isinstance(device.previous, bytes)
    return Tombstone(
        Lost.THINNED, device.run, first, device.number - 1, events, 0, 9, before, device.previous
    )


@dataclasses.dataclass(slots=True)
class World:
    """A collector's folder with a history, and two bundles of it."""

    kit: Kit
    car: Device
    whole: Path
    incident: Path
    trust: Trust


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    kit = make_kit(tmp_path_factory.mktemp("evidence") / "lab", kinds=("live", "simulated"))
    car, other = kit.device("car-1"), kit.device("car-2")
    with kit.collector() as (store, _, intake):
        ledger = load_keys(kit.config).ledger
        with store.transaction() as db:
            for kind, body in (("binding", BINDING), (TITLE, TITLED), (TITLE, {1: b"\x0b" * 16, 3: "Mint"})):
                log_statement(db, TENANT, make_statement(kind, TENANT, START_MS, body, ledger))  # type: ignore[arg-type]
        messages = [*car.messages(3), *other.messages(4)]
        stone = thinned(car, 2)
        messages.append(car.message(car.seal([car.event(), car.incident(), car.event()], tombstones=[stone])))
        messages += car.messages(3)
        car.restart()
        messages += car.messages(4)
        intake.process(messages)
        whole = bundles.export_device(store, TENANT, "car-1", kit.lab.home / "whole.hfb")
        row = queries.incidents(store, TENANT)[0]
        incident = bundles.export_incident(kit.config_path, TENANT, row, kit.lab.home / "incident.hfb")
    return World(kit, car, whole, incident, kit.trust)


def changed(path: Path, change: Callable[[Bundle], Bundle]) -> bytes:
    return bd.encode(change(bd.decode(path.read_bytes())))


def test_a_whole_device_is_verified_and_complete(world: World) -> None:
    report = verify(world.whole.read_bytes(), world.trust)
    assert report.failures == []
    assert (report.ok, report.trusted, report.complete) == (True, True, True)
    assert report.segments == len(world.car.sealed) == 11
    assert report.events == sum(len(sealed.segment.events) for sealed in world.car.sealed)
    assert [(run.first, run.last, run.thinned) for run in report.runs] == [(0, 8, 4), (0, 3, 0)]
    assert report.clocks == {"live": 11}
    assert report.statements == 2  # the other vehicle's title is nobody's business here


def test_an_incident_is_told_with_what_is_proven_and_what_is_not(world: World) -> None:
    report = verify(world.incident.read_bytes(), world.trust)
    assert report.ok and report.scope == "incident"
    (line,) = report.incidents
    assert (line.cause, line.action) == ("moved_without_wheels", "opened")
    assert line.sentence == "The car moves 41 m, no wheel turns."
    assert line.at is not None and line.at.startswith("2026-12-01T")
    assert any("sensors were right" in sentence for sentence in report.unproven)
    assert any("other runs" in sentence for sentence in report.unproven)


def test_the_same_store_gives_the_same_bytes(world: World, tmp_path: Path) -> None:
    again = bundles.export(world.kit.config.store, TENANT, "car-1", tmp_path / "again.hfb")
    assert again.read_bytes() == world.whole.read_bytes()


def test_without_trust_it_says_what_that_does_not_prove(world: World) -> None:
    report = verify(world.whole.read_bytes(), None)
    assert report.ok and not report.trusted
    assert any("WHO SIGNED" in sentence for sentence in report.unproven)


def test_simulated_segments_say_so_in_large_letters(world: World, tmp_path: Path) -> None:
    kit = make_kit(tmp_path / "lab", kinds=("simulated",))
    car = kit.device("car-1")
    car.clock = ClockKind.SIMULATED
    with kit.collector() as (store, _, intake):
        intake.process(car.messages(2))
        path = bundles.export_device(store, TENANT, "car-1", tmp_path / "b.hfb")
    report = verify(path.read_bytes(), kit.trust)
    assert report.clocks == {"simulated": 2}
    assert any("THAT IT HAPPENED" in sentence for sentence in report.unproven)


def fails(data: bytes, trust: Trust | None, why: str) -> None:
    report = verify(data, trust)
    assert not report.ok and not report.complete
    assert any(why in sentence for sentence in report.failures), report.failures


def test_every_part_that_is_changed_fails(world: World) -> None:
    def entry(at: int, **changes: object) -> Callable[[Bundle], Bundle]:
        def change(bundle: Bundle) -> Bundle:
            segments = list(bundle.segments)
            segments[at] = dataclasses.replace(segments[at], **changes)  # type: ignore[arg-type]
            return dataclasses.replace(bundle, segments=tuple(segments))

        return change

    def drop(at: int) -> Callable[[Bundle], Bundle]:
        return lambda b: dataclasses.replace(b, segments=b.segments[:at] + b.segments[at + 1 :])

    whole = bd.decode(world.whole.read_bytes())
    second = whole.segments[1]
    assert second.data is not None
    flipped = second.data[:40] + bytes([second.data[40] ^ 1]) + second.data[41:]
    other = world.kit.lab.collector / "devices" / TENANT / "car-2.crt"
    der = base64.b64decode("".join(other.read_text().split("-----")[2].split()))
    cases: list[tuple[Callable[[Bundle], Bundle], str]] = [
        (entry(1, data=flipped), "segment 1"),
        (entry(1, data=whole.segments[2].data), "another hash"),
        (entry(1, index=second.index + 1), "not in the tree"),
        (entry(1, index=10**6), "no leaf"),
        (entry(1, proof=()), "too short"),
        (entry(1, proof=(*second.proof, b"x" * 32)), "too long"),
        (entry(1, proof=(b"x" * 31, *second.proof[1:])), "32 bytes"),
        (entry(1, hash=b"\x00" * 32), "not in the tree"),
        (entry(1, number=2), "says number 1"),
        (entry(1, run=b"\x02" * 16), "says number 1"),
        (drop(1), "missing without a word"),
        (drop(3), "missing without a word"),
        (lambda b: dataclasses.replace(b, segments=(*b.segments, b.segments[0])), "twice"),
        (lambda b: dataclasses.replace(b, certificates=()), "not known"),
        (lambda b: dataclasses.replace(b, certificates=(b"rubbish",)), "certificate"),
        (lambda b: dataclasses.replace(b, certificates=(der,)), "another device"),
        (lambda b: dataclasses.replace(b, device="car-2"), "car-1"),
        (lambda b: dataclasses.replace(b, tenant="bank"), "fund"),
        (lambda b: dataclasses.replace(b, origin="log.example/x"), "of log"),
        (lambda b: dataclasses.replace(b, note=b.note[:-5]), "checkpoint"),
        (lambda b: dataclasses.replace(b, note=b.note.replace(b"\n18\n", b"\n17\n")), "checkpoint"),
        (
            lambda b: dataclasses.replace(b, statements=(dataclasses.replace(b.statements[0], index=3),)),
            "statement",
        ),
        (
            lambda b: dataclasses.replace(b, statements=(dataclasses.replace(b.statements[0], data=b"x"),)),
            "statement",
        ),
        (
            lambda b: dataclasses.replace(
                b, statements=(dataclasses.replace(b.statements[0], data=b.statements[1].data),)
            ),
            "not the log's entry",
        ),
    ]
    for change, why in cases:
        fails(changed(world.whole, change), world.trust, why)


def test_an_incident_s_bundle_without_its_opening_event_fails(world: World) -> None:
    run = world.car.sealed[0].segment.run
    fails(
        changed(world.incident, lambda b: dataclasses.replace(b, incident=(run, 0))),
        world.trust,
        "opened the incident",
    )
    keep = lambda b: dataclasses.replace(b, segments=b.segments[:3])  # noqa: E731
    fails(changed(world.incident, keep), world.trust, "opened the incident")


def test_the_bundle_s_own_keys_cannot_replace_the_auditor_s(world: World, tmp_path: Path) -> None:
    rogue = make_kit(tmp_path / "rogue")
    car = rogue.device("car-1")
    with rogue.collector() as (store, _, intake):
        intake.process(car.messages(3))
        path = bundles.export_device(store, TENANT, "car-1", tmp_path / "rogue.hfb")
    assert verify(path.read_bytes(), None).ok  # consistent in itself: that is why --trust is asked for
    fails(path.read_bytes(), world.trust, "checkpoint")

    def resign(bundle: Bundle) -> Bundle:
        log = load_keys(world.kit.config).log
        return dataclasses.replace(
            bundle, note=sign_checkpoint(Checkpoint(bundle.origin, 3, b"\x00" * 32), log)
        )

    fails(changed(path, resign), world.trust, "event certificate")


def test_a_fork_in_a_device_s_chain_fails(world: World, tmp_path: Path) -> None:
    kit = make_kit(tmp_path / "lab")
    car, clone = kit.device("car-1"), kit.device("car-1")
    clone.wall_ms += 7
    with kit.collector() as (store, _, intake):
        intake.process([*car.messages(2), *clone.messages(2)])
        path = bundles.export_device(store, TENANT, "car-1", tmp_path / "b.hfb")
    fails(path.read_bytes(), kit.trust, "two devices use this identity")


def test_a_missing_previous_run_is_not_complete(world: World) -> None:
    run = world.car.sealed[-1].segment.run
    only = lambda b: dataclasses.replace(b, segments=tuple(s for s in b.segments if s.run == run))  # noqa: E731
    report = verify(changed(world.whole, only), world.trust)
    assert report.ok and not report.complete


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # of a certificate whose bytes were changed
@given(at=st.integers(0, 1 << 30), flip=st.integers(1, 255))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_changed_byte_passes(at: int, flip: int, world: World) -> None:
    data = bytearray(world.whole.read_bytes())
    data[at % len(data)] ^= flip
    assert refused(bytes(data), world.trust)


def refused(data: bytes, trust: Trust) -> bool:
    try:
        return not verify(data, trust).ok
    except BundleError:
        return True


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_no_changed_byte_of_a_short_bundle_passes_at_any_offset(world: World) -> None:
    """Also of the event certificate and of the bundle's own keys, where a reader may stumble otherwise."""
    bundle = bd.decode(world.whole.read_bytes())
    good = bd.encode(dataclasses.replace(bundle, segments=bundle.segments[:1], statements=()))
    assert verify(good, world.trust).ok
    for at in range(len(good)):
        spoilt = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        assert refused(spoilt, world.trust), at
        try:
            verify(spoilt, None)  # its own keys may fit what was changed in them: it must not crash
        except BundleError as error:
            assert str(error), at


def test_the_bundle_s_own_keys_must_be_the_auditor_s(world: World, tmp_path: Path) -> None:
    rogue = make_kit(tmp_path / "rogue").trust
    assert rogue.device_ca is not None
    ca = rogue.device_ca.public_bytes(Encoding.DER)
    (point,) = (
        key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint) for key in rogue.ledger_keys.values()
    )
    own = bd.decode(world.whole.read_bytes()).claimed.ledger_keys
    cases: list[tuple[dict[str, Any], str]] = [
        ({"log_key": rogue.log_key}, "its log key"),
        ({"log_key": b""}, "its log key"),
        ({"device_ca": ca}, "its device CA"),
        ({"device_ca": b"rubbish"}, "its device CA"),
        ({"ledger_keys": (point,)}, "its ledger keys"),
        ({"ledger_keys": (*own, point)}, "its ledger keys"),
        ({"ledger_keys": own * 2}, "its ledger keys"),
        ({"ledger_keys": (b"rubbish",)}, "its ledger keys"),
        ({"ledger_keys": ()}, "its ledger keys"),
    ]
    for keys, why in cases:
        data = changed(
            world.whole,
            lambda b, keys=keys: dataclasses.replace(b, claimed=dataclasses.replace(b.claimed, **keys)),  # type: ignore[misc]
        )
        report = verify(data, world.trust)
        (sentence,) = report.failures
        assert why in sentence and "differs from the trust file" in sentence
        assert report.checked and not report.foreign and not report.complete
        path = tmp_path / "b.hfb"
        path.write_bytes(data)
        result = CliRunner().invoke(command_app, [str(path), "--trust", str(world.kit.lab.trust)])
        assert result.exit_code == 40 and sentence in result.stdout


def test_own_keys_that_cannot_be_read_are_named(world: World) -> None:
    value = cbor.decode(world.whole.read_bytes(), max_bytes=bd.MAX_BUNDLE_BYTES)
    assert isinstance(value, dict)
    for keys in (None, [], b"x", [b"", b""]):
        with pytest.raises(BundleError, match="own copy of the keys"):
            verify(cbor.encode({**value, 10: keys}), world.trust)  # type: ignore[dict-item]


def test_a_trust_file_with_an_older_ledger_key_too_or_with_none(world: World, tmp_path: Path) -> None:
    rogue, data = make_kit(tmp_path / "rogue").trust, world.whole.read_bytes()
    both = dataclasses.replace(world.trust, ledger_keys={**rogue.ledger_keys, **world.trust.ledger_keys})
    assert verify(data, both).ok
    report = verify(data, dataclasses.replace(world.trust, ledger_keys={}))
    assert report.ok
    assert any("names none to compare them with" in sentence for sentence in report.unproven)


def test_a_wrong_trust_file_is_what_the_report_says_first(world: World, tmp_path: Path) -> None:
    rogue = make_kit(tmp_path / "rogue")
    data = world.whole.read_bytes()
    elsewhere = dataclasses.replace(rogue.trust, origin="log.example/elsewhere")
    for trust in (rogue.trust, elsewhere):
        report = verify(data, trust)
        assert report.foreign and not report.checked and report.failures[0] == FOREIGN
        assert (report.segments, report.statements) == (11, 2)
        first, *_, last = text(report).splitlines()
        assert first == last and first.startswith(FOREIGN) and "VERIFICATION FAILED" in first
        assert "11 segments and 2 statements" in text(report)
        assert "None of that was checked" in text(report)
        assert " 0 " not in text(report)
    forged = changed(
        world.whole,  # the auditor's log key is public: naming it does not make the signature
        lambda b: dataclasses.replace(
            b, note=sign_checkpoint(Checkpoint(b.origin, 18, b"\x00" * 32), load_keys(rogue.config).log)
        ),
    )
    assert verify(forged, world.trust).foreign
    spoilt = changed(world.whole, lambda b: dataclasses.replace(b, note=b.note.replace(b"\n18\n", b"\n17\n")))
    assert not verify(spoilt, world.trust).foreign
    other = changed(world.whole, lambda b: dataclasses.replace(b, origin="log.example/x"))
    assert not verify(other, world.trust).foreign
    result = command(str(world.whole), "--trust", str(rogue.lab.trust))
    assert result.returncode == 40 and result.stdout.startswith(FOREIGN)


def test_title_statements_do_not_prove_that_organisations_acted(world: World) -> None:
    says = "that lender, guarantor or registry acted: the collector wrote their names"
    report = verify(world.whole.read_bytes(), world.trust)
    assert any(sentence.startswith(says) for sentence in report.unproven)
    assert f"Not proven: {says}" in text(report)
    for kept in (lambda b: (), lambda b: b.statements[:1]):  # none, and a binding alone
        bare = changed(world.whole, lambda b, kept=kept: dataclasses.replace(b, statements=kept(b)))  # type: ignore[misc]
        assert not any(sentence.startswith(says) for sentence in verify(bare, world.trust).unproven)


def test_the_screen_has_the_verdict_at_both_ends_and_one_order_of_time() -> None:
    def line(at: str | None, sentence: str) -> IncidentLine:
        return IncidentLine("00", 1, 7, "opened", "moved_without_wheels", sentence, at)

    report = Report(checked=True, trusted=True)
    report.incidents = [line("2026-12-01T00:00:03.000Z", "third"), line(None, "last \x1b[31m")]
    report.incidents.append(line("2026-12-01T00:00:01.000Z", "first"))
    report.titles = [
        "2026-12-01T00:00:04.000Z title: fourth",
        "2026-12-01T00:00:02.000Z title: second",
        "time unknown title: of no time",
    ]
    shown = text(report).splitlines()
    assert shown[0] == shown[-1] == "Verified under the keys of the trust file."
    told = [word for row in shown for word in row.split() if word in TOLD]
    assert told == list(TOLD)
    assert "\x1b" not in text(report), "a device must not steer the terminal"
    report.fail("something")
    shown = text(report).splitlines()
    assert shown[0] == shown[-1] == "VERIFICATION FAILED: do not rely on this bundle."
    assert "FAILED: something" in shown


TOLD = ("first", "second", "third", "fourth", "last")


@given(st.binary(max_size=200))
def test_garbage_is_a_bundle_error_and_nothing_else(data: bytes) -> None:
    with pytest.raises(BundleError):
        verify(data, None)


def test_truncated_and_continued_bundles_are_refused(world: World) -> None:
    data = world.incident.read_bytes()
    for cut in range(0, len(data), 97):
        with pytest.raises(BundleError):
            verify(data[:cut], world.trust)
    with pytest.raises(BundleError):
        verify(data + b"\x00", world.trust)


@pytest.mark.parametrize(
    "change",
    [
        {0: 3},
        {0: 1},
        {0: True},
        {1: "town"},
        {7: [b"r" * 16, 1]},
        {8: [[1]]},
        {9: [7]},
        {6: [1]},
        {10: []},
        {11: 0},
        {11: [[1]]},
        {11: [[b"note", [1]]]},
        {12: [1]},
        {13: 0},
        {8: None},
    ],
)
def test_sections_of_another_form_are_refused(world: World, change: dict[int, cbor.Value]) -> None:
    value = cbor.decode(world.whole.read_bytes(), max_bytes=bd.MAX_BUNDLE_BYTES)
    assert isinstance(value, dict)
    with pytest.raises(BundleError):
        bd.decode(cbor.encode({**value, **change}))


def test_what_is_not_there_cannot_be_exported(world: World, tmp_path: Path) -> None:
    store = world.kit.config.store
    out = tmp_path / "x.hfb"
    with pytest.raises(NotFound):
        bundles.export_device(store, TENANT, "car-9", out)
    with pytest.raises(NotFound):
        bundles.export_device(store, "bank", "car-1", out)
    with pytest.raises(NotFound):
        bundles.export(store, TENANT, IncidentRef("car-1", world.car.run, 999), out)
    with pytest.raises(BundleError):
        bundles.export_incident(store, TENANT, {"device": "car-1"}, out)
    with pytest.raises(BundleError, match="cannot write"):
        bundles.export_device(store, TENANT, "car-1", tmp_path / "none" / "x.hfb")
    with pytest.raises(NotFound):
        bundles.export_device(tmp_path / "collector.toml", TENANT, "car-1", out)
    assert not out.exists()


def test_a_long_run_is_cut_around_its_incident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "INCIDENT_SEGMENTS", 10)
    kit = make_kit(tmp_path / "lab")
    car = kit.device("car-1")
    with kit.collector() as (store, _, intake):
        messages = car.messages(30, events=1)
        messages.append(car.message(car.seal([car.incident()])))
        messages += car.messages(30, events=1)
        lost = messages.pop(28)
        intake.process(messages)
        row = queries.incidents(store, TENANT)[0]
        path = bundles.export_incident(store, TENANT, row, tmp_path / "b.hfb")
        report = verify(path.read_bytes(), kit.trust)
        assert report.ok and (report.runs[0].first, report.runs[0].last) == (29, 38)
        intake.process([lost])
        bundles.export_incident(store, TENANT, row, path)
        report = verify(path.read_bytes(), kit.trust)
        assert report.ok and (report.runs[0].first, report.runs[0].last) == (25, 34)
        assert any("before its first segment" in sentence for sentence in report.unproven)


# The command.


def command(*args: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "cloud_sync.evidence", *args]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_exit_codes_of_the_command(world: World, tmp_path: Path) -> None:
    trust, whole = str(world.kit.lab.trust), str(world.whole)
    good = command(whole, "--trust", trust, "--json")
    report = json.loads(good.stdout)
    assert good.returncode == 0 and report["ok"] and report["complete"] and report["trusted"]
    assert report["events"] == sum(len(sealed.segment.events) for sealed in world.car.sealed)
    bare = command(whole)
    assert bare.returncode == 0 and "NOT TRUSTED" in bare.stdout
    broken = tmp_path / "broken.hfb"
    broken.write_bytes(changed(world.whole, lambda b: dataclasses.replace(b, segments=b.segments[2:])))
    failed = command(str(broken), "--trust", trust, "--json")
    assert failed.returncode == 0 and not json.loads(failed.stdout)["complete"]
    broken.write_bytes(changed(world.whole, lambda b: dataclasses.replace(b, certificates=())))
    failed = command(str(broken), "--trust", trust)
    assert failed.returncode == 40 and "VERIFICATION FAILED" in failed.stdout
    broken.write_bytes(b"rubbish")
    failed = command(str(broken), "--trust", trust, "--json")
    assert failed.returncode == 40 and json.loads(failed.stdout)["ok"] is False
    assert command(str(tmp_path / "none.hfb")).returncode == 2
    assert command(whole, "--trust", whole).returncode == 2
    assert command().returncode == 2


def test_the_verifier_loads_neither_store_nor_collector_nor_network(world: World) -> None:
    code = (
        "import sys\n"
        "from cloud_sync.evidence.__main__ import verify\n"
        "try:\n"
        "    verify([sys.argv[1], '--trust', sys.argv[2]])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        "bad = [m for m in sys.modules if '.runtime' in m and m.split('.')[0] in\n"
        "       ('cloud_sync', 'edge', 'models', 'provisioning', 'firmware_bridge')]\n"
        "never = ('cloud_sync.collector', 'cloud_sync.log', 'sqlite3', 'paho', 'amqtt')\n"
        "bad += [m for m in never if m in sys.modules]\n"
        "assert not bad, bad\n"
    )
    argv = [sys.executable, "-c", code, str(world.whole), str(world.kit.lab.trust)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Verified under the keys of the trust file. Complete." in done.stdout


def test_report_of_nothing_is_not_complete() -> None:
    assert not Report().complete
