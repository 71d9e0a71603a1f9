"""The enrolment server over real TLS: what it gives, what it refuses and in which words, and never half."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import logging
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from firmware_bridge.runtime.journal import Journal
from provisioning import ca, est
from provisioning.ca import Purpose
from provisioning.claim import MAX_WRONG, make_code
from provisioning.csr import make_csr
from provisioning.errors import Refusal
from provisioning.est import OfflineRequest, OfflineResponse
from provisioning.identity import Identity
from provisioning.runtime import ca_admin, ca_service, est_codec, est_log, est_server
from provisioning.runtime.ca_db import Register
from provisioning.runtime.ca_keys import key_pem, pem
from tests.ca_kit import CAR, Answered, Device, World, serving

WRONG = make_code(b"wrong wrong w")
TLS_PATH = est.enroll_path(Purpose.TLS)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.register.close()


@pytest.fixture
def server(world: World) -> Iterator[est_server.EstServer]:
    with serving(world) as running:
        yield running


@pytest.fixture
def device(world: World, server: est_server.EstServer, tmp_path: Path) -> Device:
    return another(world, server.port, CAR)


def another(world: World, port: int, identity: Identity) -> Device:
    chain = (world.opened.tls.certificate,)
    return Device(world.home, port, world.opened.root, identity, chain=chain)


def enrolled(world: World, device: Device) -> Device:
    assert device.enrol_tls(world.code(device.identity)).status == 200
    assert device.enrol_event().status == 200
    return device


def refused(answer: Answered, status: int, code: str) -> None:
    """A problem in our words, and nothing else."""
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    problem = json.loads(answer.body)
    assert (problem["code"], set(problem)) == (code, {"code", "detail", "remedy"})
    assert problem["detail"]
    assert problem["remedy"]


def issued(world: World) -> int:
    return len(world.register.everything())


# --- what it gives -----------------------------------------------------------------------------------


def test_a_device_gets_both_certificates_and_all_it_needs(
    world: World, device: Device, tmp_path: Path
) -> None:
    enrolled(world, device)
    assert device.tls is not None
    event = x509.load_pem_x509_certificate(world.device_file().read_bytes())
    assert ca.verify_event_certificate(event, world.opened.event.certificate, world.clock()) == CAR
    assert event.public_key() == device.event_key.public_key()
    for certificate in (device.tls, event):
        lives = certificate.not_valid_after_utc - world.clock()
        assert timedelta(days=90) - lives < timedelta(seconds=2)
        assert world.clock() - certificate.not_valid_before_utc == timedelta(hours=1)
    node = device.node()
    assert (node["tenant"], node["device"]) == ("fund", "car-1")
    assert node["uplink"] == {"host": "broker.example", "port": 8883, "server_name": "broker.example"}
    assert node["trust"] == json.loads((world.collector / "trust.json").read_text())


def test_the_certificates_satisfy_openssl(world: World, device: Device, tmp_path: Path) -> None:
    enrolled(world, device)
    assert device.tls is not None
    opened = world.opened
    (tmp_path / "tls.pem").write_bytes(pem(device.tls))
    for purpose, leaf, issuer in (
        ("sslclient", tmp_path / "tls.pem", opened.path / "tls.crt"),
        ("any", world.device_file(), opened.path / "event.crt"),
    ):
        command = [
            "openssl",
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            opened.path / "root.crt",
        ]
        result = subprocess.run(
            [*command, "-untrusted", issuer, leaf], capture_output=True, text=True, check=False
        )
        assert (result.returncode, result.stdout) == (0, f"{leaf}: OK\n"), result.stderr


def test_the_answer_is_of_the_form_that_rfc_7030_wants(world: World, device: Device) -> None:
    answer = device.enrol_tls(world.code())
    assert answer.headers["content-type"] == "application/pkcs7-mime; smime-type=certs-only"
    assert answer.headers["content-transfer-encoding"] == "base64"
    der = base64.b64decode(answer.body)
    shown = subprocess.run(
        ["openssl", "pkcs7", "-inform", "DER", "-print_certs", "-noout"],
        input=der, capture_output=True, check=True,
    ).stdout.decode()  # fmt: skip
    assert shown.count("subject=") == 1
    assert "fund/car-1" in shown
    everybody = device.request("GET", est.CACERTS, mtls=False)
    assert everybody.headers["content-type"] == "application/pkcs7-mime"
    assert est.read_certs_only(everybody.body)[0] == world.opened.root
    assert len(est.read_certs_only(everybody.body)) == 3


def test_a_lost_answer_is_given_again(world: World, device: Device) -> None:
    code = world.code()
    first, again = device.enrol_tls(code).certificate(), device.enrol_tls(code).certificate()
    assert first == again
    assert device.enrol_event().certificate() == device.enrol_event().certificate()
    assert issued(world) == 2


def test_a_code_is_taken_as_people_type_it(world: World, device: Device) -> None:
    code = world.code()
    assert device.enrol_tls(f"{code[:5]}-{code[5:]}".lower().replace("0", "o")).status == 200


def test_renewal_gives_new_certificates_and_the_old_event_key_stays_believed(
    world: World, device: Device
) -> None:
    enrolled(world, device)
    old_event = x509.load_pem_x509_certificate(world.device_file().read_bytes())
    world.clock.forward(60)
    new_tls, new_event = ca.new_key(), ca.new_key()
    tls = device.renew(Purpose.TLS, new_tls).certificate()
    event = device.renew(Purpose.EVENT, new_event).certificate()
    assert tls.not_valid_after_utc - world.clock() == timedelta(days=90)
    assert event.not_valid_before_utc < old_event.not_valid_after_utc
    assert x509.load_pem_x509_certificates(world.device_file().read_bytes()) == [event, old_event]
    device.tls, device.tls_key = tls, new_tls
    assert device.node()["device"] == "car-1"
    assert device.renew(Purpose.EVENT, new_event).certificate() == event
    assert issued(world) == 4


def test_the_same_key_is_certified_anew_only_when_that_is_due(world: World, device: Device) -> None:
    enrolled(world, device)
    assert device.renew(Purpose.TLS, device.tls_key).certificate() == device.tls
    world.clock.forward(61)
    assert device.renew(Purpose.TLS, device.tls_key).certificate() != device.tls


def test_the_event_certificate_may_wait_until_after_a_renewal(world: World, device: Device) -> None:
    assert device.enrol_tls(world.code()).status == 200
    world.clock.forward(70)
    new = ca.new_key()
    device.tls, device.tls_key = device.renew(Purpose.TLS, new).certificate(), new
    assert device.enrol_event().status == 200


def test_the_revocation_list_is_handed_out(world: World, device: Device) -> None:
    enrolled(world, device)
    revoke(world)
    answer = device.request("GET", est.crl_path(Purpose.TLS), mtls=False)
    crl = x509.load_der_x509_crl(answer.body)
    assert answer.headers["content-type"] == "application/pkix-crl"
    assert crl.is_signature_valid(world.opened.tls.key.public_key())
    assert device.tls is not None
    assert crl.get_revoked_certificate_by_serial_number(device.tls.serial_number) is not None


# --- bad input: claim codes --------------------------------------------------------------------------


def test_a_used_code_is_refused_to_another_key(
    world: World, server: est_server.EstServer, device: Device
) -> None:
    code = world.code()
    assert device.enrol_tls(code).status == 200
    refused(another(world, server.port, CAR).enrol_tls(code), 409, "code_used")
    assert device.enrol_event().status == 200
    device.event_key = ca.new_key()
    refused(device.enrol_event(), 409, "code_used")
    assert issued(world) == 2


def test_a_wrong_code_is_refused(world: World, device: Device) -> None:
    world.code()
    answer = device.enrol_tls(WRONG)
    refused(answer, 401, "code_unknown")
    assert answer.headers["www-authenticate"] == 'Basic realm="claim code"'
    refused(device.enrol_tls("not a code"), 401, "code_malformed")
    refused(device.post(TLS_PATH, make_csr(device.tls_key, CAR)), 401, "code_missing")
    assert issued(world) == 0


@pytest.mark.parametrize(
    "header", ["Basic", "Bearer x", "Basic !!!", "Basic " + base64.b64encode(b"root:x").decode()]
)
def test_other_credentials_are_refused(device: Device, header: str) -> None:
    headers = {"Content-Type": est.CSR_TYPE, "Authorization": header}
    body = est.encode_der(make_csr(device.tls_key, CAR))
    refused(device.request("POST", TLS_PATH, body, headers), 401, "code_missing")


def test_an_expired_code_is_refused(world: World, device: Device) -> None:
    code = world.code(days=10)
    world.clock.forward(11)
    refused(device.enrol_tls(code), 403, "code_expired")
    assert issued(world) == 0


def test_a_foreign_code_is_refused(world: World, server: est_server.EstServer) -> None:
    code = world.code()
    refused(another(world, server.port, Identity("fund", "car-2")).enrol_tls(code), 403, "code_foreign")
    refused(another(world, server.port, Identity("other", "car-1")).enrol_tls(code), 403, "foreign_tenant")
    assert issued(world) == 0


def test_a_second_code_withdraws_the_first(world: World, device: Device) -> None:
    first, second = world.code(), world.code()
    refused(device.enrol_tls(first), 403, "code_withdrawn")
    assert device.enrol_tls(second).status == 200


def test_who_guesses_must_wait(world: World, server: est_server.EstServer, device: Device) -> None:
    code = world.code()
    for _ in range(MAX_WRONG):
        refused(device.enrol_tls(WRONG), 401, "code_unknown")
    answer = device.enrol_tls(code)
    refused(answer, 429, "too_many_wrong_codes")
    assert int(answer.headers["retry-after"]) > 0
    refused(
        another(world, server.port, Identity("fund", "car-2")).enrol_tls(code), 429, "too_many_wrong_codes"
    )


def test_two_devices_with_one_code_at_once_exactly_one_wins(
    world: World, server: est_server.EstServer
) -> None:
    for round_ in range(5):
        identity = Identity("fund", f"twin-{round_}")
        code, twins = world.code(identity), [another(world, server.port, identity) for _ in range(6)]
        start, answers = threading.Barrier(len(twins)), []

        def enrol(
            twin: Device, code: str = code, start: threading.Barrier = start, to: list[Answered] = answers
        ) -> None:
            start.wait()
            to.append(twin.enrol_tls(code))

        threads = [threading.Thread(target=enrol, args=(twin,)) for twin in twins]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answer.status for answer in answers) == [200] + [409] * 5
        assert len(world.register.of_device(identity)) == 1


def test_two_processes_with_one_code_at_once_exactly_one_wins(world: World) -> None:
    """Each process signs offline with the same code and keys of its own, as soon as it is told."""
    script = (
        "import sys; from pathlib import Path; from tests.test_provisioning_est_server import sign_here;"
        "print('ready', flush=True); sys.stdin.read(1); print(sign_here(Path(sys.argv[1]), sys.argv[2]))"
    )
    for _ in range(3):
        command = [sys.executable, "-c", script, str(world.folder), world.code()]
        processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("g")
            process.stdin.flush()
        said = sorted(process.communicate(timeout=30)[0].strip() for process in processes)
        assert said == ["code_used", "signed"]
    assert issued(world) == 6


def sign_here(folder: Path, code: str) -> str:
    """For a process of its own."""
    from provisioning.runtime.ca_files import load

    register = Register(folder / "ca.db")
    try:
        ca_service.Enrolment(load(folder), register).sign_offline(offline(code))
    except Refusal as refusal:
        return refusal.code
    finally:
        register.close()
    return "signed"


# --- bad input: names, keys, clocks, certificates ----------------------------------------------------


def test_a_request_with_another_name_is_refused(world: World, device: Device) -> None:
    enrolled(world, device)
    stranger = make_csr(ca.new_key(), Identity("fund", "car-2"))
    for path in (est.enroll_path(Purpose.EVENT), *(est.enroll_path(p, again=True) for p in Purpose)):
        refused(device.post(path, stranger), 403, "name_mismatch")
    assert issued(world) == 2


@pytest.mark.parametrize("name", ["car/1", "+", "#", "car-1/#", "../car-1", "Car-1", "", "a" * 64])
def test_device_ids_with_slashes_or_wildcards_are_refused(world: World, device: Device, name: str) -> None:
    key = ca.new_key()
    names = [x509.UniformResourceIdentifier(f"urn:holdfast:fund:{name}")]
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .sign(key, ca._SHA256)
    )
    refused(device.post(TLS_PATH, csr.public_bytes(Encoding.DER), world.code()), 400, "bad_request")
    assert issued(world) == 0


@pytest.mark.parametrize("identity", [Identity("fund", "collector"), Identity("cloud", "car-1")])
def test_reserved_names_are_refused(world: World, device: Device, identity: Identity) -> None:
    refused(device.post(TLS_PATH, make_csr(ca.new_key(), identity), world.code()), 403, "reserved_name")


def test_one_key_is_certified_for_one_thing(
    world: World, server: est_server.EstServer, device: Device
) -> None:
    assert device.enrol_tls(world.code()).status == 200
    refused(device.post(est.enroll_path(Purpose.EVENT), make_csr(device.tls_key, CAR)), 409, "key_reused")
    thief = Identity("fund", "car-2")
    answer = device.post(TLS_PATH, make_csr(device.tls_key, thief), world.code(thief), mtls=False)
    refused(answer, 409, "key_reused")
    assert device.enrol_event().status == 200
    assert issued(world) == 2


@pytest.mark.parametrize("year", [1970, 2099])
def test_a_server_whose_clock_is_wrong_refuses_and_says_which_clock(
    world: World, device: Device, year: int
) -> None:
    code, right = world.code(), world.clock.at
    world.clock.at = datetime(year, 1, 1, tzinfo=UTC)
    answer = device.enrol_tls(code)
    refused(answer, 503, "server_clock")
    assert f"the clock of the enrolment server says {year}" in json.loads(answer.body)["detail"]
    assert issued(world) == 0
    world.clock.at = right
    assert device.enrol_tls(code).status == 200


def test_an_expired_client_certificate_is_refused_with_what_to_do(world: World, device: Device) -> None:
    enrolled(world, device)
    world.clock.forward(91)
    answer = device.renew(Purpose.TLS, ca.new_key())
    refused(answer, 403, "certificate_expired")
    assert "claim code" in json.loads(answer.body)["remedy"]
    device.tls_key, device.event_key = ca.new_key(), ca.new_key()
    enrolled(world, device)


def revoke(world: World) -> None:
    ca_admin.revoke(world.opened, world.register, CAR, x509.ReasonFlags.key_compromise, world.clock())


def test_a_revoked_device_is_out_until_a_new_code(world: World, device: Device) -> None:
    code = world.code()
    assert device.enrol_tls(code).status == 200
    assert device.enrol_event().status == 200
    assert world.device_file().exists()
    revoke(world)
    assert not world.device_file().exists()
    assert world.device_file().with_suffix(".revoked").exists()
    refused(device.renew(Purpose.EVENT, ca.new_key()), 403, "certificate_revoked")
    refused(device.request("GET", est.NODE), 403, "certificate_revoked")
    refused(device.enrol_tls(code), 403, "revoked")
    device.tls, device.tls_key, device.event_key = None, ca.new_key(), ca.new_key()
    enrolled(world, device)
    (kept,) = x509.load_pem_x509_certificates(world.device_file().read_bytes())
    assert kept.public_key() == device.event_key.public_key()


def test_without_a_certificate_nothing_is_renewed(device: Device) -> None:
    for path in (est.enroll_path(Purpose.EVENT), est.enroll_path(Purpose.TLS, again=True)):
        refused(device.post(path, make_csr(ca.new_key(), CAR)), 403, "certificate_missing")
    refused(device.request("GET", est.NODE), 403, "certificate_missing")


def test_certificates_of_others_do_not_get_past_tls(world: World, device: Device) -> None:
    """Another authority's, and the event authority's: OpenSSL takes neither for a client's."""
    opened = world.opened
    validity = ca.Validity(world.clock() - timedelta(hours=1), world.clock() + timedelta(days=1))
    root = ca.make_root("other", ca.new_key(), validity)
    foreign = ca.make_issuing(root, "other TLS", ca.new_key(), Purpose.TLS, validity)
    public = device.tls_key.public_key()
    for device.tls, device.chain in (
        (ca.issue_tls_client(foreign, public, CAR, validity), (foreign.certificate,)),
        (ca.issue_event(opened.event, public, CAR, validity), (opened.event.certificate,)),
    ):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            device.request("GET", est.NODE)


