"""The authority's folder: made whole or finished later, opened only when every file is the right one."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from cloud_sync.runtime.collector_files import load_config, load_keys
from cloud_sync.runtime.devices import load_devices
from provisioning import ca
from provisioning.ca import Authority, Purpose, Validity
from provisioning.errors import CaError, IdentityError
from provisioning.identity import Identity
from provisioning.runtime import ca_admin, ca_files, ca_keys, ca_parties
from provisioning.runtime.ca_config import CaConfig
from provisioning.runtime.ca_db import Issued, Register
from provisioning.runtime.ca_keys import key_pem, pem, read_certificate, write_file
from tests.ca_kit import CAR, CONFIG, World

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
FILES = {
    "ca.toml", "offline/root.key", "offline/root.crt", "root.crt", "tls.key", "tls.crt", "event.key",
    "event.crt", "est/tls.key", "est/tls.crt",
}  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ca_files.init(tmp_path / "ca", CONFIG, NOW)
    return tmp_path / "ca"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.register.close()


# --- making it ---------------------------------------------------------------------------------------


def test_the_folder_is_whole_and_its_keys_are_private(folder: Path) -> None:
    assert set(files(folder)) == FILES
    for path in (folder, *folder.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o644 if path.suffix == ".crt" else 0o600), path
    opened = ca_files.load(folder)
    assert opened.tenant == "fund"
    for purpose in Purpose:
        opened.authority(purpose).certificate.verify_directly_issued_by(opened.root)


def test_a_second_run_changes_nothing(folder: Path) -> None:
    before, said = files(folder), list[str]()
    ca_files.init(folder, CONFIG, NOW + timedelta(days=1), step=said.append)
    assert (files(folder), said) == (before, [])


def in_a_child(work: Callable[[], None]) -> int:
    """The wait status of a process that does `work`."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.crash
