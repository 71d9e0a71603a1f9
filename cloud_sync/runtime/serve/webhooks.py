"""Webhooks: CloudEvents 1.0 over HTTP in structured mode, signed as Standard Webhooks 1.0 says.

Where a request may go is decided on the addresses that it is about to connect to, not on the name: a name is
resolved once, every address must be allowed, and the connection is made to that address while Host and TLS
go by the name. So neither a literal address, nor a name that resolves to the inside, nor one that resolves
differently the second time reaches anything private.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

import httpx

from cloud_sync.errors import BadRequest, CloudError
from cloud_sync.runtime.serve.outbound import Delivered, Due, Gone, Later, Outcome

CONNECT_S: Final = 5.0
TOTAL_S: Final = 10.0
"""For everything from resolving to the end of the answer: one that answers byte by byte ends here."""
MAX_ANSWER_BYTES: Final = 1024
"""Read of an answer's body; the status is all that counts."""
MAX_ADDRESSES: Final = 3
"""Addresses of one name that are tried in turn."""
SECRET_BYTES: Final = 24
"""Standard Webhooks, section "Signature scheme": 24 .. 64 bytes."""
CONTENT_TYPE: Final = "application/cloudevents+json; charset=UTF-8"
"""CloudEvents HTTP protocol binding 1.0, section 3.2."""
MAX_URL_CHARS: Final = 500
RESOLVERS: Final = 32
"""Names that are looked up at once; a look-up that hangs outlasts the message that wanted it."""

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Addresses of a host name, in the order in which to try them. Raises OSError."""
_NAME = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9-]{1,63}", re.ASCII)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_GONE: Final = 410


class TargetRefused(CloudError):
    """A webhook's address may not be connected to."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a webhook goes, with its secret."""

    url: str
    secret: str


def new_secret() -> str:
    """A signing secret: `whsec_` and base64 (Standard Webhooks)."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def sign(secret: str, message: str, timestamp_s: int, body: bytes) -> str:
    """The `webhook-signature` of `body`: HMAC-SHA256 over `<id>.<timestamp>.<body>`, version 1."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error as error:
        raise CloudError("a webhook's secret is damaged: remove the webhook and make a new one") from error
    signed = f"{message}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def check_url(text: str, *, allow_private: bool) -> httpx.URL:
    """The address of a webhook as it is saved. Raises BadRequest with what to write instead.

    Names are not resolved here: what counts is what they resolve to when a message is sent.
    """
    if len(text) > MAX_URL_CHARS or not text.isascii() or not text.isprintable() or " " in text:
        raise BadRequest(f"the address must be plain ASCII of at most {MAX_URL_CHARS} characters, no spaces")
    try:
        url = httpx.URL(text)
        port = url.port
    except (httpx.InvalidURL, ValueError) as error:
        raise BadRequest("this is no web address: write https://host/path") from error
    host = _host(url)
    if url.scheme not in ("https", "http") or not (_literal(host) or _NAME.fullmatch(host)):
        raise BadRequest("this is no web address: write https://host/path")
    if url.userinfo or url.fragment:
        raise BadRequest("no user, password or #fragment in the address: messages are signed instead")
    if port is not None and not 1 <= port <= 65535:
        raise BadRequest("the port must be 1 .. 65535")
    literal = _literal(host)
    loopback = host == "localhost" or (literal is not None and literal.is_loopback)
    if url.scheme == "http" and not (allow_private and loopback):
        raise BadRequest("http is refused: write https:// (anybody on the way could read an http message)")
    if not allow_private and (host == "localhost" or host.endswith((".localhost", ".local", ".internal"))):
        raise BadRequest(_private(host))
    if not allow_private and literal is not None and not is_public(str(literal)):
        raise BadRequest(_private(host))
    return url


