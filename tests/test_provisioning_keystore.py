"""Where keys lie: the ladder of places, pairs that readers get whole, and keys sealed by systemd-creds."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from provisioning import ca
from provisioning.ca import Purpose
from provisioning.enrolment import Exit, Wanted
from provisioning.errors import EnrolError
from provisioning.runtime import keystore
from provisioning.runtime.asked import Host
from provisioning.runtime.enrol import enrol
from provisioning.runtime.journal import Files
from provisioning.runtime.keystore import Keystore, load, pair, public
from provisioning.runtime.renew import renew
from tests.ca_kit import World, serving
from tests.enrol_kit import Node, no_sleep


@pytest.fixture
def store(tmp_path: Path) -> Keystore:
    (tmp_path / "state").mkdir(mode=0o700)
    return Keystore(tmp_path / "state", Files(tmp_path / "state"))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    world = World(tmp_path)
    with serving(world) as server:
        yield Node(tmp_path / "node", world, server.port)
    world.register.close()


def test_a_key_is_made_once(store: Keystore) -> None:
    assert store.ensure_key(Purpose.TLS) and not store.ensure_key(Purpose.TLS)
    first = load("tls.key", store.keys)
    assert not store.ensure_key(Purpose.TLS) and load("tls.key", store.keys) == first
    assert (store.keys / "tls.key").stat().st_mode & 0o777 == 0o600
    assert not store.has_key(Purpose.EVENT)


def test_a_credential_goes_before_the_file(store: Keystore, tmp_path: Path) -> None:
    store.ensure_key(Purpose.TLS)
    given = tmp_path / "credentials"
    given.mkdir()
    environment = {"CREDENTIALS_DIRECTORY": str(given)}
    assert load("tls.key", store.keys, environment) == (store.keys / "tls.key").read_bytes()
    (given / "holdfast-tls.key").write_bytes(b"given")
    assert load("tls.key", store.keys, environment) == b"given"
    with pytest.raises(FileNotFoundError):
        load("event.key", store.keys, environment)


def test_a_credential_that_a_renewal_has_overtaken(store: Keystore, tmp_path: Path) -> None:
    """The service's credential is of its start; where a whole pair lies in keys/, that one is current."""
    given = tmp_path / "credentials"
    given.mkdir()
    environment = {"CREDENTIALS_DIRECTORY": str(given)}
    store.ensure_key(Purpose.TLS)
    (given / "holdfast-tls.key").write_bytes(b"old")
    assert pair(Purpose.TLS, store.keys, environment)[0] == given / "holdfast-tls.key"
    store.put_certificate(Purpose.TLS, b"certificate")
    assert pair(Purpose.TLS, store.keys, environment)[0].read_bytes() == load("tls.key", store.keys, {})
    (given / "holdfast-tls.crt").write_bytes(b"old too")
    assert pair(Purpose.TLS, store.keys, environment) == (
        given / "holdfast-tls.key", given / "holdfast-tls.crt",
    )  # fmt: skip


def test_no_key_no_answer(store: Keystore) -> None:
    with pytest.raises(EnrolError, match="enrol this node"):
        store.key(Purpose.TLS)