def test_the_collector_is_no_device(world: World, device: Device) -> None:
    keys = world.collector / "keys"
    (world.home / "both.pem").write_bytes((keys / "tls.key").read_bytes() + (keys / "tls.crt").read_bytes())
    context = ssl.create_default_context(cafile=str(keys / "ca.crt"))
    context.load_cert_chain(world.home / "both.pem")
    with (
        socket.create_connection(("127.0.0.1", device.port)) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secure,
    ):
        secure.sendall(f"GET {est.NODE} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b"not_a_device" in read_all(secure)


def test_a_device_that_renews_without_end_is_stopped(world: World, device: Device) -> None:
    enrolled(world, device)
    for _ in range(ca_service.MAX_RENEWALS - 1):
        assert device.renew(Purpose.TLS, ca.new_key()).status == 200
    refused(device.renew(Purpose.TLS, ca.new_key()), 429, "too_many_renewals")


# --- never half done ---------------------------------------------------------------------------------


def test_a_collector_folder_that_is_in_the_way_is_said_and_made_good(world: World, device: Device) -> None:
    assert device.enrol_tls(world.code()).status == 200
    (world.collector / "devices").write_text("in the way")
    refused(device.enrol_event(), 503, "collector_folder")
    (world.collector / "devices").unlink()
    event = device.enrol_event().certificate()
    assert x509.load_pem_x509_certificate(world.device_file().read_bytes()) == event
    assert issued(world) == 2


def test_a_register_that_cannot_be_written_changes_nothing(
    world: World, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = world.code()
    with monkeypatch.context() as patch:
        patch.setattr(ca_service.Enrolment, "_validity", broken)
        refused(device.enrol_tls(code), 503, "server_trouble")
    assert issued(world) == 0
    assert device.enrol_tls(code).status == 200


def broken(*_: object) -> None:
    raise OSError(28, "No space left on device", "ca.db")


def test_without_a_collector_the_device_is_told_to_come_again(world: World, device: Device) -> None:
    enrolled(world, device)
    (world.collector / "trust.json").rename(world.collector / "away.json")
    refused(device.request("GET", est.NODE), 503, "no_collector")
    (world.collector / "away.json").rename(world.collector / "trust.json")
    assert device.node()["trust"]["origin"] == "log.example"


# --- offline -----------------------------------------------------------------------------------------


def offline(code: str, identity: Identity = CAR, event: Identity | None = None) -> OfflineRequest:
    tls, signer = ca.new_key(), ca.new_key()
    return OfflineRequest(identity, code, make_csr(tls, identity), make_csr(signer, event or identity))


def test_offline_gives_what_the_network_gives(world: World) -> None:
    request = offline(world.code())
    assert OfflineRequest.from_json(request.to_json()) == request
    response = world.enrolment.sign_offline(request)
    assert OfflineResponse.from_json(response.to_json()) == response
    assert world.enrolment.sign_offline(request) == response
    leaf, issuer = x509.load_pem_x509_certificates(response.tls_crt)
    assert issuer == world.opened.tls.certificate
    assert leaf.issuer == issuer.subject
    event = x509.load_pem_x509_certificate(response.event_crt)
    assert ca.verify_event_certificate(event, world.opened.event.certificate, world.clock()) == CAR
    assert world.device_file().read_bytes() == response.event_crt
    assert response.ca_crt == pem(world.opened.root)
    assert response.uplink["host"] == "broker.example"


def test_offline_refuses_by_the_same_rules_and_all_or_nothing(world: World) -> None:
    code = world.code()
    other = Identity("fund", "car-2")
    same = ca.new_key()
    twice = OfflineRequest(CAR, code, make_csr(same, CAR), make_csr(same, CAR))
    for request, expected in (
        (offline(WRONG), "code_unknown"),
        (offline("?"), "code_malformed"),
        (offline(code, other), "code_foreign"),
        (offline(code, CAR, other), "name_mismatch"),
        (twice, "key_reused"),
        (OfflineRequest(CAR, code, make_csr(same, CAR), b"\x30\x00xx"), "bad_request"),
    ):
        with pytest.raises(Refusal) as caught:
            world.enrolment.sign_offline(request)
        assert caught.value.code == expected
        assert issued(world) == 0
    world.enrolment.sign_offline(offline(code))
    with pytest.raises(Refusal) as caught:
        world.enrolment.sign_offline(offline(code))
    assert caught.value.code == "code_used"


# --- HTTP --------------------------------------------------------------------------------------------


def read_all(secure: ssl.SSLSocket) -> bytes:
    data = b""
    while part := secure.recv(65536):
        data += part
    return data


def raw(device: Device, data: bytes) -> bytes:
    context = ssl.create_default_context(cadata=pem(device.root).decode())
    with (
        socket.create_connection(("127.0.0.1", device.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(data)
        return read_all(secure)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /.well-known/est/tls/simpleenroll HTTP/1.1\r\n\r\n", 405),
        (b"POST /.well-known/est/cacerts HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405),
        (b"POST /.well-known/est/tls/simpleenroll HTTP/1.1\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: 16385\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nBad header: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: \xff\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"A: x\r\n" * 65 + b"\r\n", 431),
        (b"GET /" + b"a" * 8200, 431),
    ],
)
def test_http_is_taken_strictly(device: Device, data: bytes, status: int) -> None:
    answer = raw(device, data)
    assert answer.split(b"\r\n")[0].split(b" ")[:2] == [b"HTTP/1.1", str(status).encode()]
    assert set(json.loads(answer.split(b"\r\n\r\n")[1])) == {"code", "detail", "remedy"}


def test_a_client_may_ask_before_it_sends(world: World, device: Device) -> None:
    body = est.encode_der(make_csr(device.tls_key, CAR))
    head = (
        f"POST {TLS_PATH} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: {est.CSR_TYPE}\r\n"
        f"Authorization: {est.basic(world.code())}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    context = ssl.create_default_context(cadata=pem(device.root).decode())
    with (
        socket.create_connection(("127.0.0.1", device.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(head.encode())
        assert secure.recv(1024).startswith(b"HTTP/1.1 100 ")
        secure.sendall(body)
        assert read_all(secure).startswith(b"HTTP/1.1 200 ")


def test_bodies_that_are_no_request_are_refused(world: World, device: Device) -> None:
    headers = {"Content-Type": est.CSR_TYPE, "Authorization": est.basic(world.code())}
    for body in (b"", b"not base64!", b"-----BEGIN", base64.b64encode(b"\x30" + b"\0" * 5000)):
        refused(device.request("POST", TLS_PATH, body, headers), 400, "bad_request")
    other = {**headers, "Content-Type": "text/plain"}
    refused(device.request("POST", TLS_PATH, b"x", other), 415, "wrong_type")


def test_tls_below_1_2_is_refused(device: Device) -> None:
    body = (
        b"\x03\x02" + b"\0" * 32 + b"\0" + b"\0\x02\xc0\x09" + b"\x01\0"
    )  # hello of TLS 1.1, RFC 4346 7.4.1.2
    hello = b"\x01" + len(body).to_bytes(3, "big") + body
    with socket.create_connection(("127.0.0.1", device.port), timeout=20) as plain:
        plain.sendall(b"\x16\x03\x01" + len(hello).to_bytes(2, "big") + hello)
        alert = plain.recv(7)
    assert (alert[:1], alert[5:]) == (b"\x15", b"\x02\x46")  # fatal, protocol_version


def test_a_silent_client_is_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(est_server, "HANDSHAKE_S", 0.3)
    with serving(world) as server, socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain:
        assert plain.recv(1) == b""


def test_a_client_that_greets_and_says_nothing_is_cut_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(est_server, "DEADLINE_S", 600.0)
    monkeypatch.setattr(est_server, "HEAD_S", 0.3)
    context = ssl.create_default_context(cadata=pem(world.opened.root).decode())
    with (
        serving(world) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(b"GET /holdfast/v1/node HTTP/1.1\r\n")
        assert secure.recv(1) == b""


def test_one_address_cannot_keep_others_waiting(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle connections of one address, as many as it gets, with time-outs that do not end in this test."""
    assert est_server.PER_ADDRESS < est_server.WORKERS
    monkeypatch.setattr(est_server, "DEADLINE_S", 600.0)
    monkeypatch.setattr(est_server, "HANDSHAKE_S", 600.0)
    with serving(world) as server, contextlib.ExitStack() as held:
        for _ in range(est_server.WORKERS * 4):
            one = socket.create_connection(("127.0.0.1", server.port), 20, source_address=("127.0.0.2", 0))
            held.enter_context(one)
        device = Device(world.home, server.port, world.opened.root)
        assert device.enrol_tls(world.code()).status == 200
        server.tick()
        reason = {"reason": "too_many_connections"}
        counted = server.metrics.registry.get_sample_value("holdfast_ca_refused_total", reason)
    assert counted == est_server.WORKERS * 4 - est_server.PER_ADDRESS


def test_who_opens_too_many_connections_is_turned_away(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(est_server, "PER_ADDRESS", 2)
    with serving(world) as server, caplog.at_level(logging.WARNING, "enrol"):
        held = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(3)]
        assert held[2].recv(1) == b""
        server.tick()
        for one in held:
            one.close()
    assert [record.fields for record in caplog.records if record.kind.name == "turned_away"] == [  # type: ignore[attr-defined]
        {"count": 1, "peer": "127.0.0.1"}
    ]


def test_refusals_of_one_kind_are_not_all_told_one_by_one() -> None:
    out = io.StringIO()
    journal = Journal("holdfast-ca", stream=out, form="json")
    logging.getLogger("enrol").addHandler(journal)
    try:
        for _ in range(25):
            est_log.tell_refusal(Refusal(404, "not_found", "nothing", "look elsewhere"), "peer", "/x")
        est_log.tell_refusal(Refusal(401, "code_unknown", "unknown", "compare"), "peer", "/x")
    finally:
        logging.getLogger("enrol").removeHandler(journal)
    journal.close()
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [one["reason"] for one in told].count("not_found") == 21, "twenty, and one that counts the others"
    assert [one["text"] for one in told if "count" in one] == ["5 more of this kind were not written"]
    assert [one["reason"] for one in told].count("code_unknown") == 1, "another reason is not held back"


def test_a_fault_of_ours_ends_one_connection_and_is_told(
    world: World, device: Device, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.ERROR, "enrol"), monkeypatch.context() as patch:
        patch.setattr(est_server, "_CRLS", None)
        with pytest.raises((OSError, http.client.HTTPException)):
            device.request("GET", est.crl_path(Purpose.TLS))
    assert device.enrol_tls(world.code()).status == 200
    assert [vars(record)["kind"].name for record in caplog.records] == ["ca_fault"]


def test_no_claim_code_is_ever_logged(world: World, device: Device, caplog: pytest.LogCaptureFixture) -> None:
    code = world.code()
    with caplog.at_level(logging.DEBUG):
        device.enrol_tls(WRONG)
        device.enrol_tls(code)
        Device(world.home, device.port, device.root, chain=device.chain).enrol_tls(code)
        device.enrol_tls(code[:-1])
    logged = "".join(f"{record.getMessage()}{vars(record)}" for record in caplog.records)
    assert "code_used" in logged
    for secret in (code, code[:10], WRONG, est.basic(code), est.basic(code)[6:]):
        assert secret not in logged


# --- housekeeping ------------------------------------------------------------------------------------


def test_a_tick_sees_a_changed_configuration(
    world: World, device: Device, server: est_server.EstServer
) -> None:
    enrolled(world, device)
    path = world.folder / "ca.toml"
    path.write_text(path.read_text().replace("broker.example", "mqtt.example"))
    server.tick()
    assert device.node()["uplink"]["host"] == "mqtt.example"
    path.write_text("[ca")
    server.tick()
    assert device.node()["uplink"]["host"] == "mqtt.example"


def test_a_tick_renews_lists_and_its_own_certificate(world: World, server: est_server.EstServer) -> None:
    server.tick()
    first = x509.load_der_x509_crl((world.folder / "crl" / "tls.crl").read_bytes())
    certificate = (world.folder / "est" / "tls.crt").read_bytes()
    server.tick()
    assert x509.load_der_x509_crl((world.folder / "crl" / "tls.crl").read_bytes()) == first
    world.clock.forward(4)
    server.tick()
    second = x509.load_der_x509_crl((world.folder / "crl" / "tls.crl").read_bytes())
    numbers = [
        crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for crl in (first, second)
    ]
    assert numbers == [1, 2]
    assert second.next_update_utc == world.clock() + timedelta(days=7)
    assert (world.folder / "est" / "tls.crt").read_bytes() == certificate
    world.clock.forward(60)
    server.tick()
    assert (world.folder / "est" / "tls.crt").read_bytes() != certificate


def test_a_refusal_travels_and_other_answers_are_said_to_be_other(device: Device) -> None:
    answer = device.enrol_tls(WRONG)
    found = est.read_problem(answer.status, answer.body)
    assert (found.status, found.code) == (401, "code_unknown")
    assert est.read_problem(502, b"<html>").code == "http"
    assert est.read_problem(502, b'{"code": 1}').code == "http"
    assert b"Basic" not in est_codec.refusal_response(Refusal(403, "x", "y", "z"))


def test_a_key_and_certificate_as_a_node_keeps_them_open_a_connection(world: World, device: Device) -> None:
    enrolled(world, device)
    assert device.tls is not None
    (world.home / "k").write_bytes(key_pem(device.tls_key))
    (world.home / "c").write_bytes(pem(device.tls, world.opened.tls.certificate))
    shown = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{device.port}", "-servername", "localhost",
         "-CAfile", world.folder / "root.crt", "-key", world.home / "k", "-cert", world.home / "c"],
        input=f"GET {est.NODE} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        capture_output=True, check=False, timeout=30,
    )  # fmt: skip
    assert b"Verify return code: 0 (ok)" in shown.stdout
