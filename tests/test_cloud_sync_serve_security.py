"""What every request passes and every answer carries: host, origin, CSRF, sizes, headers, problems."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_kit import PASSWORD, ServeKit, kit, make_serve_kit
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from cloud_sync.runtime.serve import problems, security
from cloud_sync.runtime.serve.security import MAX_BODY_BYTES, MAX_HEADERS, MAX_URL_CHARS, Guard

__all__ = ["kit"]

LOGIN = {"name": "operator", "password": PASSWORD}


def problem(answer: Any) -> dict[str, Any]:
    """The answer as a problem that is one."""
    assert answer.headers["content-type"] == "application/problem+json"
    value: dict[str, Any] = answer.json()
    assert value["status"] == answer.status_code
    assert value["type"] == f"urn:holdfast:problem:{value['code']}"
    assert set(value) == {"type", "title", "status", "detail", "code", "remedy"}
    return value


@pytest.fixture
def https(tmp_path: Path) -> Iterator[ServeKit]:
    serve = 'base_url = "https://holdfast.example"\nbehind_proxy = true'
    made = make_serve_kit(
        tmp_path, '[tiles]\nurl = "https://{s}.t.example/{z}/{x}/{y}.png"\nattribution = "x"', serve
    )
    try:
        yield made
    finally:
        made.close()


# --- host ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1:8480", "localhost", "LOCALHOST:1", "[::1]:8480", "127.0.0.1"])
def test_names_of_this_machine_are_answered(kit: ServeKit, host: str) -> None:
    assert kit.anonymous().get("/api/v1/entry", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "127.0.0.1.evil.example", "evil.example:8480", "localhost@evil.example", "",
        "localhost/evil", "[::1", "localhost#", "0.0.0.0", "holdfast.example",
    ],
)  # fmt: skip
def test_a_strangers_name_for_our_address_is_not(kit: ServeKit, host: str) -> None:
    """DNS rebinding: a page of evil.example that now points here gets nothing, not even with a cookie."""
    answer = kit.client().get("/api/v1/session", headers={"Host": host})
    assert answer.status_code == 400 and problem(answer)["code"] == "bad_host"


def test_the_configured_name_is_answered(https: ServeKit) -> None:
    client = https.anonymous()
    assert client.get("/api/v1/entry", headers={"Host": "holdfast.example"}).status_code == 200


# --- where a write comes from --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "https://127.0.0.1:8480"}, {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"}, {"Origin": "http://127.0.0.1:8480", "Sec-Fetch-Site": "cross-site"},
    ],
)  # fmt: skip
def test_another_page_cannot_write_nor_log_anybody_in(kit: ServeKit, headers: dict[str, str]) -> None:
    login = kit.anonymous().post("/api/v1/session", json=LOGIN, headers=headers)
    assert login.status_code == 403 and problem(login)["code"] == "origin"
    assert "set-cookie" not in login.headers
    write = kit.client().patch("/api/v1/session", json={"language": "zh"}, headers=headers)
    assert write.status_code == 403 and problem(write)["code"] == "origin"


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"Origin": "http://127.0.0.1:8480", "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"},
    ],
)  # fmt: skip
def test_the_own_page_can(kit: ServeKit, headers: dict[str, str]) -> None:
    assert kit.anonymous().post("/api/v1/session", json=LOGIN, headers=headers).status_code == 200


def test_with_a_token_the_origin_does_not_matter(kit: ServeKit) -> None:
    answer = kit.token_client().patch(
        "/api/v1/session", json={"language": "zh"}, headers={"Origin": "https://tool.example"}
    )
    assert answer.status_code == 200


def test_csrf_token_missing_wrong_or_another_sessions(kit: ServeKit) -> None:
    client, other = kit.client(), kit.client()
    good = client.headers.pop("X-CSRF-Token")
    for given in (
        {},
        {"X-CSRF-Token": ""},
        {"X-CSRF-Token": "x"},
        {"X-CSRF-Token": other.headers["X-CSRF-Token"]},
    ):
        answer = client.patch("/api/v1/session", json={"language": "zh"}, headers=given)
        assert answer.status_code == 403 and problem(answer)["code"] == "csrf"
    done = client.patch("/api/v1/session", json={"language": "zh"}, headers={"X-CSRF-Token": good})
    assert done.status_code == 200


def test_the_token_counts_alone_when_a_cookie_comes_with_it(kit: ServeKit) -> None:
    client = kit.client("operator")
    client.headers["Authorization"] = f"Bearer {kit.api_token('partner')}"
    assert client.get("/api/v1/session").json()["account"]["name"] == "partner"
    assert client.get("/api/v1/accounts").status_code == 403


# --- what is too much ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
def test_a_body_of_300_kb(kit: ServeKit, chunked: bool) -> None:
    data = json.dumps({"name": "operator", "password": "x" * 300_000}).encode()
    body: Any = iter([data[:100_000], data[100_000:200_000], data[200_000:]]) if chunked else data
    answer = kit.anonymous().post(
        "/api/v1/session", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413 and problem(answer)["code"] == "too_large"
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"{", "application/json", 400, "bad_request"),
        (b"\xff\xfe", "application/json", 400, "bad_request"),
        (b"[" * 100_000, "application/json", 400, "bad_request"),
        (b"", "application/json", 422, "invalid"),
        (b"[]", "application/json", 422, "invalid"),
        (b'"x"', "application/json", 422, "invalid"),
        (b'{"name":"operator","password":"x"}', "text/plain", 422, "invalid"),
        (b"name=operator&password=x", "application/x-www-form-urlencoded", 422, "invalid"),
        (b'{"name":"operator","password":"x","admin":true}', "application/json", 422, "invalid"),
        (b'{"name":1,"password":"x"}', "application/json", 422, "invalid"),
        (b'{"name":"","password":"x"}', "application/json", 422, "invalid"),
        (b'{"name":"\\ud800","password":"x"}', "application/json", 422, "invalid"),
    ],
)
def test_bodies_that_cannot_be_meant(kit: ServeKit, body: bytes, kind: str, status: int, code: str) -> None:
    answer = kit.anonymous().post("/api/v1/session", content=body, headers={"Content-Type": kind})
    assert (answer.status_code, problem(answer)["code"]) == (status, code), answer.text
    assert answer.json()["remedy"]


def test_a_refused_field_is_named_and_what_was_sent_is_not_repeated(kit: ServeKit) -> None:
    body = {"token": "secret-token-secret", "password": "short-secret"[:5], "colour": "red"}
    answer = kit.anonymous().post("/api/v1/enter", json=body)
    said = problem(answer)["detail"]
    assert "password: String should have at least 12 characters" in said and "colour: " in said
    assert "secret" not in answer.text and "red" not in said


def test_absurd_headers_and_addresses(kit: ServeKit) -> None:
    client = kit.anonymous()
    many = client.get("/api/v1/entry", headers={f"X-{n}": "1" for n in range(MAX_HEADERS)})
    assert many.status_code == 431 and problem(many)["code"] == "header_too_large"
    large = client.get("/api/v1/entry", headers={"X-Large": "x" * 20_000})
    assert large.status_code == 431
    long = client.get("/api/v1/entry?q=" + "x" * MAX_URL_CHARS)
    assert long.status_code == 414 and problem(long)["code"] == "url_too_long"
    control = client.get("/api/v1/entry%00%0a")
    assert control.status_code == 400
    twice = client.get(
        "/api/v1/entry", headers=[("Authorization", "Bearer a"), ("Authorization", "Bearer b")]
    )
    assert twice.status_code == 400
    for text in ("-5", "1e3", "9" * 13):
        answer = client.post("/api/v1/session", content=b"{}", headers={"Content-Length": text})
        assert answer.status_code == 400


@pytest.mark.parametrize("cookie", ["x" * 9000, "\u00e9", "", 'a"b', "x" * 43, "..%2f", "a=b; holdfast=c"])
def test_absurd_cookies_are_nobody(kit: ServeKit, cookie: str) -> None:
    header = f"{kit.context.cookie}={cookie}".encode("latin-1")
    answer = kit.anonymous().get("/api/v1/session", headers={"Cookie": header})
    assert answer.status_code == 401 and problem(answer)["code"] == "not_logged_in"


def test_unknown_addresses_and_methods(kit: ServeKit) -> None:
    client = kit.client()
    for path in ("/api/v1/nothing", "/nothing", "/api/v1/session/", "/API/V1/session", "//api/v1/session"):
        answer = client.get(path)
        assert answer.status_code == 404 and problem(answer)["code"] == "not_found"
    answer = client.put("/api/v1/session", json={})
    assert answer.status_code == 405 and problem(answer)["code"] == "method_not_allowed"
    assert "allow" in answer.headers
    assert client.request("TRACE", "/api/v1/session").status_code == 405


# --- what goes out -------------------------------------------------------------------------------------

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def test_every_answer_carries_the_headers(kit: ServeKit) -> None:
    client = kit.client()
    answers = [
        client.get(path) for path in ("/", "/page/app.js", "/words/en.json", "/api/v1/session", "/nothing")
    ]
    answers.append(client.get("/api/v1/entry", headers={"Host": "evil.example"}))
    answers.append(client.post("/api/v1/session", content=b"{"))
    for answer in answers:
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
        assert "camera=()" in answer.headers["permissions-policy"]
        assert "server" not in answer.headers and "strict-transport-security" not in answer.headers
    assert [answer.headers["cache-control"] for answer in answers] == ["no-cache"] * 3 + ["no-store"] * 4


def test_with_https_the_cookie_and_the_headers_are_strict(https: ServeKit) -> None:
    client = TestClient(https.app, base_url="https://holdfast.example")
    answer = client.post("/api/v1/session", json=LOGIN)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-holdfast=")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=strict"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert "img-src 'self' data: https://*.t.example;" in answer.headers["content-security-policy"]
    assert client.get("/api/v1/session").status_code == 200
    plain = TestClient(https.app, base_url="https://holdfast.example")
    plain.cookies.set("holdfast", client.cookies["__Host-holdfast"])
    assert plain.get("/api/v1/session").status_code == 401  # the unprotected name counts for nothing
    client.close()
    plain.close()


def test_what_nobody_foresaw_gets_a_number_and_tells_nothing(
    kit: ServeKit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from cloud_sync.runtime.serve import accounts

    def broken(db: object, tenant: str) -> None:
        raise RuntimeError("the secret of the database")

    monkeypatch.setattr(accounts, "all_of", broken)
    with caplog.at_level(logging.ERROR):
        answer = kit.client().get("/api/v1/accounts")
    said = problem(answer)
    assert (answer.status_code, said["code"]) == (500, "internal")
    assert "secret" not in answer.text and "RuntimeError" not in answer.text
    number = said["detail"].split()[-1].rstrip(".")
    assert any(number in record.getMessage() and record.exc_info for record in caplog.records)


def test_a_busy_store_is_503_and_its_path_stays_in_the_log(kit: ServeKit) -> None:
    client = kit.client()
    with kit.context.db.transaction():
        from cloud_sync.errors import StoreBusy, StoreReadOnly

        for error, wait in ((StoreBusy("/secret/path"), "1"), (StoreReadOnly("/secret/path"), "60")):
            found = problems.of_error(error)
            assert (found.code, found.headers) == ("busy", {"Retry-After": wait})
            assert "secret" not in found.detail
    assert client.get("/api/v1/session").status_code == 200


def test_the_request_log_has_no_names_queries_or_tokens(
    kit: ServeKit, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "holdfast.serve"):
        kit.token_client().get("/api/v1/vehicles/car-1")
        kit.client().get("/api/v1/vehicles", params={"q": "somebody"})
        kit.anonymous().get("/api/v1/secret-in-the-path?token=hft_x")
    said = [record.getMessage() for record in caplog.records if record.name == "holdfast.serve"]
    assert any(line.startswith("GET /api/v1/vehicles/{device} 200") for line in said)
    for word in ("car-1", "somebody", "secret", "hft_"):
        assert not any(word in line for line in said)


# --- the guard by itself -------------------------------------------------------------------------------


def run_guard(kit: ServeKit, messages: list[Message], headers: list[tuple[bytes, bytes]]) -> list[Message]:
    """What goes out when `messages` come in and the application reads one of them."""
    sent: list[Message] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": message["body"], "more_body": False})

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await asyncio.sleep(3600)
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "http", "method": "POST", "path": "/x", "raw_path": b"/x", "query_string": b"", "headers":
        [(b"host", b"127.0.0.1"), *headers],
    }  # fmt: skip
    asyncio.run(Guard(inner, kit.context)(scope, receive, send))
    return sent


def test_a_body_that_trickles_in_is_ended(kit: ServeKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "BODY_S", 0.05)
    part: Message = {"type": "http.request", "body": b"{", "more_body": True}
    sent = run_guard(kit, [part], [(b"content-length", b"9")])
    assert sent[0]["status"] == 408


def test_a_body_in_pieces_arrives_whole(kit: ServeKit) -> None:
    parts: list[Message] = [
        {"type": "http.request", "body": b"a" * 1000, "more_body": True},
        {"type": "http.request", "body": b"b", "more_body": False},
    ]
    sent = run_guard(kit, parts, [(b"transfer-encoding", b"chunked")])
    assert (sent[0]["status"], sent[1]["body"]) == (200, b"a" * 1000 + b"b")
    over: list[Message] = [{"type": "http.request", "body": b"a" * (MAX_BODY_BYTES + 1), "more_body": False}]
    assert run_guard(kit, over, [(b"transfer-encoding", b"chunked")])[0]["status"] == 413


def test_a_websocket_is_closed(kit: ServeKit) -> None:
    sent: list[Message] = []

    async def nothing(*_: object) -> None:
        raise AssertionError("the application was asked")

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError

    asyncio.run(Guard(nothing, kit.context)({"type": "websocket"}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