@pytest.mark.parametrize(
    "data", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_damaged_key_is_told_by_name(store: Keystore, data: bytes) -> None:
    store.ensure_key(Purpose.EVENT)
    (store.keys / "event.key").write_bytes(data)
    with pytest.raises(EnrolError, match=r"event\.key") as caught:
        store.key(Purpose.EVENT)
    assert caught.value.exit_code == Exit.UNVERIFIED
    assert not store.ensure_key(Purpose.EVENT)  # never replaced, not even then


def test_modes_are_looked_at(store: Keystore) -> None:
    store.ensure_key(Purpose.EVENT)
    assert store.problems() == []
    (store.keys / "pairs").chmod(0o755)
    (store.keys / "event.key").chmod(0o640)
    assert len(store.problems()) == 2 and all("chmod" in said for said in store.problems())


def test_a_reader_always_gets_a_whole_pair(store: Keystore) -> None:
    """Read without pause while pairs are exchanged; a reader that opened one file by each name would fail."""
    files, keys = store.files, store.keys
    for number in range(1, 4):
        files.folder(keys / "pairs" / "tls" / f"{number}")
        for ending in ("key", "crt"):
            files.put(keys / "pairs" / "tls" / f"{number}" / f"tls.{ending}", b"%d" % number)
    for ending in ("key", "crt"):
        files.point(keys / f"tls.{ending}", f"tls/tls.{ending}")
    files.point(keys / "tls", "pairs/tls/1")
    stop = threading.Event()

    def exchange() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            files.point(keys / "tls", f"pairs/tls/{turn % 3 + 1}")

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        seen, reads = set[bytes](), 0
        while reads < 2000 or len(seen) < 3:
            reads += 1
            key, crt = pair(Purpose.TLS, keys, {})
            assert key.read_bytes() == crt.read_bytes()
            seen.add(key.read_bytes())
    finally:
        stop.set()
        thread.join()
    assert seen == {b"1", b"2", b"3"}


def _creds_work() -> bool:
    if os.geteuid() != 0 or shutil.which("systemd-creds") is None:
        return False
    done = subprocess.run(
        ["systemd-creds", "--name=probe", "encrypt", "-", "-"], input=b"x", capture_output=True, check=False
    )
    return done.returncode == 0


@pytest.mark.skipif(not _creds_work(), reason="systemd-creds cannot encrypt here")
def test_keys_are_sealed_and_renewed_sealed(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "credstore"
    wanted = Wanted("car-1", server=f"https://localhost:{node.port}", credentials=str(folder))
    host = Host(now=node.world.clock, sleep=no_sleep)
    assert enrol(node.ask(code=node.code(), wanted=wanted), host).exit_code == 0
    assert not any(path.is_file() for path in node.keys.rglob("*.key"))
    sealed = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(sealed) == {"holdfast-tls.key", "holdfast-event.key"}
    assert all(b"PRIVATE" not in data for data in sealed.values())
    assert enrol(node.ask(), host).exit_code == 0
    given = tmp_path / "credentials"  # what systemd hands to a service that was started now
    given.mkdir()
    for name in sealed:
        opened = subprocess.run(
            ["systemd-creds", f"--name={name}", "decrypt", str(folder / name), "-"],
            capture_output=True, check=True,
        )  # fmt: skip
        (given / name).write_bytes(opened.stdout)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
    told: list[bool] = []

    def reload(sealed: bool) -> tuple[bool, str]:
        told.append(sealed)
        return True, "told"

    assert "renewed" in renew(node.state, host, force=True, reload=reload).text
    assert told == [True]
    assert not any(path.is_file() for path in (node.keys / "tls").rglob("*.key"))
    assert all((folder / name).read_bytes() != data for name, data in sealed.items())
    store = Keystore(node.state, Files(node.state), str(folder))
    certificate = load_pem_x509_certificate((node.keys / "event.crt").read_bytes())
    assert store.key(Purpose.EVENT).public_key() == certificate.public_key()
    with store.tls_pair() as (key, crt):
        found = load_pem_private_key(key.read_bytes(), None)
        assert load_pem_x509_certificate(crt.read_bytes()).public_key() == found.public_key()


def test_without_systemd_creds_it_is_said(
    store: Keystore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.ensure_key(Purpose.TLS)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EnrolError, match="systemd-creds is not on this host"):
        store.seal(tmp_path / "sealed")
    assert store.key(Purpose.TLS)


def test_a_tool_that_seals_badly_costs_no_key(
    store: Keystore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.ensure_key(Purpose.TLS)
    key = load("tls.key", store.keys)
    tool = tmp_path / "bin" / "systemd-creds"
    tool.parent.mkdir()
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    for script, exit_code in (("echo no TPM >&2; exit 1", Exit.FAILURE), ("echo other", Exit.UNVERIFIED)):
        tool.write_text(f"#!/bin/sh\ncat > /dev/null\n{script}\n")
        tool.chmod(0o755)
        with pytest.raises(EnrolError) as caught:
            store.seal(tmp_path / "sealed")
        assert caught.value.exit_code == exit_code and load("tls.key", store.keys) == key


def test_a_foreign_kind_of_key_is_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key

    with pytest.raises(EnrolError, match="P-256"):
        keystore.parse_key(keystore.key_pem(generate_private_key(SECP384R1())), "tls.key")
    assert keystore.parse_key(keystore.key_pem(ca.new_key()), "tls.key")


@pytest.mark.parametrize("damage", [b"", b"rubbish", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_damaged_certificate_costs_no_key_and_is_asked_for_again(
    node: Node, purpose: Purpose, damage: bytes
) -> None:
    code = node.code()
    node.enrol(code)
    path = node.keys / f"{purpose.value}.crt"
    whole, key = path.read_bytes(), load(f"{purpose.value}.key", node.keys)
    path.resolve().write_bytes(damage)
    store = Keystore(node.state, Files(node.state))
    assert store.key(purpose)
    with pytest.raises(EnrolError) as caught:
        store.certificates(path.name)
    assert "holds no certificate in PEM" in caught.value.detail
    assert f"move {path} away and run: holdfast provision" in caught.value.remedy
    assert node.enrol(code).exit_code == 0
    assert path.read_bytes() != damage and load(f"{purpose.value}.key", node.keys) == key
    assert (node.state / "certs" / path.name).read_bytes() == path.read_bytes()
    assert path.read_bytes().count(b"BEGIN") == whole.count(b"BEGIN")


def test_a_certificate_beside_a_sealed_key_that_is_damaged_hides_no_key(
    store: Keystore, tmp_path: Path
) -> None:
    store.ensure_key(Purpose.EVENT)
    (tmp_path / "sealed").mkdir()
    (tmp_path / "sealed" / "holdfast-event.key").write_bytes(b"of an earlier key")
    (store.keys / "event.crt").resolve().write_bytes(b"rubbish")
    sealed = Keystore(store.state, store.files, str(tmp_path / "sealed"))
    assert sealed.key(Purpose.EVENT).public_key() == store.key(Purpose.EVENT).public_key()


def test_public_copies_follow_what_is_in_force_and_hold_no_key(node: Node) -> None:
    node.enrol()
    certs = node.state / "certs"

    def same() -> bool:
        return all((certs / name).read_bytes() == (node.keys / name).read_bytes() for name in names)

    names = {"tls.crt", "event.crt", "ca.crt"}
    assert {path.name for path in certs.iterdir()} == names and same()
    before = public("event.crt", node.state)
    host = Host(now=node.world.clock, sleep=no_sleep)
    renew(node.state, host, force=True, reload=lambda _: (True, "told"))
    assert {path.name for path in certs.iterdir()} == names and same()
    assert before != public("event.crt", node.state) == (certs / "event.crt").read_bytes()
    shutil.rmtree(certs)  # a node of an earlier release
    assert public("event.crt", node.state) == (node.keys / "event.crt").read_bytes()
    renew(node.state, host, reload=lambda _: (True, "told"))
    assert same()


def test_a_folder_with_links_in_it_is_no_whole_node(node: Node) -> None:
    node.enrol()
    store = Keystore(node.state, Files(node.state))
    assert store.problems() == []
    (node.keys / "old").symlink_to("/root")
    (problem,) = store.problems()
    assert "keys/old is a link to /root" in problem and "remove it" in problem
