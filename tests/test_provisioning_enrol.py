"""Enrolment against the real server: every step killed, every wrong input refused, nothing half done."""

from __future__ import annotations

import errno
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import ReasonFlags, load_pem_x509_certificate

from edge.config import parse
from edge.trust import Trust
from provisioning import ca, est
from provisioning.ca import fingerprint, verify_event_certificate
from provisioning.claim import ALPHABET
from provisioning.enrolment import Exit, Step
from provisioning.errors import EnrolError, Refusal
from provisioning.identity import Identity
from provisioning.runtime import ca_admin, est_client, journal, provision_tool
from provisioning.runtime.asked import Host
from provisioning.runtime.enrol import enrol
from provisioning.runtime.keystore import certificate_pem
from provisioning.runtime.renew import renew
from tests.ca_kit import CAR, World, serving
from tests.enrol_kit import Node, at, check_pairs, check_whole, private_keys

REPOSITORY = Path(__file__).parent.parent
COMMAND = [sys.executable, "-c", "from provisioning.__main__ import provision; provision()"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.register.close()


@pytest.fixture
def node(world: World, tmp_path: Path) -> Iterator[Node]:
    with serving(world) as server:
        yield Node(tmp_path / "node", world, server.port)


def test_from_nothing_to_enrolled(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    code, end, err = node.run(capsys, code=node.code())
    assert code == 0 and end["event"] == "end" and end["until"] > "20"
    assert [said["step"] for said in node.says[:-1]] == [step.value for step in Step]
    assert {said["state"] for said in node.says[:-1]} == {"done"}
    assert err.count("\N{CHECK MARK}") == len(Step) and "is enrolled until" in err
    check_whole(node.state)
    config = parse(node.config.read_text(), base=str(node.config.parent))
    assert (config.node.tenant, config.node.device) == ("fund", "car-1")
    assert config.state_dir == str(node.state) and config.uplink is not None
    assert config.uplink.host == "broker.example"
    trust = Trust.from_json((node.state / "trust.json").read_text())
    assert trust.device_ca is not None
    event = load_pem_x509_certificate((node.keys / "event.crt").read_bytes())
    assert verify_event_certificate(event, trust.device_ca, datetime.now(UTC)) == CAR
    assert node.world.device_file().read_bytes() == (node.keys / "event.crt").read_bytes()


def test_again_changes_nothing_and_needs_no_server(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert node.enrol().exit_code == 0
    before = node.snapshot()
    node.port = 1  # nobody listens there
    code, end, err = node.run(capsys, server=None, ca=None, device=None)
    assert code == 0 and end["device"] == "car-1" and "is enrolled until" in err
    assert {said["state"] for said in node.says[:-1]} == {"done", "kept"}
    assert node.snapshot() == before


def test_the_journal_and_the_output_hold_no_secret(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    code = node.code()
    assert node.run(capsys, code=code)[0] == 0
    texts = [json.dumps(node.says), (node.state / "provision.json").read_text()]
    for text in texts:
        packed = re.sub(f"[^{ALPHABET}]", "", text.upper())
        assert code not in packed and "PRIVATE" not in text


def test_a_dry_run_touches_nothing(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    before = node.world.register.everything()
    code, end, _ = node.run(capsys, code=node.code(), dry_run=True)
    assert code == 0 and not node.home.exists() and node.world.register.everything() == before
    assert "urn:holdfast:fund:car-1" in end["text"] and {said["state"] for said in node.says[:-1]} == {
        "would"
    }


def test_the_label_is_enough(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    qr = f"HF1:car-1:V2:{node.code()}"
    assert node.run(capsys, qr=qr, device=None)[0] == 0
    assert node.run(capsys, qr=qr, device="car-2")[0] == Exit.USAGE


def test_the_root_may_come_by_its_fingerprint(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    shown = fingerprint(node.world.opened.root)
    wrong = ("0" if shown[0] != "0" else "1") + shown[1:]
    code, end, _ = node.run(capsys, code=node.code(), ca=None, fingerprint=wrong)
    assert code == Exit.UNVERIFIED and "nothing was sent" in end["detail"]
    assert node.run(capsys, code=node.code(), ca=None, fingerprint="abc")[0] == Exit.USAGE
    code, _, _ = node.run(capsys, code=node.code(), ca=None, fingerprint=shown.upper().replace(" ", ":"))
    assert code == 0
    assert (node.keys / "ca.crt").read_bytes() == node.root.read_bytes()


def test_whom_to_believe_must_be_said(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    code, end, _ = node.run(capsys, code=node.code(), ca=None)
    assert code == Exit.USAGE and "--ca-fingerprint" in end["remedy"] and private_keys(node.state) == {}
    other = fingerprint(ca.make_root("x", ca.new_key(), ca.Validity(*_life())).certificate)
    code, end, _ = node.run(capsys, code=node.code(), fingerprint=other)
    assert code == Exit.UNVERIFIED and "another fingerprint" in end["detail"]


def _life() -> tuple[datetime, datetime]:
    return datetime.now(UTC) - timedelta(days=1), datetime.now(UTC) + timedelta(days=1)


# --- what is refused ---------------------------------------------------------------------------------


def test_a_wrong_code(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    good = node.code()
    code, end, err = node.run(capsys, code=good[:-1] + ("0" if good[-1] != "0" else "1"))
    assert (code, end["code"]) == (Exit.REFUSED, "code_unknown") and "label" in err
    keys = private_keys(node.state)
    assert len(keys) == 2 and not (node.keys / "tls.crt").exists() and not node.config.exists()
    assert node.run(capsys, code=good)[0] == 0
    assert private_keys(node.state) == keys


def test_a_mistyped_code_is_told_before_anything_is_made(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    for typed in ("ABC", "U" * 20, "!" * 20, ""):
        code, end, _ = node.run(capsys, code=typed)
        assert code == Exit.USAGE and not node.home.exists(), typed
        assert typed == "" or typed not in json.dumps(end)


def test_a_tenant_that_was_refused_is_not_remembered(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    given = node.code()
    code, end, _ = node.run(capsys, code=given, tenant="other")
    assert (code, end["code"]) == (Exit.REFUSED, "foreign_tenant")
    code, end, _ = node.run(capsys, code=given)
    assert code == 0 and end["tenant"] == "fund"


def test_without_systemd_creds_the_next_run_may_leave_credentials_away(
    node: Node, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = node.code()
    monkeypatch.setenv("PATH", str(tmp_path))
    code, end, _ = node.run(capsys, code=given, credentials=tmp_path / "creds")
    assert code == Exit.USAGE and "leave --credentials away" in end["remedy"]
    assert node.run(capsys, code=given)[0] == 0
    check_whole(node.state)


def test_words_of_a_server_cannot_steer_the_terminal(
    node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eok"

    def refuse(*_: Any) -> bytes:
        raise est.read_problem(403, json.dumps({"code": evil, "detail": evil, "remedy": evil}).encode())

    monkeypatch.setattr(est_client, "_request", refuse)
    code, end, err = node.run(capsys, code=node.code())
    assert code == Exit.REFUSED and "owned" in end["detail"]
    assert not set("\x1b\x07\x9b\u202e") & set(err + end["detail"] + end["remedy"] + end["code"])
    monkeypatch.setattr(est_client, "BACKOFF_S", (0.0, 0.0, 0.0))

    def rubbish(*_: Any) -> bytes:
        raise http.client.BadStatusLine(evil)

    monkeypatch.setattr(est_client, "_request", rubbish)
    code, end, err = node.run(capsys, code=node.code())
    assert code == Exit.FAILURE and not set("\x1b\x07\x9b\u202e") & set(err + end["detail"])


def test_a_code_of_another_device(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    code, end, _ = node.run(capsys, code=node.world.code(Identity("fund", "car-2")))
    assert (code, end["code"]) == (Exit.REFUSED, "code_foreign")
    assert node.run(capsys, code=node.world.code(Identity("fund", "car-2")), device="car-2")[0] == 0


def test_an_expired_code(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    given = node.world.code(CAR, days=1)
    node.world.clock.forward(2)
    code, end, _ = node.run(capsys, code=given)
    assert (code, end["code"]) == (Exit.REFUSED, "code_expired") and "holdfast ca code" in end["remedy"]


def test_a_used_code_is_good_for_one_node(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    given = node.code()
    assert node.run(capsys, code=given)[0] == 0
    second = Node(node.home.with_name("second"), node.world, node.port)
    code, end, _ = second.run(capsys, code=given)
    assert (code, end["code"]) == (Exit.REFUSED, "code_used") and not (second.keys / "tls.crt").exists()


def test_a_swapped_ca_file_is_refused_before_anything_is_sent(
    node: Node, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(node.world.enrolment, "enroll_tls", lambda *_: asked.append("sent"))
    other = World(tmp_path / "other")
    other.register.close()
    given = node.code()
    code, end, _ = node.run(capsys, code=given, ca=other.folder / "root.crt")
    assert code == Exit.UNVERIFIED and "nothing was sent" in end["detail"] and asked == []
    assert not (node.keys / "ca.crt").exists()
    monkeypatch.undo()
    assert node.run(capsys, code=given)[0] == 0
    before = node.snapshot()
    code, end, _ = node.run(capsys, ca=other.folder / "root.crt")
    assert code == Exit.UNVERIFIED and node.snapshot() == before


def test_a_root_swapped_on_the_node_is_noticed(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    node.enrol()
    swapped = ca.make_root("fund root", ca.new_key(), ca.Validity(*_life())).certificate
    (node.keys / "ca.crt").write_bytes(certificate_pem(swapped))
    code, end, _ = node.run(capsys, ca=None)
    assert code == Exit.UNVERIFIED and "not the one under which" in end["detail"]


def test_a_server_of_another_name(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    code, end, _ = node.run(capsys, code=node.code(), server=f"https://127.1:{node.port}")
    assert code == Exit.UNVERIFIED and "name" in end["remedy"] and "nothing was sent" in end["detail"]


@pytest.mark.parametrize("moment", [datetime(1970, 1, 1, tzinfo=UTC), datetime(2099, 5, 1, tzinfo=UTC)])
def test_a_wrong_clock(
    node: Node, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, moment: datetime
) -> None:
    monkeypatch.setattr(provision_tool, "Host", lambda **given: Host(now=at(moment), **given))
    code, end, _ = node.run(capsys, code=node.code())
    assert code == Exit.UNVERIFIED and "set the clock" in end["remedy"] and not node.home.exists()


def test_a_clock_before_the_root(node: Node) -> None:
    host = Host(now=at(node.world.clock() - timedelta(days=2)))
    with pytest.raises(EnrolError, match="set the clock"):
        enrol(node.ask(code=node.code()), host)
    assert private_keys(node.state) == {}


@pytest.mark.parametrize("device", ["a/b", "car+", "#", "../car-1"])
def test_a_device_with_slashes_or_wildcards(
    node: Node, capsys: pytest.CaptureFixture[str], device: str
) -> None:
    code, end, _ = node.run(capsys, code=node.code(), device=device)
    assert code == Exit.USAGE and private_keys(node.state) == {} and "lower-case" in end["detail"]


@pytest.mark.parametrize("server", ["http://ca", "https://", "https://ca/path", "https://u:p@ca", "ca:99999"])
def test_a_server_that_is_none(node: Node, capsys: pytest.CaptureFixture[str], server: str) -> None:
    code, _, _ = node.run(capsys, code=node.code(), server=server)
    assert code == Exit.USAGE and not node.home.exists()


def test_nobody_listens(
    node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(est_client, "BACKOFF_S", (0.0, 0.0, 0.0))
    given = node.code()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        code, end, _ = node.run(capsys, code=given, server=f"localhost:{nobody.getsockname()[1]}")
    assert code == Exit.FAILURE and "cannot be reached" in end["detail"] and "--offline" in end["remedy"]
    assert node.run(capsys, code=given)[0] == 0


def test_a_configuration_of_another_node_is_refused_first(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    node.config.parent.mkdir(parents=True)
    for text, word in (
        ('[node]\ntenant = "fund"\ndevice = "car-9"\n', "car-9"), ("[[[", "no TOML"),
        ("node = 5\n", "no table"), ('[[node]]\ndevice = "car-1"\n', "no table"),
    ):  # fmt: skip
        node.config.write_text(text)
        code, end, _ = node.run(capsys, code=node.code())
        assert code == Exit.USAGE and word in end["detail"] and private_keys(node.state) == {}
    node.config.write_text('# mine\n[node]\ntenant = "fund"\ndevice = "car-1"\n')
    assert node.run(capsys, code=node.code())[0] == 0
    assert node.config.read_text().startswith("# mine")


def test_two_runs_at_once(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    node.state.mkdir(parents=True, mode=0o700)
    with journal.only_one(node.state):
        code, end, _ = node.run(capsys, code=node.code())
    assert (code, end["code"]) == (Exit.BUSY, "busy") and private_keys(node.state) == {}


def test_the_administrator_is_not_ready(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """503 is the server's own trouble: exit 1, and the next run finishes without a code."""
    trust = node.world.collector / "trust.json"
    kept = trust.read_bytes()
    trust.unlink()
    code, end, _ = node.run(capsys, code=node.code())
    assert (code, end["code"]) == (Exit.FAILURE, "no_collector")
    trust.write_bytes(kept)
    assert node.run(capsys)[0] == 0


def test_keys_that_others_can_read_are_not_used(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Refusal):
        node.enrol(code="0" * 20)
    (node.keys / "tls.key").chmod(0o644)
    code, end, _ = node.run(capsys, code=node.code())
    assert code == Exit.UNVERIFIED and "chmod 600" in end["remedy"] and not (node.keys / "tls.crt").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    node.home.mkdir(mode=0o500)
    assert node.run(capsys, code=node.code())[0] == Exit.PERMISSION


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_another_user_is_told_to_be_root(world: World, tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from provisioning.runtime.journal import Files, explain\n"
        "from pathlib import Path\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: Files(Path(sys.argv[1])).make_state()\n"
        "except OSError as error: print(explain(error)); sys.exit(explain(error).exit_code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "closed" / "state")],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == Exit.PERMISSION and "sudo" in done.stdout


def by_command(node: Node) -> None:
    """Enrol in a process of its own, with a new code: it becomes another user, the server here does not."""
    done = subprocess.run(
        [*COMMAND, "--server", f"https://localhost:{node.port}", "--ca", str(node.root), "--code", "-",
         "--device", node.device, "--state", str(node.state), "--config", str(node.config)],
        cwd=REPOSITORY, input=node.code() + "\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_files_that_root_makes_belong_to_the_state_folders_owner(node: Node) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # pytest's own folders let nobody else in
        theirs = replace(node, home=Path(folder) / "node")
        theirs.state.mkdir(parents=True, mode=0o700)
        os.chown(theirs.state, 4321, 4321)
        by_command(theirs)
        revoke(theirs)
        by_command(theirs)
        for path in (*theirs.state.rglob("*"),):
            assert (path.lstat().st_uid, path.lstat().st_gid) == (4321, 4321), path
        assert theirs.config.stat().st_uid == 0


# --- what goes wrong on the way ----------------------------------------------------------------------


def test_a_lost_answer_is_asked_for_again_with_the_same_request(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, lost = est_client._request, []

    def loses(*given: Any) -> bytes:
        data = real(*given)
        if given[3] == "POST" and given[4] not in lost:
            lost.append(given[4])
            raise ConnectionResetError(errno.ECONNRESET, "the network went away")
        return data

    monkeypatch.setattr(est_client, "_request", loses)
    assert node.enrol().exit_code == 0
    assert len(lost) == 2 and len(node.world.register.of_device(CAR)) == 2
    check_whole(node.state)


def test_an_answer_without_end_is_not_read_to_its_end(
    node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(est_client, "MAX_ANSWER", 100)
    code, end, _ = node.run(capsys, code=node.code())
    assert code == Exit.FAILURE and "more than 100 bytes" in end["detail"]


def test_a_certificate_for_another_key_is_not_kept(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Node(node.home.with_name("other"), node.world, node.port, "car-2")
    other.enrol()
    answer = [load_pem_x509_certificate((other.keys / "tls.crt").read_bytes())]
    monkeypatch.setattr(est_client.EstClient, "enroll", lambda *_: answer)
    with pytest.raises(EnrolError, match="another key") as caught:
        node.enrol()
    assert caught.value.exit_code == Exit.UNVERIFIED and not (node.keys / "tls.crt").exists()


def in_force(node: Node) -> tuple[bytes, bytes, bytes, bytes]:
    """What the services read."""
    names = ("tls.key", "tls.crt", "event.key", "event.crt")
    return tuple((node.keys / name).read_bytes() for name in names)  # type: ignore[return-value]


def all_new(node: Node, before: tuple[bytes, ...]) -> None:
    """New keys and certificates, good ones, known to the collector; the old event certificate is kept."""
    now = in_force(node)
    assert not set(before) & set(now), "neither a key nor a certificate stays in force"
    assert before[3] in [path.read_bytes() for path in (node.keys / "old").iterdir()]
    event = load_pem_x509_certificate(now[3])
    assert not node.world.register.is_revoked(event.serial_number)
    assert now[3] in node.world.device_file().read_bytes()
    check_whole(node.state)


def revoke(node: Node) -> None:
    world = node.world
    ca_admin.revoke(world.opened, world.register, CAR, ReasonFlags.key_compromise, world.clock())


def test_an_expired_node_comes_back_with_a_new_code(node: Node) -> None:
    node.enrol()
    before = in_force(node)
    node.world.clock.forward(91)
    with pytest.raises(EnrolError, match="claim code"):
        enrol(node.ask(), Host(now=node.world.clock))
    assert node.enrol().exit_code == 0
    all_new(node, before)


def test_a_revoked_node_comes_back_with_a_new_code_and_new_keys(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    """The technician's own words: revoke, code, provision --code NEW, with nothing moved by hand."""
    first = node.code()
    assert node.run(capsys, code=first)[0] == 0
    before = in_force(node)
    revoke(node)
    given = node.code()
    code, end, err = node.run(capsys, code=given, server=None, ca=None, device=None)
    assert (code, end["event"]) == (0, "end") and "is enrolled until" in err
    all_new(node, before)
    after = node.snapshot()
    assert node.run(capsys, code=given)[0] == 0 and node.snapshot() == after, "the same code changes nothing"
    code, end, _ = node.run(capsys, code=first)
    assert (code, end["code"]) == (Exit.REFUSED, "code_used"), "the first code is spent"
    now = in_force(node)
    assert now == tuple(after[f"state/keys/pairs/{name[:-4]}/2/{name}"] for name in NAMES)


NAMES = ("tls.key", "tls.crt", "event.key", "event.crt")


def test_a_wrong_other_code_leaves_the_node_as_it_works(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    first = node.code()
    assert node.run(capsys, code=first)[0] == 0
    before, claim = in_force(node), json.loads((node.state / "provision.json").read_text())["claim_sha256"]
    for wrong in (node.world.code(Identity("fund", "car-2")), "0" * 20):
        for _ in range(2):
            code, end, _ = node.run(capsys, code=wrong)
            assert code == Exit.REFUSED and end["code"] in ("code_foreign", "code_unknown")
        assert in_force(node) == before
        assert json.loads((node.state / "provision.json").read_text())["claim_sha256"] == claim
    assert node.run(capsys)[0] == 0 and node.run(capsys, code=first)[0] == 0
    assert in_force(node) == before
    assert "renewed" in renew(node.state, Host(now=node.world.clock), force=True).text
    check_whole(node.state)


def test_another_code_in_a_dry_run_says_what_would_be_made_anew(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    assert node.run(capsys, code=node.code())[0] == 0
    before = node.snapshot()
    assert node.run(capsys, code=node.code(), dry_run=True)[0] == 0
    assert {said["step"] for said in node.says[:-1] if said["state"] == "would"} >= {"keys", "tls", "event"}
    assert node.snapshot() == before


def test_cut_off_while_a_revoked_node_comes_back(node: Node) -> None:
    """After each change on disk the same code finishes it; so does a renewal once both pairs are whole."""

    class Cut(BaseException):
        """Ends the run as a signal would."""

    node.enrol()
    for stop in range(1, 100):
        before = in_force(node)
        revoke(node)
        given, seen = node.code(), 0

        def after(_: str, stop: int = stop) -> None:
            nonlocal seen
            seen += 1
            if seen == stop:
                raise Cut

        try:
            node.enrol(given, after=after)
        except Cut:
            check_pairs(node.state)
            journal = json.loads((node.state / "provision.json").read_text())
            if journal["exchanging"] and stop % 2:
                renew(node.state, Host(now=node.world.clock))
            assert node.enrol(given).exit_code == 0
            all_new(node, before)
            continue
        break
    assert 20 < stop < 99


def test_a_node_revoked_in_the_middle_of_its_enrolment_gets_new_keys(node: Node) -> None:
    class Cut(BaseException):
        """Ends the run as a signal would."""

    def cut(what: str) -> None:
        if what == "step event":
            raise Cut

    with pytest.raises(Cut):
        node.enrol(after=cut)
    before = in_force(node)
    revoke(node)
    assert node.enrol().exit_code == 0
    all_new(node, before)


def test_another_code_begins_anew_until_the_event_certificate_came(node: Node) -> None:
    class Cut(BaseException):
        """Ends the run as a signal would."""

    def cut(what: str) -> None:
        if what == "step tls":
            raise Cut

    with pytest.raises(Cut):
        node.enrol(after=cut)
    keys = private_keys(node.state)
    assert node.enrol().exit_code == 0  # with another code
    assert private_keys(node.state) == keys
    purposes = [one.purpose for one in node.world.register.of_device(CAR)]
    assert sorted(one.value for one in purposes) == ["event", "tls", "tls"]
    assert node.enrol().exit_code == 0  # and from now on another code makes new keys
    assert not set(private_keys(node.state).values()) <= set(keys.values())
    assert len(node.world.register.of_device(CAR)) == 5


DRIVER = """
import json, os, pathlib, signal, sys
from provisioning.enrolment import Wanted
from provisioning.identity import Identity
from provisioning.runtime import ca_admin
from provisioning.runtime.asked import Ask, Host, wall_time
from provisioning.runtime.ca_db import Register
from provisioning.runtime.enrol import enrol
from provisioning.runtime.keystore import certificate_pem

home, folder, port = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
for number in range(1, 200):
    register = Register(folder / "ca.db")
    device, at = f"car-{number}", home / str(number)
    code, _, _ = ca_admin.make_code(register, Identity("fund", device), "", 90, wall_time())
    register.close()
    ask = Ask(
        at / "state", at / "etc" / "node.toml", Wanted(device, server=f"https://localhost:{port}"), code,
        folder / "root.crt",
    )
    child = os.fork()
    if child == 0:
        seen = 0
        def after(what):
            global seen
            seen += 1
            if seen == number:
                os.write(1, (json.dumps(what) + "\\n").encode())
                os.kill(os.getpid(), signal.SIGKILL)
        enrol(ask, Host(after=after))
        os._exit(0)
    if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        break
    keys = {str(p): p.read_text() for p in (at / "state").rglob("*.key") if p.is_file()}
    outcome = enrol(ask, Host())
    after = {str(p): p.read_text() for p in (at / "state").rglob("*.key") if p.is_file()}
    assert outcome.exit_code == 0, outcome
    assert keys.items() <= after.items() and len(after) >= 2, (number, sorted(keys), sorted(after))
"""


@pytest.mark.slow
@pytest.mark.crash
def test_killed_after_every_change_the_next_run_finishes_with_the_same_keys(
    world: World, tmp_path: Path
) -> None:
    with serving(world) as server:
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, str(tmp_path / "nodes"), str(world.folder), str(server.port)],
            cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    killed = [json.loads(line) for line in done.stdout.splitlines()]
    assert {f"step {step.value}" for step in Step} <= set(killed)
    for name in ("tls.key", "tls.crt", "event.key", "event.crt", "ca.crt", "trust.json", "node.toml"):
        assert any(f"file /{'/'.join(one.split('/')[1:])}".endswith(f"/{name}") for one in killed), name
    for number in range(1, len(killed) + 1):
        check_whole(tmp_path / "nodes" / str(number) / "state")
        device = Identity("fund", f"car-{number}")
        assert len(world.register.of_device(device)) == 2, f"killed after {killed[number - 1]}"


@pytest.mark.crash
def test_killed_at_any_moment_of_the_real_command(node: Node) -> None:
    chance, interrupted = random.Random(6), 0
    for number in range(5):
        one = Node(node.home / str(number), node.world, node.port, f"car-{number}")
        command = [
            *COMMAND, "--server", f"https://localhost:{node.port}", "--ca", str(one.root), "--code", "-",
            "--device", one.device, "--state", str(one.state), "--config", str(one.config),
        ]  # fmt: skip
        code = one.code()
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdin is not None
        process.stdin.write(code + "\n")
        process.stdin.close()
        while not one.state.exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.12) if number else 0)
        process.send_signal(signal.SIGKILL)
        interrupted += process.wait() == -signal.SIGKILL
        before = private_keys(one.state)
        done = subprocess.run(
            command, cwd=REPOSITORY, input=code + "\n", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert before.items() <= private_keys(one.state).items()
        check_whole(one.state)
    assert interrupted > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a file system of 64 kB")
def test_a_full_disk_between_key_and_certificate(
    node: Node, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    node.state.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", str(node.state)], check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this container may not mount a tmpfs")
    try:
        given, ballast = node.code(), node.state / "ballast"

        def fill(what: str) -> None:
            if what == "step keys":
                with ballast.open("wb", buffering=0) as file:
                    try:
                        while True:
                            file.write(bytes(4096))
                    except OSError as error:
                        assert error.errno == errno.ENOSPC

        with pytest.raises(OSError) as caught:
            node.enrol(given, after=fill)
        told = journal.explain(caught.value)
        assert told.exit_code == Exit.FAILURE and "disk is full" in told.detail and "run again" in told.remedy
        keys = private_keys(node.state)
        assert len(keys) == 2 and not (node.keys / "tls.crt").exists()
        code, end, _ = node.run(capsys, code=given)
        assert (code, "disk is full" in end["detail"]) == (Exit.FAILURE, True)
        ballast.unlink()
        assert node.run(capsys, code=given)[0] == 0
        assert private_keys(node.state) == keys
        check_whole(node.state)
    finally:
        subprocess.run(["umount", str(node.state)], check=True)


def test_show_says_where_an_enrolment_stands(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert provision_tool.show(node.state, as_json=True) == Exit.USAGE
    with pytest.raises(Refusal):
        node.enrol(code="0" * 20)
    capsys.readouterr()
    assert provision_tool.show(node.state, as_json=True) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["unfinished_step"] == "tls" and shown["certificates"] == {} and shown["until"] is None
    node.enrol()
    assert provision_tool.show(node.state, as_json=True) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["unfinished_step"] is None and set(shown["certificates"]) == {"tls", "event"}
    assert shown["root_sha256"] == fingerprint(node.world.opened.root).replace(" ", "")
    assert 89 < shown["certificates"]["tls"]["days_left"] <= 90
    assert provision_tool.show(node.state, as_json=False) == 0
    assert "days left" in capsys.readouterr().out


def test_the_command_line_says_the_same(node: Node) -> None:
    done = subprocess.run(
        [*COMMAND, "--server", f"localhost:{node.port}", "--state", str(node.state), "--device", "car-1"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == Exit.USAGE and done.stdout == "" and "--ca-fingerprint" in done.stderr
    shown = subprocess.run(
        [*COMMAND, "show", "--state", str(node.state)],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert shown.returncode == Exit.USAGE and "holdfast provision" in shown.stderr
