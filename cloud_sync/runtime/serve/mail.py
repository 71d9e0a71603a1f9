"""Messages by mail: plain text over SMTP (RFC 5321), one message an address.

The Message-ID is made of the delivery's id, so that one sent twice (the server took it, and its answer was
lost) is recognised as the same. Every text passes `clean` before it becomes a header.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from typing import Final

import aiosmtplib

from cloud_sync.errors import BadRequest, ConfigError
from cloud_sync.notices import MAX_SUBJECT_CHARS, clean
from cloud_sync.runtime.serve.config import Smtp
from cloud_sync.runtime.serve.outbound import Delivered, Due, Later, Outcome, Refused

TIMEOUT_S: Final = 30.0
"""For each step of the conversation: greylisting servers answer slowly."""
TOTAL_S: Final = 120.0
"""For all of it: a server that answers letter by letter ends here."""
MAX_ADDRESS_CHARS: Final = 254
"""RFC 5321, section 4.5.3.1.3, less the angle brackets."""

_ADDRESS = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?",
    re.ASCII,
)


def check_address(text: str) -> str:
    """`text` as a plain mail address (RFC 5321 dot-string and host name). Raises BadRequest."""
    local = text.rpartition("@")[0]
    if len(text) > MAX_ADDRESS_CHARS or len(local) > 64 or not _ADDRESS.fullmatch(text):
        raise BadRequest(
            f"{clean(text, 60)!r} is no mail address: write name@host alone, in ASCII, one address an entry"
        )
    return text


class MailSender:
    """Sends messages through one mail server, a connection each."""

    def __init__(
        self,
        smtp: Smtp,
        password: Callable[[], str] | None,
        base_url: Callable[[], str],
        wall_ms: Callable[[], int],
        *,
        timeout_s: float = TIMEOUT_S,
        total_s: float = TOTAL_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`password` is read at each login, so that a new one needs no restart."""
        self._smtp = smtp
        self._password = password
        self._base_url = base_url
        self._wall_ms = wall_ms
        self._timeout_s = timeout_s
        self._total_s = total_s
        self._tls = tls

    async def __call__(self, item: Due) -> Outcome:
        """Send one message once."""
        try:
            check_address(item.parcel.target)
        except BadRequest as error:
            return Refused(str(error))
        try:
            async with asyncio.timeout(self._total_s):
                await self._send(item)
        except (aiosmtplib.SMTPRecipientsRefused, aiosmtplib.SMTPRecipientRefused) as error:
            first = error.recipients[0] if isinstance(error, aiosmtplib.SMTPRecipientsRefused) else error
            return _answered(first.code, first.message, "the address")
        except (aiosmtplib.SMTPSenderRefused, aiosmtplib.SMTPDataError) as error:
            return _answered(error.code, error.message, "the message")
        except aiosmtplib.SMTPAuthenticationError as error:
            return Later(f"the mail server refuses the login ({error.code}): check [smtp] user and password")
        except aiosmtplib.SMTPResponseException as error:
            return Later(f"the mail server answered {error.code} {clean(error.message, 150)}")
        except TimeoutError:
            return Later(f"the mail server did not answer within {self._timeout_s:g} s")
        except aiosmtplib.SMTPException as error:
            return Later(f"the mail server: {clean(error, 200)}")
        except ConfigError as error:
            return Later(clean(error, 200))
        except (OSError, ValueError) as error:
            return Later(f"the mail server cannot be reached: {clean(error, 150)}")
        return Delivered()

    async def _send(self, item: Due) -> None:
        smtp = self._smtp
        client = aiosmtplib.SMTP(
            hostname=smtp.host,
            port=smtp.port,
            timeout=self._timeout_s,
            use_tls=smtp.tls == "tls",
            start_tls=smtp.tls == "starttls",
            tls_context=self._tls,
            local_hostname=_domain(smtp.sender),
        )
        await client.connect()
        try:
            if smtp.user and self._password:
                await _log_in(client, smtp.user, self._password())
            await client.send_message(
                compose(item, smtp.sender, self._base_url(), self._wall_ms()),
                sender=parseaddr(smtp.sender)[1],
                recipients=[item.parcel.target],
            )
            with contextlib.suppress(aiosmtplib.SMTPException):  # it has the mail; a good-bye is courtesy
                await client.quit()
        finally:
            client.close()


async def _log_in(client: aiosmtplib.SMTP, user: str, password: str) -> None:
    """One attempt by PLAIN where it is offered: every mechanism in turn would be so many wrong passwords.
    Without TLS there is only a server on this machine (serve.toml sees to that)."""
    await client.ehlo()
    if "plain" in client.supported_auth_methods:
        await client.auth_plain(user, password)
    else:
        await client.login(user, password)


def compose(item: Due, sender: str, base_url: str, now_ms: int) -> EmailMessage:
    """The mail of `item`: RFC 5322, marked as made by a machine (RFC 3834) and as of a list (RFC 2919)."""
    parcel = item.parcel
    mail = EmailMessage(policy=SMTP)
    domain = _domain(sender)
    mail["From"] = sender
    mail["To"] = parcel.target
    mail["Subject"] = clean(parcel.subject, MAX_SUBJECT_CHARS)
    mail["Date"] = format_datetime(datetime.fromtimestamp(now_ms / 1000, UTC))
    mail["Message-ID"] = f"<{parcel.message}.{item.id}@{domain}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Auto-Response-Suppress"] = "All"
    mail["List-Id"] = f"<incidents.{parcel.tenant}.{domain}>"
    mail["List-Unsubscribe"] = f"<{base_url.rstrip('/')}/#/admin/rules>"
    mail.set_content(parcel.body, subtype="plain", charset="utf-8")
    return mail


def _answered(code: int, message: str, what: str) -> Outcome:
    said = f"the mail server refuses {what}: {code} {clean(message, 200)}"
    return Refused(said) if 500 <= code < 600 else Later(said)


def _domain(sender: str) -> str:
    host = parseaddr(sender)[1].rpartition("@")[2]
    return host if host.isascii() else host.encode("idna").decode("ascii")