@pytest.mark.parametrize("before", [True, False])
def test_killed_at_any_file_the_next_run_finishes(tmp_path: Path, before: bool) -> None:
    """SIGKILL before or after each of the moments at which a file gets its name."""
    killed = 0
    for moment in range(20):
        folder = tmp_path / f"{moment}"

        def cut_off(folder: Path = folder, moment: int = moment) -> None:
            calls = 0

            def deadly(real: Callable[..., None]) -> Callable[..., None]:
                def call(*args: object, **options: object) -> None:
                    nonlocal calls
                    if before and calls == moment:
                        os.kill(os.getpid(), signal.SIGKILL)
                    real(*args, **options)
                    if calls == moment:
                        os.kill(os.getpid(), signal.SIGKILL)
                    calls += 1

                return call

            os.link = deadly(os.link)
            Path.replace = deadly(Path.replace)  # type: ignore[method-assign, assignment]
            ca_files.init(folder, CONFIG, NOW)

        status = in_a_child(cut_off)
        if not os.WIFSIGNALED(status):
            break
        killed += 1
        kept = {name: data for name, data in files(folder).items() if name in FILES}
        ca_files.init(folder, CONFIG, NOW)
        after = files(folder)
        assert set(after) == FILES
        assert {name: after[name] for name in kept} == kept
    assert killed == len(FILES)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the key and its certificate: the key is kept, and certified by the next run."""
    folder, real, left = tmp_path / "ca", os.fsync, [9]

    def full(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(ca_keys.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            ca_files.init(folder, CONFIG, NOW)
    kept = files(folder)
    assert set(kept) < FILES
    assert "tls.key" in kept
    assert "tls.crt" not in kept
    ca_files.init(folder, CONFIG, NOW)
    assert {name: data for name, data in files(folder).items() if name in kept} == kept


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("x")
    with pytest.raises(CaError, match=r"not empty, it holds holiday\.jpg: choose an empty folder"):
        ca_files.init(tmp_path, CONFIG, NOW)
    assert set(files(tmp_path)) == {"holiday.jpg"}


def test_another_tenants_folder_is_refused(folder: Path) -> None:
    with pytest.raises(CaError, match="authority of tenant fund, not of bank"):
        ca_files.init(folder, CaConfig("bank", ("localhost",)), NOW)


@pytest.mark.parametrize("tenant", ["cloud", "a/b", "+", "", "Fund"])
def test_no_authority_for_names_that_cannot_be(tmp_path: Path, tenant: str) -> None:
    with pytest.raises(IdentityError):
        ca_files.init(tmp_path / "ca", CaConfig(tenant, ("localhost",)), NOW)
    assert not (tmp_path / "ca").exists()


@pytest.mark.parametrize("gone", ["root.crt", "tls.key", "event.key"])
def test_half_a_folder_is_named_and_never_filled_with_new_keys(folder: Path, gone: str) -> None:
    (folder / gone).unlink()
    shutil.rmtree(folder / "offline")
    before = files(folder)
    with pytest.raises(CaError, match=f"half a folder: .* and {gone} is not"):
        ca_files.init(folder, CONFIG, NOW)
    assert files(folder) == before


def test_without_the_roots_key_what_is_missing_is_said(folder: Path) -> None:
    (folder / "event.crt").unlink()
    shutil.rmtree(folder / "offline")
    with pytest.raises(CaError, match=r"bring .*root\.key back"):
        ca_files.init(folder, CONFIG, NOW)


def test_the_roots_key_may_have_a_passphrase(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    ca_files.init(folder, CONFIG, NOW, b"correct horse")
    assert b"ENCRYPTED" in (folder / "offline" / "root.key").read_bytes()
    later = NOW + timedelta(days=900)
    for wrong in (b"", b"battery staple"):
        with pytest.raises(CaError, match="its passphrase is another"):
            ca_files.renew_issuing(folder, later, wrong)
    ca_files.renew_issuing(folder, later, b"correct horse")


def test_the_offline_folder_is_needed_for_nothing_else(folder: Path) -> None:
    shutil.rmtree(folder / "offline")
    assert ca_files.load(folder).tenant == "fund"
    ca_files.init(folder, CONFIG, NOW)


# --- files that were swapped -------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path: Path) -> Path:
    ca_files.init(tmp_path / "other", CONFIG, NOW)
    return tmp_path / "other"


@pytest.mark.parametrize("name", ["root.crt", "tls.crt", "tls.key", "event.crt", "event.key"])
def test_another_authoritys_file_is_found_out(folder: Path, other: Path, name: str) -> None:
    shutil.copy(other / name, folder / name)
    with pytest.raises(CaError, match="swapped"):
        ca_files.load(folder)


def test_the_two_issuing_authorities_are_not_taken_for_each_other(folder: Path) -> None:
    for suffix in ("key", "crt"):
        one, two = folder / f"tls.{suffix}", folder / f"event.{suffix}"
        data = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(data)
    with pytest.raises(CaError, match="no authority for tls certificates"):
        ca_files.load(folder)


def test_a_leaf_in_the_place_of_an_authority_is_found_out(folder: Path) -> None:
    shutil.copy(folder / "est" / "tls.crt", folder / "root.crt")
    with pytest.raises(CaError, match="no root: it was swapped"):
        ca_files.load(folder)


@pytest.mark.parametrize("name", ["root.crt", "tls.key", "event.crt"])
def test_missing_and_damaged_files_are_named(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).unlink()
    with pytest.raises(CaError, match=f"{name} is missing: restore it"):
        ca_files.load(folder)
    for damaged in (b"", data[:80], b"x" * 70_000):
        (folder / name).write_bytes(damaged)
        (folder / name).chmod(0o600)
        with pytest.raises(CaError, match=name):
            ca_files.load(folder)


def test_a_key_that_others_can_read_is_refused(folder: Path) -> None:
    (folder / "tls.key").chmod(0o640)
    with pytest.raises(CaError, match=r"can be read by others: chmod 600"):
        ca_files.load(folder)


def test_a_folder_without_an_authority_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(CaError, match="holdfast ca init"):
        ca_files.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('tenant = "fund"', 'tenant = "a/b"'), "lower-case"),
        (("days = 90", "days = 0"), "days is a whole number, 1 to 398"),
        (("days = 90", "day = 90"), r"\[ca\] has no day"),
        (("[est]", "[ets]"), r"\[ets\] is not known"),
        (('hosts = ["localhost"]', "hosts = []"), "hosts is a list"),
        (('host = "broker.example"', "host = 5"), "host is a text"),
        (("[ca]", "[ca"), "ca.toml"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_named(
    folder: Path, change: tuple[str, str], says: str
) -> None:
    path = folder / "ca.toml"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(CaError, match=says):
        ca_files.load(folder)


# --- time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", [1970, 2099])
def test_nothing_is_issued_under_a_wrong_clock(folder: Path, year: int) -> None:
    opened = ca_files.load(folder)
    with pytest.raises(CaError, match=f"the clock of the enrolment server says {year}"):
        ca_files.leaf_validity(opened.tls, datetime(year, 1, 1, tzinfo=UTC), 90)


def test_no_certificate_outlives_its_issuer(folder: Path) -> None:
    opened = ca_files.load(folder)
    end = opened.tls.certificate.not_valid_after_utc
    assert ca_files.leaf_validity(opened.tls, end - timedelta(days=5), 90).not_after == end
    assert ca_files.leaf_validity(opened.tls, NOW, 90) == Validity(
        NOW - ca_files.SKEW, NOW + timedelta(days=90)
    )


def test_renewed_issuing_certificates_still_vouch_for_all_they_issued(folder: Path) -> None:
    opened, public = ca_files.load(folder), ca.new_key().public_key()
    event = ca.issue_event(opened.event, public, CAR, ca_files.leaf_validity(opened.event, NOW, 90))
    renewed = ca_files.renew_issuing(folder, NOW + timedelta(days=1700))
    old, new = opened.event.certificate, renewed.event.certificate
    assert new.not_valid_after_utc - old.not_valid_after_utc == timedelta(days=1700)
    assert (new.public_key(), new.not_valid_before_utc) == (old.public_key(), old.not_valid_before_utc)
    assert ca.verify_event_certificate(event, new, NOW) == CAR
    before = files(folder)
    ca_files.renew_issuing(folder, NOW + timedelta(days=1700))
    assert files(folder) == before


def test_a_root_key_of_another_authority_renews_nothing(folder: Path, other: Path) -> None:
    shutil.copy(other / "offline" / "root.key", folder / "offline" / "root.key")
    before = files(folder)
    with pytest.raises(CaError, match=r"is not the key of .*root\.crt"):
        ca_files.renew_issuing(folder, NOW + timedelta(days=1700))
    assert files(folder) == before


# --- files themselves --------------------------------------------------------------------------------


def test_a_file_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "a" / "key"
    assert write_file(path, b"one")
    assert not write_file(path, b"two")
    assert path.read_bytes() == b"one"
    assert write_file(path, b"two", replace=True)
    assert (path.read_bytes(), os.listdir(path.parent)) == (b"two", ["key"])


def test_what_a_killed_run_left_is_swept_and_a_running_ones_is_not(tmp_path: Path) -> None:
    dead = in_a_child_pid()
    for owner in (dead, os.getpid(), "x"):
        (tmp_path / f".tls.key.{owner}.tmp").write_text("half a key")
    ca_keys.sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([f".tls.key.{os.getpid()}.tmp", ".tls.key.x.tmp"])


def in_a_child_pid() -> int:
    """The id of a process that has ended."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


