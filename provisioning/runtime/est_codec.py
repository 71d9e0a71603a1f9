"""HTTP/1.1 as the enrolment server takes it, and no more (RFC 9112): one request a connection, bounded.

Strict where leniency has been exploited: no chunked bodies, one Content-Length, no folded or malformed
header lines, no white space before a colon. What is refused is refused before anything is decided.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from provisioning.errors import Refusal
from provisioning.est import CSR_TYPE, MAX_BODY, REALM, problem

MAX_HEAD: Final = 8 * 1024
"""Request line and headers; ours have 300 bytes."""
MAX_LINES: Final = 64
"""Header lines; clients send a dozen at most."""
JSON_TYPE: Final = "application/json"
PROBLEM_TYPE: Final = "application/json"
_REASONS: Final = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 408: "Request Timeout", 409: "Conflict", 411: "Length Required",
    413: "Content Too Large", 415: "Unsupported Media Type", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented",
    503: "Service Unavailable", 505: "HTTP Version Not Supported",
}  # fmt: skip
_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")


@dataclass(frozen=True, slots=True)
class Head:
    """A request without its body. Header names are lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    length: int
    """Bytes of the body."""
    wants_continue: bool
    """The client waits for 100 Continue before it sends the body (RFC 9110 section 10.1.1)."""


def bad(status: int, code: str, detail: str) -> Refusal:
    """A refusal of the form of a request."""
    return Refusal(status, code, detail, "speak HTTP/1.1 as RFC 7030 has it")


def read_head(data: bytes) -> Head:
    """The request whose head, up to and without its empty line, is `data`. Raises Refusal."""
    try:
        lines = data.decode("ascii").split("\r\n")
    except UnicodeDecodeError as error:
        raise bad(400, "bad_http", "the request's head is not ASCII") from error
    method, path = _request_line(lines[0])
    if len(lines) - 1 > MAX_LINES:
        raise bad(431, "too_many_headers", f"more than {MAX_LINES} header lines")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        name = name.lower()
        if (
            not colon
            or not name
            or not _TOKEN.issuperset(name)
            or any(char < " " and char != "\t" for char in line)
        ):
            raise bad(400, "bad_http", "a header line is malformed")
        if name in headers and name in ("content-length", "host", "authorization", "content-type"):
            raise bad(400, "bad_http", f"the header {name} stands there twice")
        headers[name] = value.strip(" \t")
    if "transfer-encoding" in headers:
        raise bad(501, "chunked", "a transfer encoding is not taken here; send a Content-Length")
    return Head(method, path, headers, _length(method, headers), _continues(headers))


def _request_line(line: str) -> tuple[str, str]:
    parts = line.split(" ")
    if len(parts) != 3 or not parts[0].isalpha() or not parts[1].startswith("/"):
        raise bad(400, "bad_http", "the request line is malformed")
    if parts[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise bad(505, "bad_http", "only HTTP/1.1 is spoken here")
    return parts[0], parts[1]


def _length(method: str, headers: Mapping[str, str]) -> int:
    text = headers.get("content-length")
    if text is None:
        if method == "POST":
            raise bad(411, "no_length", "a POST needs a Content-Length")
        return 0
    if not text.isdigit() or len(text) > 9:
        raise bad(400, "bad_http", "Content-Length is no number")
    if int(text) > MAX_BODY:
        raise bad(413, "too_large", f"the body has {text} bytes, at most {MAX_BODY} are taken")
    return int(text)


def _continues(headers: Mapping[str, str]) -> bool:
    return headers.get("expect", "").lower() == "100-continue"


def check_csr_type(head: Head) -> None:
    """Raises Refusal unless the body is said to be a PKCS#10 request (RFC 7030 section 4.2.1)."""
    found = head.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found != CSR_TYPE:
        raise bad(415, "wrong_type", f"the body must be of type {CSR_TYPE}")


def response(status: int, kind: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole answer; the connection ends after it."""
    lines = [
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii") + body


def der_response(kind: str, encoded: bytes) -> bytes:
    """An answer of EST: DER in base64 (RFC 7030 section 4.2.3)."""
    return response(200, kind, encoded, {"Content-Transfer-Encoding": "base64"})


def refusal_response(refusal: Refusal, wait_s: int = 0) -> bytes:
    """A refusal as an answer."""
    headers = {}
    if refusal.status == 401:  # RFC 7030 section 3.2.3, RFC 7617 section 2
        headers["WWW-Authenticate"] = f"Basic realm={json.dumps(REALM)}"
    if refusal.status == 429:
        headers["Retry-After"] = str(max(wait_s, 60))
    return response(refusal.status, PROBLEM_TYPE, problem(refusal), headers)
