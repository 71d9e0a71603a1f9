"""What every request passes first and every answer passes last; pure ASGI, so that streams stay streams.

In: one Host, on the list (a stranger's page whose name is turned to our address stops here: DNS rebinding);
address and headers of sane size; a body that is whole within BODY_S and not above MAX_BODY_BYTES; and what
writes comes from our own page (Sec-Fetch-Site, Origin), unless it carries a token. Out: the security headers,
a problem in place of what nobody caught, one log line without query, names or tokens.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloud_sync.runtime.kinds import serve_say as say
from cloud_sync.runtime.serve import metrics, problems
from cloud_sync.runtime.serve.config import is_loopback
from cloud_sync.runtime.serve.deps import SAFE_METHODS, Context
from cloud_sync.runtime.serve.problems import ApiProblem

MAX_BODY_BYTES: Final = 256 << 10
"""No request of ours is near it: the largest are a note or a rule."""
MAX_URL_CHARS: Final = 4096
"""Path with query: the longest filter has a few hundred."""
MAX_HEADERS: Final = 64
MAX_HEADER_BYTES: Final = 16 << 10
BODY_S: Final = 20.0
"""A body that trickles in holds nothing but this connection, and not for longer."""
LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "::1"})
SINGLE: Final = frozenset({b"host", b"authorization", b"content-type", b"content-length", b"x-csrf-token"})
"""Headers that may stand once: two of them are read differently by different software."""
PERMISSIONS: Final = "camera=(), geolocation=(), microphone=(), payment=(), usb=(), browsing-topics=()"


def content_policy(tiles: str | None) -> str:
    """The Content-Security-Policy; `tiles` is the source of map tiles."""
    images = "img-src 'self' data:" + (f" {tiles}" if tiles else "")
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; {images}; connect-src 'self'; "
        "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


def fixed_headers(context: Context) -> list[tuple[str, str]]:
    """The headers of every answer."""
    tiles = context.config.tiles
    found = [
        ("Content-Security-Policy", content_policy(tiles.source if tiles else None)),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Permissions-Policy", PERMISSIONS),
    ]
    if context.https:
        found.append(("Strict-Transport-Security", "max-age=31536000"))
    return found


def host_names(context: Context) -> frozenset[str]:
    """Names under which this server may be asked."""
    names = {(urlsplit(context.base_url).hostname or "").lower()}
    if is_loopback(context.config.host):
        names |= LOOPBACK_NAMES
    return frozenset(names)


class Guard:
    """The outermost layer."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self.app = app
        self.context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a websocket: nothing here speaks it
            await send({"type": "websocket.close", "code": 1008})
            return
        out = _Outgoing(self.context, scope, send)
        try:
            self._check(scope)
            whole = await _whole_body(Headers(scope=scope), receive)
            await self.app(scope, whole, out)
        except ApiProblem as problem:
            await self._refuse(problem, scope, receive, out)
        except Exception as error:  # noqa: BLE001 - the top of a request: logged and answered
            await self._refuse(problems.internal(error), scope, receive, out)
        finally:
            out.note()

    async def _refuse(self, problem: ApiProblem, scope: Scope, receive: Receive, out: _Outgoing) -> None:
        if out.status == 0:
            answer = problems.respond(problem.code, problem.detail, problem.remedy, problem.headers)
            answer.headers["Connection"] = "close"  # the rest of what was sent is not read
            await answer(scope, receive, out)

    def _check(self, scope: Scope) -> None:
        """Raises ApiProblem for a request that goes no further."""
        raw = scope["headers"]
        if len(raw) > MAX_HEADERS or sum(len(name) + len(value) for name, value in raw) > MAX_HEADER_BYTES:
            raise ApiProblem("header_too_large", f"At most {MAX_HEADERS} headers, {MAX_HEADER_BYTES} bytes.")
        names = [name for name, _ in raw if name in SINGLE]
        if len(names) != len(set(names)):
            raise ApiProblem("bad_request", "A header stands twice that may stand once.")
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_URL_CHARS:
            raise ApiProblem("url_too_long", f"At most {MAX_URL_CHARS} characters.")
        if any(ord(c) < 32 or ord(c) == 127 for c in scope["path"]):
            raise ApiProblem("bad_request", "The address has control characters.")
        headers = Headers(scope=scope)
        self._check_host(headers.get("host", ""))
        if scope["method"] not in SAFE_METHODS and "authorization" not in headers:
            self._check_origin(headers)

    def _check_host(self, host: str) -> None:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            name = ""
        if name.lower() not in host_names(self.context) or any(c in host for c in "/@?#\\ "):
            raise ApiProblem(
                "bad_host", "The Host header names another server.",
                "Use the address that base_url in serve.toml says.",
            )  # fmt: skip

    def _check_origin(self, headers: Headers) -> None:
        """Browsers say where a request comes from; programs without cookies say nothing and may pass."""
        site = headers.get("sec-fetch-site", "same-origin")
        origin = headers.get("origin")
        scheme = "https" if self.context.https else "http"
        own = (f"{scheme}://{headers.get('host', '')}", self.context.base_url)
        if site not in ("same-origin", "none") or (origin is not None and origin not in own):
            raise ApiProblem("origin", "Only this server's own page may write.", "Use the page itself.")


async def _whole_body(headers: Headers, receive: Receive) -> Receive:
    """The body read before anything else happens, given out as one message. Raises ApiProblem."""
    length = headers.get("content-length")
    if length is None and "transfer-encoding" not in headers:
        return receive
    if length is not None and (not length.isascii() or not length.isdigit() or len(length) > 12):
        raise ApiProblem("bad_request", "Content-Length is not a number.")
    if length is not None and int(length) > MAX_BODY_BYTES:
        raise ApiProblem("too_large", f"A request has at most {MAX_BODY_BYTES} bytes.")
    body = bytearray()
    last: Message = {"type": "http.request", "body": b"", "more_body": False}
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    last = message
                    break
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise ApiProblem("too_large", f"A request has at most {MAX_BODY_BYTES} bytes.")
                if not message.get("more_body", False):
                    last = {"type": "http.request", "body": bytes(body), "more_body": False}
                    break
    except TimeoutError as error:
        raise ApiProblem("slow", f"The body did not arrive within {BODY_S:.0f} s.") from error
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return last

    return again


class _Outgoing:
    """Adds the headers to an answer and remembers what is said of it in the log."""

    def __init__(self, context: Context, scope: Scope, send: Send) -> None:
        self._context = context
        self._scope = scope
        self._send = send
        self._began = time.monotonic()
        self._metrics = metrics.install(context)
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=list(message["headers"]))
            for name, value in fixed_headers(self._context):
                headers[name] = value
            if self._scope["path"].startswith(("/api/", "/auth/")) or self.status >= 400:
                headers["Cache-Control"] = "no-store"
            headers.setdefault("Cache-Control", "no-store")
            message = {**message, "headers": headers.raw}
        await self._send(message)

    def note(self) -> None:
        """One line: method, the route's pattern (never what stood in its place), status, duration."""
        route = self._scope.get("route")
        path = getattr(route, "path", None) or "(no route)"
        spent_ms = (time.monotonic() - self._began) * 1000
        self._metrics.answered(self._scope, self.status, spent_ms / 1000)
        method = str(self._scope["method"])
        say("request", method=method, route=path, status=self.status, spent_ms=round(spent_ms, 1))
