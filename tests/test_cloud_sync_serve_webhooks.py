"""Webhooks over real sockets: signed, confined to allowed addresses, and patient with bad targets."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured
from cloudevents.core.formats.json import JSONFormat
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from cloud_sync import notices
from cloud_sync.errors import BadRequest, CloudError
from cloud_sync.runtime.serve.outbound import WEBHOOK, Delivered, Due, Gone, Later, Outcome, Parcel
from cloud_sync.runtime.serve.webhooks import (
    Resolver,
    Target,
    WebhookSender,
    check_url,
    is_public,
    new_secret,
    sign,
)
from cloud_sync.words import Words

SECRET = new_secret()
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def event(identity: str = "msg_1") -> str:
    message = notices.compose_test("fund", "hook", Words("en", {}), "https://hf.example", 1_796_100_000_000)
    return json.dumps(notices.cloud_event(message, identity), ensure_ascii=False)


def due(identity: str = "msg_1") -> Due:
    parcel = Parcel("fund", WEBHOOK, "hook", identity, "subject", event(identity), 1)
    return Due(1, parcel, parcel.lane, 0)


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Receiver:
    """A server on loopback that keeps what it got and answers as told."""

    status: int = 200
    headers: str = ""
    body: bytes = b"ok"
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    answer: Answer | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            if self.answer is not None:
                await self.answer(reader, writer)
                return
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.split("\r\n")
            headers = {
                name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)
            }
            body = await reader.readexactly(int(headers["content-length"]))
            self.got.append((headers | {":path": lines[0]}, body))
            writer.write(
                f"HTTP/1.1 {self.status} X\r\n{self.headers}Content-Length: {len(self.body)}\r\n\r\n".encode()
                + self.body
            )
            await writer.drain()
        finally:
            writer.close()


@asynccontextmanager
async def listening(receiver: Receiver, tls: ssl.SSLContext | None = None) -> Any:
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()


async def send(url: str, *, allow_private: bool = True, **settings: Any) -> Outcome:
    async def find(item: Due) -> Target:
        return Target(url, SECRET)

    sender = WebhookSender(find, wall_ms, allow_private=allow_private, **settings)
    try:
        return await sender(due())
    finally:
        await sender.close()


def play(receiver: Receiver, path: str = "/in?key=1", **settings: Any) -> Outcome:
    async def run() -> Outcome:
        async with listening(receiver):
            return await send(f"http://127.0.0.1:{receiver.port}{path}", **settings)

    return asyncio.run(run())


# --- signatures and events, checked by libraries of others ----------------------------------------------


def test_a_receiver_can_check_signature_and_event() -> None:
    receiver = Receiver()
    assert play(receiver) == Delivered()
    headers, body = receiver.got[0]
    assert headers[":path"] == "POST /in?key=1 HTTP/1.1"
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    assert headers["content-type"] == "application/cloudevents+json; charset=UTF-8"
    assert Verifier(SECRET).verify(body, headers)["id"] == "msg_1"
    read = from_structured(HTTPMessage(headers, body), JSONFormat())
    assert (read.get_id(), read.get_type()) == (headers["webhook-id"], "net.holdfast.test.v1")


@pytest.mark.parametrize("what", ["body", "webhook-id", "webhook-timestamp", "secret"])
def test_what_was_changed_on_the_way_is_noticed(what: str) -> None:
    receiver = Receiver()
    play(receiver)
    headers, body = receiver.got[0]
    secret = SECRET
    if what == "body":
        body = body.replace(b"msg_1", b"msg_2")
    elif what == "secret":
        secret = new_secret()
    else:
        headers = headers | {what: str(int(headers[what]) + 1) if what.endswith("timestamp") else "msg_2"}
    with pytest.raises(WebhookVerificationError):
        Verifier(secret).verify(body, headers)


def test_the_signature_is_that_of_the_specification() -> None:
    # Standard Webhooks, specification, "Signature scheme": id, timestamp and payload of its example
    secret, message = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert sign(secret, message, 1_614_265_330, b'{"test": 2432232314}') == expected


def test_secrets_differ_and_a_damaged_one_is_said() -> None:
    assert len({new_secret() for _ in range(50)}) == 50
    with pytest.raises(CloudError, match="damaged"):
        sign("whsec_!", "m", 1, b"")


# --- answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "outcome"),
    [
        (200, "", Delivered()),
        (204, "", Delivered()),
        (299, "", Delivered()),
        (410, "", Gone("the target answered 410 Gone: it wants no more messages")),
        (500, "", Later("the target answered 500")),
        (404, "", Later("the target answered 404")),
        (429, "Retry-After: 30\r\n", Later("the target answered 429", 30.0)),
        (503, "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n", Later("the target answered 503")),
        (503, "Retry-After: -1\r\n", Later("the target answered 503")),
    ],
)
def test_what_an_answer_means(status: int, headers: str, outcome: Outcome) -> None:
    body = b"" if status == 204 else b"ok"
    assert play(Receiver(status, headers, body)) == outcome


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    receiver = Receiver(status, "Location: http://127.0.0.1:1/else\r\n")
    outcome = play(receiver)
    assert isinstance(outcome, Later)
    assert "redirects are not followed" in outcome.error
    assert receiver.connections == 1


def test_a_huge_answer_is_not_read() -> None:
    written = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while written < 64_000_000:
                writer.write(b"x" * 65_536)
                written += 65_536
                await writer.drain()
        except ConnectionError:
            pass

    assert play(Receiver(answer=flood)) == Delivered()
    assert written < 64_000_000


async def _hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the other side gives up


async def _drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    try:
        for char in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 100_000:
            writer.write(bytes([char]))
            await writer.drain()
            await asyncio.sleep(0.02)
    except ConnectionError:
        pass


async def _close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    await writer.drain()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (_hang, "no answer within 0.4 s"),
        (_drip, "no answer within 0.4 s"),
        (_close, "connection failed"),
        (_nonsense, "connection failed"),
    ],
)
def test_a_bad_target_is_a_failure_with_a_reason(answer: Answer, error: str) -> None:
    outcome = play(Receiver(answer=answer), total_s=0.4)
    assert isinstance(outcome, Later)
    assert error in outcome.error


def test_a_target_that_refuses_the_connection() -> None:
    outcome = asyncio.run(send("http://127.0.0.1:1/"))
    assert isinstance(outcome, Later)
    assert outcome.error.startswith("connection failed")


def test_a_webhook_that_was_removed_meanwhile() -> None:
    async def run() -> Outcome:
        async def find(item: Due) -> None:
            return None

        sender = WebhookSender(find, wall_ms)
        try:
            return await sender(due())
        finally:
            await sender.close()

    assert isinstance(asyncio.run(run()), Gone)


# --- where a request may go ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.9.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "100.100.100.200", "0.0.0.0", "255.255.255.255", "224.0.0.1", "192.0.2.1", "198.18.0.1", "240.0.0.1",
        "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1",
        "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1",
        "2002:7f00:1::", "2002:a00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    ],
)  # fmt: skip
def test_addresses_of_the_inside(address: str) -> None:
    assert is_public(address) is False


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_addresses_of_the_internet(address: str) -> None:
    assert is_public(address) is True


@pytest.mark.parametrize(
    "url",
    [
        "http://hook.example/", "ftp://hook.example/", "https://", "https:///x", "hook.example", "",
        "javascript:alert(1)",
        "https://user:pw@hook.example/", "https://hook.example/#part", "https://hook.example:0/",
        "https://hook.example:99999/", "https://hook.example/a b", "https://hook.example/\r\nX: y",
        "https://hook.example/" + "x" * 500, "https://[::1/", "https://localhost/", "https://x.localhost/",
        "https://printer.local/", "https://metadata.google.internal/", "https://127.0.0.1/", "https://127.1/",
        "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/", "https://[::1]/", "https://10.0.0.1/",
        "https://[::ffff:10.0.0.1]/", "https://169.254.169.254/latest/meta-data/", "https://münchen.example/",
        "https://%00/", "https://a%2fb/", "https://10.0.0.1./", "https://localhost./", "https://a..b/", "https://.a/",
        "https://" + "a" * 64 + ".example/",
    ],
)  # fmt: skip
def test_addresses_that_are_not_saved(url: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_url(url, allow_private=False)
    assert len(str(caught.value)) > 20


@pytest.mark.parametrize(
    "url",
    [
        "https://hook.example/a?b=c",
        "https://hook.example:8443/",
        "HTTPS://Hook.Example./",
        "https://xn--a/",
        "https://a_b.c-d.example/",
        "https://1.1.1.1/",
        "https://[2606:4700::1111]/x",
    ],
)
def test_addresses_that_are_saved(url: str) -> None:
    check_url(url, allow_private=False)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://127.0.0.1:8080/", True),
        ("http://localhost/", True),
        ("https://10.0.0.1/", True),
        ("http://10.0.0.1/", False),
        ("http://hook.example/", False),
    ],
)
def test_what_allow_private_allows(url: str, allowed: bool) -> None:
    if allowed:
        check_url(url, allow_private=True)
    else:
        with pytest.raises(BadRequest):
            check_url(url, allow_private=True)


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["169.254.169.254"], ["::ffff:127.0.0.1"], ["1.1.1.1", "127.0.0.1"]],
)
def test_a_name_that_leads_inside_is_refused_before_anything_connects(addresses: list[str]) -> None:
    receiver = Receiver()
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return addresses

    async def run() -> Outcome:
        async with listening(receiver):
            url = f"https://rebind.example:{receiver.port}/"
            return await send(url, allow_private=False, resolve=resolve)

    outcome = asyncio.run(run())
    assert isinstance(outcome, Later)
    assert "inside a private network" in outcome.error
    assert asked == ["rebind.example"]
    assert receiver.connections == 0


def test_a_literal_saved_when_it_was_allowed_is_refused_later() -> None:
    receiver = Receiver()
    outcome = play(receiver, allow_private=False)
    assert isinstance(outcome, Later)
    assert receiver.connections == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hook.example")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hook.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder


@pytest.mark.parametrize(("host", "works"), [("hook.example", True), ("other.example", False)])
def test_tls_goes_by_the_name_and_the_connection_by_the_address(
    certificate: Path, host: str, works: bool
) -> None:
    receiver = Receiver()
    names: list[str | None] = []
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server.sni_callback = lambda sock, name, context: names.append(name)
    lookups = 0

    async def resolve(name: str, port: int) -> list[str]:
        nonlocal lookups
        lookups += 1
        return ["127.0.0.1"] if lookups == 1 else ["192.0.2.1"]

    async def run() -> Outcome:
        async with listening(receiver, server):
            trusted = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
            return await send(f"https://{host}:{receiver.port}/in", resolve=resolve, tls=trusted)

    outcome = asyncio.run(run())
    assert names == [host]
    assert lookups == 1
    if works:
        assert outcome == Delivered()
        assert receiver.got[0][0]["host"] == f"hook.example:{receiver.port}"
    else:
        assert isinstance(outcome, Later)
        assert receiver.got == []


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert play(Receiver()) == Delivered()


def test_the_second_address_is_tried_when_the_first_does_not_answer() -> None:
    receiver = Receiver()

    async def resolve(name: str, port: int) -> list[str]:
        return ["127.255.255.254", "127.0.0.1"]

    async def run() -> Outcome:
        async with listening(receiver):
            return await send(f"http://localhost:{receiver.port}/", resolve=resolve)

    assert asyncio.run(run()) == Delivered()


def test_a_name_that_is_not_there_is_said() -> None:
    async def resolve(name: str, port: int) -> list[str]:
        raise OSError(-2, "Name or service not known")

    outcome = asyncio.run(send("https://nowhere.example/", resolve=resolve))
    assert outcome == Later("the host cannot be found: Name or service not known")


def test_a_name_that_cannot_be_looked_up_is_said() -> None:
    async def resolve(name: str, port: int) -> list[str]:
        raise UnicodeError("label too long")  # what Python's own resolver says of some names

    outcome = asyncio.run(send("https://nowhere.example/", resolve=resolve))
    assert outcome == Later("the host cannot be found: its name is not possible")


def test_the_resolver_of_the_system() -> None:
    async def run() -> list[str]:
        resolver = Resolver()
        try:
            return await resolver("127.0.0.1", 80)
        finally:
            resolver.close()

    assert asyncio.run(run()) == ["127.0.0.1"]
