"""Renewal against the real server: due at two thirds, exchanged whole, killed everywhere, always a pair."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.x509 import ReasonFlags, load_pem_x509_certificate

from cloud_sync.runtime.devices import load_ca, load_devices
from provisioning.ca import Purpose
from provisioning.enrolment import Exit
from provisioning.errors import EnrolError, Refusal
from provisioning.identity import Identity
from provisioning.runtime import ca_admin, est_client, provision_tool
from provisioning.runtime.asked import Host, Outcome
from provisioning.runtime.renew import reload_services, renew
from tests.ca_kit import CAR, World, serving
from tests.enrol_kit import Node, check_pairs, check_whole, no_sleep, private_keys

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.register.close()


@pytest.fixture
def node(world: World, tmp_path: Path) -> Iterator[Node]:
    with serving(world) as server:
        made = Node(tmp_path / "node", world, server.port)
        made.enrol()
        yield made


def renewal(node: Node, told: list[bool], *, force: bool = False, heard: bool = True) -> Outcome:
    def reload(sealed: bool) -> tuple[bool, str]:
        told.append(sealed)
        return heard, "told"

    return renew(node.state, Host(now=node.world.clock, sleep=no_sleep), force=force, reload=reload)


def test_it_is_due_at_two_thirds_of_the_life(node: Node) -> None:
    before, told = node.snapshot(), list[bool]()
    node.world.clock.forward(59.9)
    outcome = renewal(node, told)
    assert outcome.exit_code == 0 and "not due before" in outcome.text
    assert node.snapshot() == before and told == []
    node.world.clock.forward(0.2)
    outcome = renewal(node, told)
    assert outcome.exit_code == 0 and "renewed" in outcome.text and told == [False]
    assert outcome.until is not None
    assert outcome.until - node.world.clock() == timedelta(days=90)
    check_whole(node.state)


def test_both_keys_are_new_and_the_old_certificate_is_kept_and_still_believed(node: Node) -> None:
    old_keys = {name: (node.keys / name).read_bytes() for name in ("tls.key", "event.key")}
    old_event = (node.keys / "event.crt").read_bytes()
    renewal(node, [], force=True)
    for name, old in old_keys.items():
        assert (node.keys / name).read_bytes() != old
    assert [path.read_bytes() for path in (node.keys / "old").iterdir()] == [old_event]
    registry, problems = load_devices(
        node.world.collector / "devices", load_ca(node.world.collector / "keys" / "device_ca.crt")
    )
    assert problems == []
    assert load_pem_x509_certificate(old_event).not_valid_after_utc > node.world.clock()
    assert len(node.world.device_file().read_text().split("BEGIN")) - 1 == 2
    assert registry is not None


def test_many_renewals_leave_two_pairs(node: Node) -> None:
    for _ in range(4):
        node.world.clock.forward(61)
        assert "renewed" in renewal(node, []).text
    pairs = node.keys / "pairs"
    assert sorted(str(path.relative_to(pairs)) for path in pairs.glob("*/*")) == [
        "event/4", "event/5", "tls/4", "tls/5",
    ]  # fmt: skip
    assert len(list((node.keys / "old").iterdir())) == 4
    check_whole(node.state)


def test_plain_files_become_a_pair(node: Node) -> None:
    for name in ("tls", "event"):
        data = {ending: (node.keys / f"{name}.{ending}").read_bytes() for ending in ("key", "crt")}
        (node.keys / name).unlink()
        for ending, content in data.items():
            (node.keys / f"{name}.{ending}").unlink()
            (node.keys / f"{name}.{ending}").write_bytes(content)
            (node.keys / f"{name}.{ending}").chmod(0o600)
    subprocess.run(["rm", "-r", str(node.keys / "pairs")], check=True)
    renewal(node, [], force=True)
    assert (node.keys / "tls").readlink() == Path("pairs/tls/2")
    check_whole(node.state)


def test_services_that_did_not_hear_are_told_again(node: Node) -> None:
    told: list[bool] = []
    renewal(node, told, force=True, heard=False)
    assert json.loads((node.state / "provision.json").read_text())["reload_due"] is True
    assert "not due" in renewal(node, told).text and len(told) == 2
    assert json.loads((node.state / "provision.json").read_text())["reload_due"] is False
    renewal(node, told)
    assert len(told) == 2


def test_an_expired_certificate_needs_a_new_code(node: Node) -> None:
    node.world.clock.forward(91)
    with pytest.raises(EnrolError, match="a new claim code is needed") as caught:
        renewal(node, [])
    assert caught.value.exit_code == Exit.REFUSED
    assert node.enrol().exit_code == 0
    assert "not due" in renewal(node, []).text


def test_a_revoked_node_is_refused(node: Node) -> None:

    ca_admin.revoke(
        node.world.opened, node.world.register, CAR, ReasonFlags.key_compromise, node.world.clock()
    )
    before = (node.keys / "tls.crt").read_bytes()
    with pytest.raises(Refusal, match="revoked"):
        renewal(node, [], force=True)
    assert (node.keys / "tls.crt").read_bytes() == before
    check_pairs(node.state)


def test_without_a_server_it_says_so_and_loudly_near_the_end(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(est_client, "BACKOFF_S", (0.0, 0.0, 0.0))
    with serving(world) as server:
        node = Node(tmp_path / "node", world, server.port)
        node.enrol()
    world.clock.forward(61)
    with pytest.raises(EnrolError, match="next run tries again") as caught:
        renewal(node, [])
    assert caught.value.exit_code == Exit.FAILURE
    check_pairs(node.state)
    keys = private_keys(node.state)
    world.clock.forward(23)
    with pytest.raises(EnrolError, match="URGENT") as caught:
        renewal(node, [])
    assert caught.value.exit_code == Exit.FAILURE and private_keys(node.state) == keys
    with serving(world) as server:
        text = (node.state / "provision.json").read_text().replace(f":{node.port}", f":{server.port}")
        (node.state / "provision.json").write_text(text)
        assert "renewed" in renewal(node, []).text
    check_whole(node.state)


def test_what_is_not_enrolled_is_not_renewed(node: Node, tmp_path: Path) -> None:
    host = Host(now=node.world.clock)
    with pytest.raises(EnrolError, match="no enrolled node") as caught:
        renew(tmp_path / "nowhere", host)
    assert caught.value.exit_code == Exit.USAGE and not (tmp_path / "nowhere").exists()
    begun = Node(tmp_path / "begun", node.world, node.port, "car-2")
    with pytest.raises(Refusal):
        begun.enrol(code="0" * 20)
    with pytest.raises(EnrolError, match="unfinished, at step tls"):
        renew(begun.state, host)


def test_the_command(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert provision_tool.renewal(node.state, force=False, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["text"].startswith("not due")
    assert provision_tool.renewal(node.state, force=True, as_json=True) == 0
    out, err = capsys.readouterr()
    end = json.loads(out.splitlines()[-1])
    assert end["event"] == "end" and end["text"].startswith("renewed") and "renewed" in err


def test_where_no_systemd_runs_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    heard, said = reload_services(False)
    assert not heard and "SIGHUP" in said
    assert "systemctl try-reload-or-restart holdfast-edge holdfast-roadside" in said
    assert "try-restart holdfast-edge holdfast-roadside holdfast-uplink" in reload_services(True)[1]


# --- root at work for another user -------------------------------------------------------------------

NOBODY = 65534
SECRET = b"root's secret"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root works for another user")


@pytest.fixture
def theirs(node: Node) -> Iterator[Path]:
    """The enrolled node's state folder as nobody's, below a folder that everybody may pass."""
    home = Path(tempfile.mkdtemp(dir="/tmp", prefix="hf-theirs-"))
    home.chmod(0o755)
    state = home / "state"
    shutil.copytree(node.state, state, symlinks=True)
    give(state)
    (home / "secret").write_bytes(SECRET)
    (home / "secret").chmod(0o600)
    yield state
    shutil.rmtree(home)


def give(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.lchown(path, NOBODY, NOBODY)


def run_renewal(state: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """`holdfast provision renew` in a process of its own: a user id is the whole process's."""
    return subprocess.run(
        [Path(sys.executable).parent / "holdfast", "provision", "renew", "--state", state, *more],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def journal_says(state: Path, **changes: object) -> None:
    """The state's owner edits the journal."""
    path = state / "provision.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def taken(state: Path) -> list[Path]:
    """Files of nobody's that hold root's secret."""
    found = [path for path in state.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in found if path.read_bytes() == SECRET]


@as_root
def test_root_renews_for_the_owner_and_everything_stays_the_owners(theirs: Path) -> None:
    before = (theirs / "keys" / "event.key").read_bytes()
    done = run_renewal(theirs, "--force")
    assert done.returncode == 0, done.stderr
    assert (theirs / "keys" / "event.key").read_bytes() != before
    check_whole(theirs)
    for path in theirs.rglob("*"):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (NOBODY, NOBODY), path


@as_root
def test_a_link_to_a_file_of_roots_is_not_followed(theirs: Path) -> None:
    keys = theirs / "keys"
    journal_says(theirs, exchanging=True)
    (keys / "event").unlink()
    (keys / "event.key").unlink()
    (keys / "event.key").symlink_to(theirs.parent / "secret")
    shutil.rmtree(keys / "pairs" / "event")
    (keys / "pairs" / "event" / "next").mkdir(parents=True)
    give(theirs)
    done = run_renewal(theirs)
    assert done.returncode == Exit.UNVERIFIED and "event.key is a link to" in done.stderr
    assert taken(theirs) == []


@as_root
def test_a_key_that_root_alone_may_read_is_not_read_even_behind_a_real_file(theirs: Path) -> None:
    """What the check of links does not see, the user id forbids."""
    plain = theirs / "keys" / "pairs" / "tls" / "1" / "tls.key"
    os.chown(plain, 0, 0)
    done = run_renewal(theirs, "--force")
    assert done.returncode == Exit.PERMISSION and "tls.key: Permission denied" in done.stderr


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("keys/tls.key", "event/event.key"), ("keys/tls", "pairs/event/1"),
        ("keys/tls", "../keys/pairs/tls/1"), ("keys/pairs/tls", "event"),
        ("keys/pairs/tls/1/tls.key", "../../event/1/event.key"),
        ("keys/ca.crt", "../../secret"), ("keys/more", "/etc"),
    ],
)  # fmt: skip
def test_a_link_that_is_not_the_stores_own_stops_the_renewal(node: Node, place: str, target: str) -> None:
    path = node.state / place
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    event = (node.keys / "event" / "event.key").read_bytes()
    told: list[bool] = []
    with pytest.raises(EnrolError) as caught:
        renewal(node, told, force=True)
    assert caught.value.exit_code == Exit.UNVERIFIED and path.name in caught.value.detail
    assert told == [] and not (node.keys / "pairs" / "tls" / "next").exists()
    copies = [at for at, data in private_keys(node.state).items() if data == event]
    assert copies == ["keys/pairs/event/1/event.key"]


