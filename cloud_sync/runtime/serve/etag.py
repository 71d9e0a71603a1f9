"""JSON answers on their way out: a weak ETag, 304 for who has it already, and gzip.

The tag is the hash of the body without its `now` (every list says the time, and the time alone is no news):
weak in the sense of RFC 9110, section 8.8.1. Event streams and files pass untouched.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from typing import Final

import anyio.to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MIN_GZIP_BYTES: Final = 1000
THREAD_BYTES: Final = 64 << 10
"""Larger bodies are compressed in a thread: the map of 10,000 vehicles must not hold up the others."""
GZIP_LEVEL: Final = 5
NO_GZIP: Final = ("/api/v1/session", "/api/v1/enter")
"""Answers with a secret beside what a caller chose: their length must not tell anything (BREACH)."""
_NOW: Final = re.compile(rb',?"now":"[0-9TZ:.-]{20,30}"')
"""Only a key of ours: within a JSON text a quotation mark is escaped."""


def weak_tag(body: bytes) -> str:
    """The weak ETag of a JSON body."""
    return f'W/"{hashlib.sha256(_NOW.sub(b"", body)).hexdigest()[:32]}"'


def matches(header: str, etag: str) -> bool:
    """Whether If-None-Match names `etag` (weak comparison; RFC 9110, section 13.1.2)."""
    if header.strip() == "*":
        return True
    opaque = etag.removeprefix("W/")
    gzipped = opaque[:-1] + '-gz"'
    return any(one.strip().removeprefix("W/") in (opaque, gzipped) for one in header.split(","))


def accepts_gzip(header: str) -> bool:
    """Whether Accept-Encoding allows gzip (RFC 9110, section 12.5.3)."""
    for one in header.lower().split(","):
        name, _, weight = one.strip().partition(";")
        if name.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


class FinishJson:
    """Adds the tag and the compression; pure ASGI, so that streams stay streams."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await self.app(scope, receive, _Finisher(scope, send))


class _Finisher:
    """Holds a JSON answer back until it is whole; passes everything else on at once."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._start: Message | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = Headers(raw=message["headers"]).get("content-type", "")
            if kind.partition(";")[0] not in ("application/json", "application/geo+json"):
                await self._send(message)
                return
            if "content-encoding" in Headers(raw=message["headers"]):
                await self._send(message)
                return
            self._start = message
            return
        if self._start is None or message["type"] != "http.response.body":
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            await self._finish(self._start, bytes(self._body))

    async def _finish(self, start: Message, body: bytes) -> None:
        request = Headers(scope=self._scope)
        headers = MutableHeaders(raw=list(start["headers"]))
        if self._scope["method"] in ("GET", "HEAD") and start["status"] == 200 and "etag" not in headers:
            headers["ETag"] = weak_tag(body)
            if matches(request.get("if-none-match", ""), headers["ETag"]):
                del headers["content-length"]
                del headers["content-type"]
                await self._send({"type": "http.response.start", "status": 304, "headers": headers.raw})
                await self._send({"type": "http.response.body", "body": b""})
                return
        headers.add_vary_header("Accept-Encoding")
        if (
            len(body) >= MIN_GZIP_BYTES
            and accepts_gzip(request.get("accept-encoding", ""))
            and not self._scope["path"].startswith(NO_GZIP)
        ):
            body = await _compress(body)
            headers["Content-Encoding"] = "gzip"
            headers["Content-Length"] = str(len(body))
        await self._send({**start, "headers": headers.raw})
        await self._send({"type": "http.response.body", "body": body})


async def _compress(body: bytes) -> bytes:
    if len(body) < THREAD_BYTES:
        return gzip.compress(body, GZIP_LEVEL, mtime=0)
    return await anyio.to_thread.run_sync(lambda: gzip.compress(body, GZIP_LEVEL, mtime=0))