# --- collector and broker ----------------------------------------------------------------------------


def test_the_collector_finds_its_folder_in_order(world: World) -> None:
    config = load_config(world.collector / "collector.toml")
    keys = load_keys(config)
    assert (config.client_id, config.host) == ("fund.collector", "broker.example")
    assert keys.device_ca == world.opened.event.certificate
    assert world.opened.config.collector == str(world.collector)


def test_the_collector_believes_who_enrolled_and_nobody_who_was_revoked(world: World) -> None:
    opened, public = world.opened, ca.new_key().public_key()
    validity = ca_files.leaf_validity(opened.event, world.clock(), 90)
    event = ca.issue_event(opened.event, public, CAR, validity)
    with world.register.transaction():
        world.register.add(issued(event))
    ca_parties.write_devices(world.register, world.collector)
    registry, problems = load_devices(world.collector / "devices", opened.event.certificate)
    assert (registry.knows("fund", "car-1"), problems) == (True, [])
    ca_admin.revoke(opened, world.register, CAR, x509.ReasonFlags.superseded, world.clock())
    registry, problems = load_devices(world.collector / "devices", opened.event.certificate)
    assert (registry.knows("fund", "car-1"), problems) == (False, [])


def issued(certificate: x509.Certificate, identity: Identity = CAR) -> Issued:
    at = certificate.not_valid_before_utc
    return Issued(identity, Purpose.EVENT, os.urandom(32), None, at, certificate, "")


def test_only_so_many_certificates_of_a_device_are_kept_that_the_collector_reads_the_file(
    world: World,
) -> None:
    opened = world.opened
    validity = ca_files.leaf_validity(opened.event, world.clock(), 90)
    longest = Identity("fund", "d" * 63)
    with world.register.transaction():
        for _ in range(ca_parties.MAX_KEPT + 3):
            made = ca.issue_event(opened.event, ca.new_key().public_key(), longest, validity)
            world.register.add(issued(made, longest))
    ca_parties.write_devices(world.register, world.collector)
    registry, problems = load_devices(world.collector / "devices", opened.event.certificate)
    assert (len(registry), problems) == (ca_parties.MAX_KEPT, [])