@as_root
def test_keys_are_sealed_into_a_folder_of_roots_alone(theirs: Path) -> None:
    own = theirs / "credentials"
    own.mkdir()
    give(theirs)
    journal_says(theirs, credentials=str(own))
    done = run_renewal(theirs, "--force")
    assert done.returncode == Exit.UNVERIFIED and "can be changed by others than root" in done.stderr
    link = theirs.parent / "link"
    link.symlink_to(own)
    journal_says(theirs, credentials=str(link / "new"))
    assert run_renewal(theirs, "--force").returncode == Exit.UNVERIFIED
    assert list(own.iterdir()) == []


@as_root
@pytest.mark.parametrize("name", ["provision.lock", "provision.json"])
def test_lock_and_journal_that_are_links_cost_root_nothing(theirs: Path, name: str) -> None:
    secret = theirs.parent / "secret"
    (theirs / name).unlink(missing_ok=True)
    (theirs / name).symlink_to(secret)
    assert run_renewal(theirs, "--force").returncode != 0
    assert (secret.stat().st_uid, secret.read_bytes()) == (0, SECRET)


# --- killed everywhere -------------------------------------------------------------------------------

DRIVER = """
import json, os, pathlib, signal, ssl, sys
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import ReasonFlags, load_pem_x509_certificate
from provisioning.enrolment import Wanted
from provisioning.identity import Identity
from provisioning.runtime import ca_admin
from provisioning.runtime.asked import Ask, Host, wall_time
from provisioning.runtime.ca_db import Register
from provisioning.runtime.enrol import enrol
from provisioning.runtime.renew import renew

home, folder, port = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]

def pairs(keys):
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(keys / "tls.crt", keys / "tls.key")
    event = load_pem_private_key((keys / "event.key").read_bytes(), None)
    assert load_pem_x509_certificate((keys / "event.crt").read_bytes()).public_key() == event.public_key()

def bytes_of(keys):
    return {n: (keys / n).read_bytes() for n in ("tls.key", "event.key")}

for number in range(1, 200):
    register = Register(folder / "ca.db")
    device, at = f"car-{number}", home / str(number)
    code, _, _ = ca_admin.make_code(register, Identity("fund", device), "", 90, wall_time())
    register.close()
    wanted = Wanted(device, server=f"https://localhost:{port}")
    state, told = at / "state", at / "told"
    enrol(Ask(state, at / "node.toml", wanted, code, folder / "root.crt"), Host())
    if sys.argv[4] == "plain":  # the layout of a laboratory: files, no links
        for name in ("tls", "event"):
            pair = {e: (state / "keys" / f"{name}.{e}").read_bytes() for e in ("key", "crt")}
            (state / "keys" / name).unlink()
            for ending, data in pair.items():
                (state / "keys" / f"{name}.{ending}").unlink()
                (state / "keys" / f"{name}.{ending}").write_bytes(data)
                (state / "keys" / f"{name}.{ending}").chmod(0o600)
                (state / "keys" / "pairs" / name / "1" / f"{name}.{ending}").unlink()
            (state / "keys" / "pairs" / name / "1").rmdir()
            (state / "keys" / "pairs" / name).rmdir()
    def reload(sealed):
        told.write_bytes(b"told")
        return True, "told"
    old = bytes_of(state / "keys")
    child = os.fork()
    if child == 0:
        seen = 0
        def after(what):
            global seen
            seen += 1
            if seen == number:
                os.write(1, (json.dumps(what) + "\\n").encode())
                os.kill(os.getpid(), signal.SIGKILL)
        renew(state, Host(after=after), force=True, reload=reload)
        os._exit(0)
    if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        break
    pairs(state / "keys")
    made = {p.read_bytes() for p in (state / "keys").rglob("*.key") if p.is_file()}
    nothing_begun = not any(state.glob("keys/pairs/*/next")) and bytes_of(state / "keys") == old
    outcome = renew(state, Host(), force=nothing_begun, reload=reload)
    assert outcome.exit_code == 0, outcome
    pairs(state / "keys")
    new = bytes_of(state / "keys")
    assert not any(new[name] == old[name] for name in old), (number, outcome)
    if len(made) >= 4:
        assert set(new.values()) <= made, (number, outcome)
    assert told.exists() and not json.loads((state / "provision.json").read_text())["reload_due"], number
"""


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize("layout", ["pairs", "plain"])
def test_killed_after_every_change_there_is_a_pair_and_the_next_run_finishes(
    world: World, tmp_path: Path, layout: str
) -> None:
    with serving(world) as server:
        done = subprocess.run(
            [
                sys.executable, "-c", DRIVER, str(tmp_path / "n"), str(world.folder), str(server.port),
                layout,
            ],
            cwd=REPOSITORY, capture_output=True, text=True, timeout=110, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    killed = [json.loads(line) for line in done.stdout.splitlines()]
    for ending in ("keys/event", "keys/tls", "pairs/event/2", "pairs/tls/2", "tls/next/tls.crt"):
        assert any(one.endswith(ending) for one in killed), ending
    for number in range(1, len(killed) + 1):
        check_whole(tmp_path / "n" / str(number) / "state")
        issued = world.register.of_device(Identity("fund", f"car-{number}"))
        by_purpose = [sum(one.purpose is purpose for one in issued) for purpose in Purpose]
        assert by_purpose == [2, 2], f"killed after {killed[number - 1]}"
