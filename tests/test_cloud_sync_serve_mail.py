"""Mail over real sockets: what arrives, and what happens when the server does not do its part."""

from __future__ import annotations

import asyncio
import email
import email.policy
import ipaddress
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import pytest
from aiosmtpd.smtp import SMTP as Server
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword
from aiosmtpd.smtp import Session as SmtpSession
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloud_sync.errors import BadRequest, ConfigError
from cloud_sync.runtime.serve import outbound, rule_store
from cloud_sync.runtime.serve.config import Smtp
from cloud_sync.runtime.serve.db import ServeDb
from cloud_sync.runtime.serve.mail import MailSender, check_address, compose
from cloud_sync.runtime.serve.outbound import (
    EMAIL,
    Delivered,
    Deliverer,
    Due,
    Later,
    Outcome,
    Parcel,
    Refused,
)

NOW = 1_796_100_000_000
TEXT = "The car moves 41 m, no wheel turns.\n车轮未转动。\n.\nline after a dot\n"


def due(subject: str = "Blue van – moved 车", target: str = "a@fund.example", number: int = 5) -> Due:
    parcel = Parcel("fund", EMAIL, target, "msg_1", subject, TEXT)
    return Due(number, parcel, parcel.lane, NOW)


class Box:
    """A mail server's handler that keeps what came."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, list[str], EmailMessage]] = []
        self.secure: list[bool] = []
        self.logins: list[str] = []
        self.rcpt = self.mail = self.data = "250 OK"

    async def handle_MAIL(
        self, server: Server, session: SmtpSession, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.mail.startswith("250"):
            envelope.mail_from = address
        return self.mail

    async def handle_RCPT(
        self, server: Server, session: SmtpSession, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.rcpt.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.rcpt

    async def handle_DATA(self, server: Server, session: SmtpSession, envelope: Envelope) -> str:
        if self.data.startswith("250"):
            content = cast(bytes, envelope.content)
            parsed = email.message_from_bytes(content, policy=email.policy.default)
            self.mails.append((envelope.mail_from or "", list(envelope.rcpt_tos), cast(EmailMessage, parsed)))
            self.secure.append(session.ssl is not None)
        return self.data

    def login(
        self, server: Server, session: SmtpSession, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append(data.login.decode())
        return AuthResult(success=data.password == b"right", handled=False)


@asynccontextmanager
async def serving(box: Box, **settings: Any) -> Any:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Server(box, loop=loop, authenticator=box.login, hostname="mx.test", **settings),
        "127.0.0.1",
        0,
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def send(
    port: int,
    item: Due | None = None,
    *,
    tls: str = "none",
    user: str | None = None,
    password: str = "right",
    context: ssl.SSLContext | None = None,
    **more: Any,
) -> Outcome:
    smtp = Smtp("127.0.0.1", port, "Holdfast <watch@fund.example>", user, None, tls)  # type: ignore[arg-type]
    sender = MailSender(
        smtp, lambda: password, lambda: "https://hf.example", lambda: NOW, tls=context, **more
    )
    return await sender(item or due())


def play(box: Box, item: Due | None = None, **more: Any) -> Outcome:
    async def run() -> Outcome:
        async with serving(box) as port:
            return await send(port, item, **more)

    return asyncio.run(run())


def test_a_mail_arrives_whole_and_marked() -> None:
    box = Box()
    assert play(box) == Delivered()
    sender, recipients, mail = box.mails[0]
    assert (sender, recipients) == ("watch@fund.example", ["a@fund.example"])
    assert mail["From"] == "Holdfast <watch@fund.example>"
    assert mail["Subject"] == "Blue van – moved 车"
    assert mail["Message-ID"] == "<msg_1.5@fund.example>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["List-Id"] == "<incidents.fund.fund.example>"
    assert mail["List-Unsubscribe"] == "<https://hf.example/#/admin/rules>"
    assert mail["Date"] == "Tue, 01 Dec 2026 04:40:00 +0000"
    assert mail.get_content_type() == "text/plain"
    assert mail.get_content().replace("\r\n", "\n") == TEXT


def test_the_id_is_the_same_at_every_attempt() -> None:
    mails = [compose(due(), "watch@fund.example", "https://hf.example", NOW + n) for n in range(2)]
    assert mails[0]["Message-ID"] == mails[1]["Message-ID"]
    other = compose(due(number=6), "watch@fund.example", "https://hf.example", NOW)
    assert other["Message-ID"] != mails[0]["Message-ID"]


@pytest.mark.parametrize(
    "bad", ["van\r\nBcc: all@evil.example", "van\nX: y\n\n<b>", "van\x00\x0b\x85\u2028Bcc: x"]
)
def test_a_subject_cannot_begin_another_header(bad: str) -> None:
    box = Box()
    assert play(box, due(subject=bad)) == Delivered()
    mail = box.mails[0][2]
    assert mail["Bcc"] is None
    assert mail["X"] is None
    assert box.mails[0][1] == ["a@fund.example"]
    assert mail["Subject"].startswith("van ")
    assert mail.get_content().replace("\r\n", "\n") == TEXT


@pytest.mark.parametrize(
    "address",
    [
        "", "a", "a@", "@b", "a@b@c", "a b@c.example", "a@b.example\r\nBcc: x@y", "a@b.example,c@d.example",
        "<a@b.example>",
        '"a b"@c.example', "Li <a@b.example>", "a@-b.example", "a@b..example", ".a@b.example",
        "a..b@c.example",
        "ä@b.example", "a@münchen.example", "a@b.example;c@d.example", "x" * 65 + "@b.example",
        "a@" + "b" * 250, "a@b.example\n",
    ],
)  # fmt: skip
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(BadRequest, match="no mail address"):
        check_address(address)
    assert isinstance(play(Box(), due(target=address)), Refused)


@pytest.mark.parametrize("address", ["a@b", "first.last+tag@sub.fund.example", "o'neil_{x}@b-c.example"])
def test_what_is_an_address(address: str) -> None:
    assert check_address(address) == address


# --- a server that does not do its part ------------------------------------------------------------------


@pytest.mark.parametrize("step", ["rcpt", "mail", "data"])
@pytest.mark.parametrize(
    ("reply", "kind"), [("450 4.2.0 greylisted", Later), ("550 5.1.1 no such user", Refused)]
)
def test_4xx_waits_and_5xx_is_for_good(step: str, reply: str, kind: type[Outcome]) -> None:
    box = Box()
    setattr(box, step, reply)
    outcome = play(box)
    assert isinstance(outcome, kind)
    assert isinstance(outcome, Later | Refused)
    assert reply in outcome.error
    assert box.mails == []


def test_a_server_that_refuses_the_connection() -> None:
    outcome = asyncio.run(send(1))
    assert isinstance(outcome, Later)
    assert "mail server" in outcome.error


Raw = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def _close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _busy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"554 go away\r\n")
    await writer.drain()
    writer.close()


async def _web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()
    writer.close()


async def _drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            writer.write(b"220-x\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)
    except ConnectionError:
        pass


@pytest.mark.parametrize("raw", [_hang, _close, _busy, _web, _drip])
def test_a_server_that_is_none_is_tried_again_later(raw: Raw) -> None:
    async def run() -> Outcome:
        server = await asyncio.start_server(raw, "127.0.0.1", 0)
        try:
            return await send(server.sockets[0].getsockname()[1], timeout_s=0.4, total_s=0.8)
        finally:
            server.close()

    outcome = asyncio.run(run())
    assert isinstance(outcome, Later)
    assert "the mail server" in outcome.error


# --- TLS and login -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
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


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return server, ssl.create_default_context(cafile=str(folder / "cert.pem"))


@pytest.mark.parametrize(("password", "kind"), [("right", Delivered), ("wrong", Later)])
def test_starttls_and_login(certificate: Path, password: str, kind: type[Outcome]) -> None:
    server, client = contexts(certificate)
    box = Box()

    async def run() -> Outcome:
        async with serving(box, tls_context=server, require_starttls=True, auth_required=True) as port:
            return await send(port, tls="starttls", user="watch", password=password, context=client)

    outcome = asyncio.run(run())
    assert isinstance(outcome, kind)
    assert box.logins == ["watch"]  # one attempt, not one a mechanism
    assert box.secure == ([True] if kind is Delivered else [])
    if isinstance(outcome, Later):
        assert "check [smtp] user and password" in outcome.error
        assert "wrong" not in outcome.error


@pytest.mark.parametrize("trusted", [True, False])
def test_a_server_whose_certificate_is_not_trusted_gets_nothing(certificate: Path, trusted: bool) -> None:
    server, client = contexts(certificate)
    box = Box()

    async def run() -> Outcome:
        async with serving(box, tls_context=server, require_starttls=True) as port:
            return await send(port, tls="starttls", context=client if trusted else None)

    assert isinstance(asyncio.run(run()), Delivered if trusted else Later)
    assert len(box.mails) == trusted


def test_a_server_without_starttls_gets_nothing() -> None:
    box = Box()
    assert isinstance(play(box, tls="starttls"), Later)
    assert box.mails == []


def test_a_password_that_cannot_be_read_is_said() -> None:
    def missing() -> str:
        raise ConfigError("secret smtp.password: no such file")

    async def run() -> Outcome:
        async with serving(Box(), auth_require_tls=False) as port:
            smtp = Smtp("127.0.0.1", port, "watch@fund.example", "watch", "smtp.password", "none")
            return await MailSender(smtp, missing, lambda: "https://hf.example", lambda: NOW)(due())

    assert asyncio.run(run()) == Later("secret smtp.password: no such file")


# --- down for a day ----------------------------------------------------------------------------------------


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[ServeDb]:
    found = ServeDb(tmp_path / "serve.db")
    with found.transaction() as db:
        rule_store.migrate(db)
    yield found
    found.close()


def test_a_mail_server_that_was_down_for_a_day_gets_everything(serve: ServeDb) -> None:
    with serve.transaction() as db:
        for n in range(6):
            outbound.enqueue(
                db, Parcel("fund", EMAIL, f"a{n % 3}@fund.example", f"msg_{n}", f"s{n}", TEXT), NOW
            )
    box, clock = Box(), [NOW]

    class Work:
        async def read(self, step: Any) -> Any:
            with serve.reading() as db:
                return step(db)

        async def write(self, step: Any) -> Any:
            with serve.transaction() as db:
                return step(db)

    async def run() -> None:
        port = [1]  # nobody listens there

        async def sender(item: Due) -> Outcome:
            return await send(port[0], item)

        deliverer = Deliverer(Work(), {EMAIL: sender}, lambda: clock[0], lambda: 0.5)
        while clock[0] < NOW + 86_400_000:
            await deliverer.step()
            await deliverer.settle_all()
            clock[0] += 600_000
        with serve.reading() as db:
            assert {row["state"] for row in outbound.rows(db, "fund", None, None, 10)} == {"waiting"}
        assert box.mails == []
        async with serving(box) as port[0]:
            for _ in range(20):
                while await deliverer.step():
                    await deliverer.settle_all()
                clock[0] += 600_000

    asyncio.run(run())
    assert sorted(mail["Subject"] for _, _, mail in box.mails) == [f"s{n}" for n in range(6)]
    assert len({mail["Message-ID"] for _, _, mail in box.mails}) == 6
    with serve.reading() as db:
        assert {row["state"] for row in outbound.rows(db, "fund", None, None, 10)} == {"delivered"}