def is_public(address: str) -> bool:
    """Whether `address` is one of the public internet: not private, loopback, link-local (which holds the
    metadata services of clouds), shared, reserved or multicast, also not as IPv4 within IPv6."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip.teredo is not None:
            return False
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local or int(ip) >> 32 == 0:  # fec0::/10, and ::a.b.c.d
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


class Resolver:
    """The system's resolver, in threads of its own: a name server that hangs holds up nothing else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVERS, "resolve")

    async def __call__(self, host: str, port: int) -> list[str]:
        """Addresses of `host`. Raises OSError."""
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class WebhookSender:
    """Posts messages to webhooks."""

    def __init__(
        self,
        find: Callable[[Due], Awaitable[Target | None]],
        wall_ms: Callable[[], int],
        *,
        allow_private: bool = False,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        total_s: float = TOTAL_S,
    ) -> None:
        """`find` gives a message's target (None: removed or disabled meanwhile)."""
        self._find = find
        self._wall_ms = wall_ms
        self._allow_private = allow_private
        self._resolver = Resolver()
        self._resolve: Resolve = resolve or self._resolver
        self._total_s = total_s
        self._client = httpx.AsyncClient(
            verify=tls or ssl.create_default_context(),
            trust_env=False,  # a proxy of the environment would connect to what was refused here
            follow_redirects=False,
            timeout=httpx.Timeout(total_s, connect=CONNECT_S),
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def close(self) -> None:
        """Close what is open."""
        await self._client.aclose()
        self._resolver.close()

    async def __call__(self, item: Due) -> Outcome:
        """Send one message once."""
        target = await self._find(item)
        if target is None:
            return Gone("the webhook was removed or disabled")
        try:
            async with asyncio.timeout(self._total_s):
                return await self._attempt(target, item)
        except TimeoutError:
            return Later(f"no answer within {self._total_s:g} s")
        except TargetRefused as error:
            return Later(str(error))
        except httpx.TimeoutException:
            return Later(f"no answer within {self._total_s:g} s")
        except httpx.HTTPError as error:
            return Later(f"connection failed: {_plain(error)}")
        except OSError as error:
            return Later(f"the host cannot be found: {error.strerror or 'no such name'}")
        except UnicodeError:
            return Later("the host cannot be found: its name is not possible")

    async def _attempt(self, target: Target, item: Due) -> Outcome:
        try:
            url = check_url(target.url, allow_private=self._allow_private)
        except BadRequest as error:
            raise TargetRefused(str(error)) from error
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = await self._addresses(url, port)
        last: httpx.ConnectError | httpx.ConnectTimeout | None = None
        for address in addresses[:MAX_ADDRESSES]:
            try:
                return await self._post(url, address, target, item)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                last = error
        raise last or httpx.ConnectError("no address")

    async def _addresses(self, url: httpx.URL, port: int) -> list[str]:
        host = _host(url)
        literal = _literal(host)
        found = [str(literal)] if literal else await self._resolve(host, port)
        for address in found:
            if self._allow_private:
                if url.scheme == "http" and not ipaddress.ip_address(address.split("%")[0]).is_loopback:
                    raise TargetRefused("http is refused except to this machine itself: write https://")
            elif not is_public(address):
                raise TargetRefused(_private(host))
        return found

    async def _post(self, url: httpx.URL, address: str, target: Target, item: Due) -> Outcome:
        body = item.parcel.body.encode()
        timestamp_s = self._wall_ms() // 1000
        request = self._client.build_request(
            "POST",
            url.copy_with(host=address),
            content=body,
            headers={
                "Host": url.netloc.decode("ascii"),
                "Content-Type": CONTENT_TYPE,
                "User-Agent": "holdfast",
                "Accept-Encoding": "identity",
                "Connection": "close",
                "webhook-id": item.parcel.message,
                "webhook-timestamp": str(timestamp_s),
                "webhook-signature": sign(target.secret, item.parcel.message, timestamp_s, body),
            },
            extensions={"sni_hostname": _host(url)} if url.scheme == "https" else {},
        )
        response = await self._client.send(request, stream=True)
        try:
            return await _judge(response)
        finally:
            await response.aclose()


async def _judge(response: httpx.Response) -> Outcome:
    status = response.status_code
    if 200 <= status < 300:
        await _read_a_little(response)
        return Delivered()
    if status == _GONE:
        return Gone("the target answered 410 Gone: it wants no more messages")
    if 300 <= status < 400:
        return Later(f"the target answered {status}; redirects are not followed: enter its final address")
    return Later(f"the target answered {status}", _retry_after_s(response.headers.get("retry-after")))


async def _read_a_little(response: httpx.Response) -> None:
    """A short answer is read to its end, so that the target does not see a broken connection."""
    seen = 0
    try:
        async for chunk in response.aiter_raw(MAX_ANSWER_BYTES):
            seen += len(chunk)
            if seen >= MAX_ANSWER_BYTES:
                return
    except httpx.HTTPError:
        return  # the status has arrived: the target has the message


def _retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After (RFC 9110, section 10.2.3); its date form is left to our own delays."""
    return (
        float(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 7 else None
    )


def _host(url: httpx.URL) -> str:
    """The host in ASCII (httpx's own `host` decodes xn-- and fails on what is none), without a last dot."""
    return url.raw_host.decode("ascii").lower().removesuffix(".")


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        pass
    try:  # 127.1, 0x7f000001, 2130706433: what the system's resolver takes for IPv4
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _private(host: str) -> str:
    return (
        f"{host[:100]} is inside a private network or this machine: messages go to public addresses alone "
        "unless serve.toml says [webhooks] allow_private = true"
    )


def _plain(error: httpx.HTTPError) -> str:
    text = " ".join(str(error).split())
    return text[:150] if text and text.isprintable() else type(error).__name__
