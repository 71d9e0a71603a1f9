"""`holdfast ca` as people and programs run it: real processes, real exit codes, the real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from provisioning import ca, claim, est
from provisioning.ca import Purpose
from provisioning.csr import make_csr
from provisioning.est import OfflineRequest, OfflineResponse
from provisioning.identity import Identity
from provisioning.runtime import ca_tool
from provisioning.runtime.ca_keys import pem
from tests.ca_kit import CAR, Device

ROOT = Path(__file__).resolve().parent.parent
RUN = [sys.executable, "-c", "from provisioning.__main__ import ca; ca(prog_name='holdfast ca')"]


def run(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *map(str, args)], capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "COLUMNS": "110"},
    )  # fmt: skip


def good(*args: object) -> str:
    result = run(*args)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority with a collector, made by commands."""
    home = tmp_path_factory.mktemp("authority")
    good("init", home / "ca", "--tenant", "fund", "--host", "localhost", "--broker-host", "broker.example")
    good("collector", home / "ca", "--out", home / "collector")
    return home / "ca"


def code(folder: Path, device: str) -> dict[str, Any]:
    value = json.loads(good("code", folder, "--device", device, "--model", "V2", "--json"))
    assert isinstance(value, dict)
    return value


@contextmanager
def serve(folder: Path) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The server as a process; its log lines are there once it has ended."""
    lines: list[dict[str, Any]] = []
    process = subprocess.Popen(
        [*RUN, "serve", str(folder), "--host", "127.0.0.1", "--port", "0", "--log-format", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["ready"] is True
        yield ready["port"], lines
    finally:
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=30)[1]
    assert process.returncode == 0
    lines += [json.loads(line) for line in errors.splitlines()]


def device_at(folder: Path, port: int, device: str = "car-1") -> Device:
    root, issuer = (
        x509.load_pem_x509_certificate((folder / f"{n}.crt").read_bytes()) for n in ("root", "tls")
    )
    return Device(folder.parent, port, root, Identity("fund", device), chain=(issuer,))


# --- init, code, list --------------------------------------------------------------------------------


def test_init_says_what_it_made_and_what_to_put_away(tmp_path: Path) -> None:
    first = run("init", tmp_path / "ca", "--tenant", "fund", "--host", "localhost")
    assert (first.returncode, first.stderr.count("made ")) == (0, 8)
    assert f"now move {tmp_path / 'ca' / 'offline'} to a medium that is kept offline" in first.stdout
    again = json.loads(good("init", tmp_path / "ca", "--tenant", "fund", "--host", "localhost", "--json"))
    assert (again["made"], again["root_key_here"]) == ([], True)
    root = x509.load_pem_x509_certificate((tmp_path / "ca" / "root.crt").read_bytes())
    assert again["fingerprint"] in first.stdout
    assert ca.read_fingerprint(again["fingerprint"]) == root.fingerprint(ca._SHA256)


def test_a_code_is_shown_with_label_and_fingerprint(made: Path) -> None:
    value = code(made, "shown")
    label = claim.read_label(value["qr"])
    assert (label.device, label.model, claim.grouped(label.code)) == ("shown", "V2", value["code"])
    assert (value["tenant"], value["withdrawn"]) == ("fund", 0)
    second = run("code", made, "--device", "shown")
    assert second.returncode == 0
    assert "an earlier code of shown was not used; it is withdrawn" in second.stderr
    assert value["fingerprint"] in second.stdout
    assert value["code"] not in second.stdout
    everything = b"".join(file.read_bytes() for file in made.rglob("*") if file.is_file())
    assert label.code.encode() not in everything
    assert value["code"].encode() not in everything


@pytest.mark.parametrize("name", ["collector", "a/b", "+", "#", "../x", "Car", "", "a" * 64])
def test_names_that_no_device_has_are_refused(made: Path, name: str) -> None:
    result = run("code", made, f"--device={name}")
    assert (result.returncode, result.stdout) == (2, "")
    assert "holdfast ca" not in result.stderr.split(":")[0]
    assert "ca: " in result.stderr


def test_no_authority_for_the_reserved_tenant(tmp_path: Path) -> None:
    result = run("init", tmp_path / "ca", "--tenant", "cloud", "--host", "localhost")
    assert result.returncode == 2
    assert "reserved" in result.stderr


def test_an_open_code_is_listed(made: Path) -> None:
    code(made, "waiting")
    value = json.loads(good("list", made, "--json"))
    (claimed,) = [one for one in value["claims"] if one["device"] == "waiting"]
    assert claimed == {"device": "waiting", "model": "V2", "days_left": 89, "expired": False}
    assert value["authority_days_left"]["root"] > 7000
    assert "code not used" in good("list", made)


# --- what goes wrong ---------------------------------------------------------------------------------


def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    for command in (("list",), ("crl",), ("serve",), ("code", "--device", "a")):
        result = run(command[0], tmp_path, *command[1:])
        assert (result.returncode, result.stdout) == (1, "")
        assert "make one with `holdfast ca init`" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_lost_register_is_never_replaced_by_an_empty_one(tmp_path: Path) -> None:
    """An empty one would let revoked devices in again."""
    init = ("init", tmp_path / "ca", "--tenant", "fund", "--host", "localhost")
    good(*init)
    (tmp_path / "ca" / "ca.db").unlink()
    for command in (init, ("serve", tmp_path / "ca"), ("code", tmp_path / "ca", "--device", "a")):
        result = run(*command)
        assert (result.returncode, "ca.db is missing" in result.stderr) == (1, True)
    assert not (tmp_path / "ca" / "ca.db").exists()


def test_a_swapped_file_stops_every_command(tmp_path: Path) -> None:
    for name in ("ca", "other"):
        good("init", tmp_path / name, "--tenant", "fund", "--host", "localhost")
    (tmp_path / "ca" / "tls.crt").write_bytes((tmp_path / "other" / "tls.crt").read_bytes())
    for command in (("serve",), ("code", "--device", "a"), ("list",)):
        result = run(command[0], tmp_path / "ca", *command[1:])
        assert result.returncode == 1
        assert "tls.crt was swapped: it was not issued by this root" in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_may_not_read_the_keys_is_told_so(made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            status = ca_tool.guarded(lambda: ca_tool.listing(made, as_json=False))
            sys.stderr.flush()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 13
    assert "run this as the owner" in capfd.readouterr().err


def test_a_configuration_that_cannot_be_meant_is_a_usage_error(tmp_path: Path) -> None:
    good("init", tmp_path / "ca", "--tenant", "fund", "--host", "localhost")
    path = tmp_path / "ca" / "ca.toml"
    path.write_text(path.read_text().replace("days = 90", "days = 0"))
    result = run("serve", tmp_path / "ca")
    assert (result.returncode, result.stdout) == (2, "")
    assert "days is a whole number, 1 to 398" in result.stderr


def test_unknown_devices_and_reasons_are_refused(made: Path) -> None:
    unknown = run("revoke", made, "nobody", "--reason", "lost")
    assert (unknown.returncode, "was ever enrolled here" in unknown.stderr) == (1, True)
    reason = run("revoke", made, "nobody", "--reason", "because")
    assert (reason.returncode, "--reason is one of lost" in reason.stderr) == (2, True)


# --- serve -------------------------------------------------------------------------------------------


def test_enrolled_listed_revoked_while_the_server_runs(made: Path) -> None:
    with serve(made) as (port, lines):
        device = device_at(made, port)
        secret = code(made, "car-1")["code"]
        assert device.enrol_tls(secret).status == 200
        assert device.enrol_event().status == 200
        assert device.node()["tenant"] == "fund"
        rows = json.loads(good("list", made, "--json"))["devices"]["car-1"]
        assert [(row["purpose"], row["state"], row["days_left"]) for row in rows] == [
            ("tls", "valid", 89), ("event", "valid", 89),
        ]  # fmt: skip
        assert code(made, "car-1")["certificates_valid"] == 2
        assert "2 certificates revoked" in good("revoke", made, "car-1", "--reason", "lost")
        assert device.request("GET", est.NODE).code == "certificate_revoked"
        assert {row["state"] for row in json.loads(good("list", made, "--json"))["devices"]["car-1"]} == {
            "revoked"
        }
        assert "0 certificates revoked" in good("revoke", made, "car-1", "--reason", "lost")
    assert not (made.parent / "collector" / "devices" / "fund" / "car-1.crt").exists()
    events = [line.get("kind") for line in lines]
    assert events[0] == "ca_ready"
    assert events[-1] == "ca_stopped"
    assert events.count("enrolled") == 2
    assert secret not in json.dumps(lines)
    assert secret.replace("-", "") not in json.dumps(lines)


def test_the_lists_satisfy_openssl(made: Path, tmp_path: Path) -> None:
    with serve(made) as (port, _):
        device = device_at(made, port, "gone")
        assert device.enrol_tls(code(made, "gone")["code"]).status == 200
    good("revoke", made, "gone", "--reason", "compromised")
    good("crl", made)
    assert device.tls is not None
    (tmp_path / "leaf.pem").write_bytes(pem(device.tls))
    verify = ["openssl", "verify", "-crl_check", "-CAfile", made / "root.crt", "-untrusted", made / "tls.crt"]
    result = subprocess.run(
        [*verify, "-CRLfile", made / "crl" / "tls.pem", tmp_path / "leaf.pem"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode != 0
    assert "certificate revoked" in result.stderr
    crl = x509.load_der_x509_crl((made / "crl" / "tls.crl").read_bytes())
    entry = crl.get_revoked_certificate_by_serial_number(device.tls.serial_number)
    assert entry is not None
    assert (
        entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
        is x509.ReasonFlags.key_compromise
    )


@pytest.mark.crash
def test_killed_with_kill_9_the_server_gives_the_same_certificate_again(made: Path) -> None:
    secret = code(made, "killed")["code"]
    process = subprocess.Popen(
        [*RUN, "serve", str(made), "--host", "127.0.0.1", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    device = device_at(made, json.loads(process.stdout.readline())["port"], "killed")
    first = device.enrol_tls(secret).certificate()
    process.kill()
    process.communicate()
    with serve(made) as (port, _):
        device.port = port
        assert device.enrol_tls(secret).certificate() == first
        assert device.enrol_event().status == 200


def test_a_device_that_the_collector_missed_is_handed_on_at_the_next_start(made: Path) -> None:
    file = made.parent / "collector" / "devices" / "fund" / "missed.crt"
    with serve(made) as (port, _):
        device = device_at(made, port, "missed")
        device.enrol_tls(code(made, "missed")["code"])
        device.enrol_event()
    data = file.read_bytes()
    file.unlink()
    with serve(made):
        assert file.read_bytes() == data


def test_a_port_that_is_taken_is_said(made: Path) -> None:
    with serve(made) as (port, _):
        result = run("serve", made, "--host", "127.0.0.1", "--port", port)
    assert result.returncode == 1
    assert "Address already in use" in result.stderr


# --- sign --------------------------------------------------------------------------------------------


def test_a_device_without_network_is_enrolled_by_files(made: Path, tmp_path: Path) -> None:
    tls, event = ca.new_key(), ca.new_key()
    identity = Identity("fund", "offline")
    csrs = (make_csr(tls, identity), make_csr(event, identity))
    request = OfflineRequest(identity, code(made, "offline")["code"], *csrs)
    (tmp_path / "request.json").write_bytes(request.to_json())
    good("sign", made, tmp_path / "request.json", "--out", tmp_path / "response.json")
    first = (tmp_path / "response.json").read_bytes()
    response = OfflineResponse.from_json(first)
    assert x509.load_pem_x509_certificates(response.tls_crt)[0].public_key() == tls.public_key()
    assert x509.load_pem_x509_certificate(response.event_crt).public_key() == event.public_key()
    good("sign", made, tmp_path / "request.json", "--out", tmp_path / "response.json")
    assert (tmp_path / "response.json").read_bytes() == first
    rows = json.loads(good("list", made, "--json"))["devices"]["offline"]
    assert [row["purpose"] for row in rows] == [purpose.value for purpose in Purpose]


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"version": 2}', b"[" * 100_000])
def test_a_request_file_that_is_none_is_refused(made: Path, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "request.json").write_bytes(data)
    result = run("sign", made, tmp_path / "request.json", "--out", tmp_path / "response.json")
    assert (result.returncode, result.stdout) == (30, "")
    assert "request" in result.stderr
    assert not (tmp_path / "response.json").exists()


def test_a_wrong_code_in_a_file_is_refused_without_being_repeated(made: Path, tmp_path: Path) -> None:
    wrong = claim.make_code(b"wrong wrong w")
    csrs = (make_csr(ca.new_key(), CAR), make_csr(ca.new_key(), CAR))
    (tmp_path / "request.json").write_bytes(OfflineRequest(CAR, wrong, *csrs).to_json())
    result = run("sign", made, tmp_path / "request.json", "--out", tmp_path / "response.json")
    assert result.returncode == 30
    assert "not known here" in result.stderr
    assert wrong not in result.stderr
    assert not (tmp_path / "response.json").exists()


# --- broker, renewal ---------------------------------------------------------------------------------


def test_the_broker_gets_its_certificate(made: Path, tmp_path: Path) -> None:
    good("broker", made, "--out", tmp_path / "broker")
    keys = tmp_path / "broker" / "keys"
    result = subprocess.run(
        ["openssl", "verify", "-CAfile", keys / "ca.crt", "-untrusted", keys / "tls.crt",
         "-purpose", "sslserver", "-verify_hostname", "broker.example", keys / "tls.crt"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_issuing_certificates_are_renewed_only_with_the_roots_key(tmp_path: Path) -> None:
    folder, phrase = tmp_path / "ca", tmp_path / "phrase"
    phrase.write_text("correct horse\n")
    good("init", folder, "--tenant", "fund", "--host", "localhost", "--passphrase-file", phrase)
    (folder / "offline").rename(tmp_path / "safe")
    result = run("renew-issuing", folder, "--passphrase-file", phrase)
    assert result.returncode == 1
    assert "bring" in result.stderr
    (tmp_path / "safe").rename(folder / "offline")
    assert run("renew-issuing", folder).returncode == 1
    assert "valid until" in good("renew-issuing", folder, "--passphrase-file", phrase)


def test_an_empty_passphrase_is_no_passphrase(tmp_path: Path) -> None:
    (tmp_path / "phrase").write_text("\n")
    result = run(
        "init", tmp_path / "ca", "--tenant", "fund", "--host", "h", "--passphrase-file", tmp_path / "phrase"
    )
    assert result.returncode == 1
    assert "holds no passphrase" in result.stderr
    assert not (tmp_path / "ca").exists()