def test_again_it_keeps_every_key_and_renews_what_is_due(world: World) -> None:
    before = files(world.collector)
    ca_parties.make_collector(world.opened, world.register, world.collector, "log.example", world.clock())
    assert files(world.collector) == before
    world.clock.forward(61)
    ca_parties.make_collector(world.opened, world.register, world.collector, "log.example", world.clock())
    changed = {name for name, data in files(world.collector).items() if before[name] != data}
    assert changed == {"keys/tls.crt"}


def test_a_renewed_issuing_certificate_reaches_the_collector(world: World) -> None:
    ca_files.renew_issuing(world.folder, world.clock() + timedelta(days=1000))
    ca_parties.make_collector(world.opened, world.register, world.collector, "log.example", world.clock())
    assert read_certificate(world.collector / "keys" / "device_ca.crt") == world.opened.event.certificate


def test_another_authoritys_parties_are_refused(world: World, other: Path) -> None:
    register = Register(other / "ca.db")
    try:
        with pytest.raises(CaError, match="another authority"):
            ca_parties.make_collector(ca_files.load(other), register, world.collector, "log.example", NOW)
    finally:
        register.close()
    ca_parties.make_broker(world.opened, world.home / "broker", ("broker.example",), world.clock())
    with pytest.raises(CaError, match="another authority"):
        ca_parties.make_broker(ca_files.load(other), world.home / "broker", ("broker.example",), NOW)


def test_without_the_brokers_address_there_is_no_collector(tmp_path: Path) -> None:
    opened = ca_files.init(tmp_path / "ca", CaConfig("fund", ("localhost",)), NOW)
    register = Register(tmp_path / "ca" / "ca.db")
    try:
        with pytest.raises(CaError, match="--broker-host"):
            ca_parties.make_collector(opened, register, tmp_path / "collector", "log.example", NOW)
    finally:
        register.close()
    assert not (tmp_path / "collector").exists()


def test_the_brokers_certificate_follows_its_names(world: World) -> None:
    folder = world.home / "broker"
    ca_parties.make_broker(world.opened, folder, ("broker.example",), world.clock())
    before = files(folder)
    ca_parties.make_broker(world.opened, folder, ("broker.example",), world.clock())
    assert files(folder) == before
    ca_parties.make_broker(world.opened, folder, ("mqtt.example", "10.0.0.5"), world.clock())
    certificate = read_certificate(folder / "keys" / "tls.crt")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["mqtt.example", "10.0.0.5", "localhost", "127.0.0.1"]
    assert files(folder)["keys/tls.key"] == before["keys/tls.key"]


# --- the register ------------------------------------------------------------------------------------


def test_a_register_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ca.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(CaError, match=r"ca\.db cannot be used"):
        Register(path)
    with pytest.raises(CaError, match="holdfast ca init"):
        Register(tmp_path / "nowhere" / "ca.db")


def test_a_register_of_a_later_release_is_left_alone(tmp_path: Path) -> None:
    register = Register(tmp_path / "ca.db")
    with register.transaction() as db:
        db.execute("PRAGMA user_version = 9")
    register.close()
    with pytest.raises(CaError, match=r"version 9.* use a newer holdfast"):
        Register(tmp_path / "ca.db")


def test_commits_reach_the_disk_before_anybody_is_answered(tmp_path: Path) -> None:
    register = Register(tmp_path / "ca.db")
    with register.transaction() as db:
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert db.execute("PRAGMA synchronous").fetchone()[0] == 2
    register.close()


@pytest.mark.parametrize("other_error", [KeyError("x"), OSError(28, "full")])
def test_a_transaction_that_fails_leaves_nothing(world: World, other_error: Exception) -> None:
    with pytest.raises(type(other_error)), world.register.transaction(), world.register.transaction() as db:
        db.execute("INSERT INTO counter VALUES ('x', 1)")
        raise other_error
    assert world.register.next_number("x") == 1


def test_an_authority_that_the_caller_holds_is_only_an_authority(folder: Path) -> None:
    opened = ca_files.load(folder)
    assert opened.authority(Purpose.TLS) is opened.tls
    assert isinstance(opened.event, Authority)
    assert key_pem(opened.tls.key) == (folder / "tls.key").read_bytes()
    assert pem(opened.root) == (folder / "root.crt").read_bytes()
