"""Login by an identity provider: a small real one on loopback, and everything that it may get wrong."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cloudkit import TENANT
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey
from serve_kit import OTHER, PASSWORD, ServeKit, make_serve_kit
from starlette.testclient import TestClient

from cloud_sync.runtime.serve import accounts, oidc
from cloud_sync.runtime.serve.deps import Context
from cloud_sync.runtime.serve.problems import ApiProblem

CLIENT, SECRET = "holdfast", "the client's secret"
Claims = dict[str, Any]


def new_key(kind: str = "RS256", kid: str = "one") -> RSAKey | ECKey:
    parameters = {"kid": kid, "use": "sig", "alg": kind}
    if kind == "RS256":
        return RSAKey.generate_key(2048, parameters, private=True)
    return ECKey.generate_key("P-256", parameters, private=True)


@dataclass
class Provider:
    """An OpenID provider: discovery, keys, authorization (asked for in the test itself), token."""

    url: str = ""
    key: Any = field(default_factory=new_key)
    published: list[Any] = field(default_factory=list)
    claims: Claims = field(default_factory=dict)
    """What differs from a good id token; None takes a claim away."""
    make: Callable[[Claims], str] | None = None
    """Makes the id token, instead of signing it as one should."""
    metadata: dict[str, Any] = field(default_factory=dict)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    forms: list[dict[str, list[str]]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)

    def discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.url, "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token", "jwks_uri": f"{self.url}/keys", **self.metadata,
        }  # fmt: skip

    def keys(self) -> Any:
        return KeySet(self.published or [self.key]).as_dict(private=False)

    def token(self, form: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        self.forms.append(form)
        begun = self.codes.pop(form.get("code", [""])[0], None)
        verifier = form.get("code_verifier", [""])[0]
        digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        if begun is None or digest != begun["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims: Claims = {
            "iss": self.url, "aud": CLIENT, "sub": "u-1", "iat": now, "exp": now + 300,
            "nonce": begun["nonce"], "preferred_username": "ida", "groups": ["staff", "risk"],
            "email": "ida@fund.example", "email_verified": True, "branches": ["*"],
        }  # fmt: skip
        claims = {name: value for name, value in (claims | self.claims).items() if value is not None}
        made = self.make or self.sign
        return 200, {"access_token": "x", "token_type": "Bearer", "id_token": made(claims)}

    def sign(self, claims: Claims) -> str:
        header = {"alg": self.key.alg or "RS256", "kid": self.key.kid}
        return str(jwt.encode(header, claims, self.key, algorithms=["RS256", "ES256"]))


def handler(provider: Provider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, value: Any) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            provider.asked.append(self.path)
            if self.path == "/.well-known/openid-configuration":
                self.answer(200, provider.discovery())
            elif self.path == "/keys":
                self.answer(200, provider.keys())
            else:
                self.answer(404, {})

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            provider.authorizations.append(self.headers.get("Authorization", ""))
            self.answer(*provider.token(form))

        def log_message(self, format: str, *args: Any) -> None:
            return

    return Handler


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(made))
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def kit(tmp_path: Path, provider: Provider) -> Iterator[ServeKit]:
    made = with_oidc(tmp_path, provider)
    try:
        yield made
    finally:
        made.close()


def with_oidc(home: Path, provider: Provider, more: str = f'tenant = "{TENANT}"') -> ServeKit:
    (home / "oidc.secret").write_text(SECRET, "utf-8")
    (home / "oidc.secret").chmod(0o600)
    text = (
        f'[oidc]\nname = "Company"\nissuer = "{provider.url}"\nclient_id = "{CLIENT}"\n'
        'client_secret_file = "oidc.secret"\nrole_claim = "groups"\n'
        'roles = {risk = "operator", audit = "auditor", fleetco = "partner"}\n'
        f'manage_claim = "groups"\nmanage_values = ["admins"]\nbranches_claim = "branches"\n{more}\n'
    )
    return make_serve_kit(home, text)


def begin(client: TestClient, provider: Provider) -> tuple[str, str]:
    """Go to the provider and let somebody log in there; state and code."""
    answer = client.get("/auth/oidc/start")
    assert answer.status_code == 302, answer.text
    where = urlsplit(answer.headers["location"])
    query = {name: values[0] for name, values in parse_qs(where.query).items()}
    assert f"{where.scheme}://{where.netloc}{where.path}" == f"{provider.url}/authorize"
    code = f"code-{len(provider.asked)}-{query['state'][:6]}"
    provider.codes[code] = query
    return query["state"], code


def finish(client: TestClient, state: str, code: str) -> Any:
    return client.get("/auth/oidc/callback", params={"state": state, "code": code})


def log_in(kit: ServeKit, provider: Provider) -> tuple[TestClient, Any]:
    client = kit.anonymous()
    return client, finish(client, *begin(client, provider))


def refusal(answer: Any, code: str = "oidc_refused") -> str:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    said = answer.json()
    assert said["code"] == code, said
    assert "set-cookie" not in answer.headers or "holdfast=" not in answer.headers["set-cookie"]
    return str(said["detail"])


# --- the good way --------------------------------------------------------------------------------------


def test_a_login_by_the_provider(kit: ServeKit, provider: Provider) -> None:
    assert kit.anonymous().get("/api/v1/entry").json()["oidc"] == "Company"
    client, answer = log_in(kit, provider)
    assert (answer.status_code, answer.headers["location"]) == (303, "/"), answer.text
    said = client.get("/api/v1/session").json()
    assert (said["tenant"], said["account"]["name"], said["account"]["role"]) == (TENANT, "ida", "operator")
    assert said["account"]["email"] == "ida@fund.example" and said["account"]["manages"] is False
    (form,) = provider.forms
    assert form["redirect_uri"] == ["http://127.0.0.1:8480/auth/oidc/callback"]
    assert provider.authorizations[0].startswith("Basic ") and "client_secret" not in form


def test_what_is_asked_of_the_provider(kit: ServeKit, provider: Provider) -> None:
    client = kit.anonymous()
    state, code = begin(client, provider)
    query = provider.codes[code]
    assert query["response_type"] == "code" and query["code_challenge_method"] == "S256"
    assert query["client_id"] == CLIENT and "openid" in query["scope"].split()
    assert len(query["nonce"]) >= 43 and len(state) >= 43
    cookie = client.get("/auth/oidc/start").headers["set-cookie"]
    assert "SameSite=lax" in cookie and "HttpOnly" in cookie and "Path=/auth/oidc" in cookie


def test_the_session_cookie_stays_strict(kit: ServeKit, provider: Provider) -> None:
    _, answer = log_in(kit, provider)
    cookies = answer.headers.get_list("set-cookie")
    (own,) = [cookie for cookie in cookies if cookie.startswith("holdfast=")]
    assert "SameSite=strict" in own


def test_a_second_login_is_the_same_account_with_todays_claims(kit: ServeKit, provider: Provider) -> None:
    first, _ = log_in(kit, provider)
    provider.claims = {
        "groups": ["audit", "admins"], "branches": ["north"], "preferred_username": "renamed",
    }  # fmt: skip
    second, _ = log_in(kit, provider)
    one, two = (client.get("/api/v1/session").json()["account"] for client in (first, second))
    assert one["id"] == two["id"]
    assert (one["role"], one["branches"], one["manages"]) == ("auditor", ["north"], True)


def test_es256_and_a_list_of_audiences(kit: ServeKit, provider: Provider) -> None:
    provider.key = new_key("ES256")
    provider.claims = {"aud": ["other", CLIENT], "azp": CLIENT}
    assert log_in(kit, provider)[1].status_code == 303


def test_a_key_that_was_rotated_in_is_fetched(
    kit: ServeKit, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "KEYS_EVERY_S", 0.0)
    assert log_in(kit, provider)[1].status_code == 303
    provider.key = new_key("ES256", "two")
    assert log_in(kit, provider)[1].status_code == 303
    assert provider.asked.count("/keys") == 2


def test_strange_keys_do_not_make_us_ask_all_the_time(kit: ServeKit, provider: Provider) -> None:
    good = provider.key
    provider.published = [good]
    provider.key = new_key("RS256", "strange")
    for _ in range(3):
        refusal(log_in(kit, provider)[1])
    assert provider.asked.count("/keys") == 1


def test_the_tenant_by_a_claim(tmp_path: Path, provider: Provider) -> None:
    kit = with_oidc(tmp_path, provider, 'tenant_claim = "org"')
    assert "names no tenant" in refusal(log_in(kit, provider)[1])
    provider.claims = {"org": "../fund"}
    assert "names no tenant" in refusal(log_in(kit, provider)[1])
    provider.claims = {"org": OTHER}
    client, _ = log_in(kit, provider)
    assert client.get("/api/v1/session").json()["tenant"] == OTHER
    provider.claims = {"org": TENANT}
    assert "another tenant" in refusal(log_in(kit, provider)[1])
    kit.close()


# --- who may not enter ---------------------------------------------------------------------------------


def test_an_unknown_role_is_told_which_there_are(kit: ServeKit, provider: Provider) -> None:
    provider.claims = {"groups": ["staff"]}
    answer = log_in(kit, provider)[1]
    assert "the claim groups has none of the roles" in refusal(answer)
    assert answer.status_code == 403 and "risk, audit" in answer.json()["remedy"]


def test_a_name_that_a_local_account_has_is_not_taken_over(kit: ServeKit, provider: Provider) -> None:
    provider.claims = {"preferred_username": "Operator"}
    assert "an account of this name exists" in refusal(log_in(kit, provider)[1])
    local = kit.anonymous().post("/api/v1/session", json={"name": "operator", "password": PASSWORD})
    assert local.status_code == 200


def test_a_disabled_account_stays_out(kit: ServeKit, provider: Provider) -> None:
    client, _ = log_in(kit, provider)
    number = client.get("/api/v1/session").json()["account"]["id"]
    kit.client().patch(f"/api/v1/accounts/{number}", json={"disabled": True})
    assert client.get("/api/v1/session").status_code == 401
    assert "disabled" in refusal(log_in(kit, provider)[1])


def test_an_account_of_the_provider_has_no_password_here(kit: ServeKit, provider: Provider) -> None:
    log_in(kit, provider)
    answer = kit.anonymous().post("/api/v1/session", json={"name": "ida", "password": PASSWORD})
    assert answer.status_code == 401


@pytest.mark.parametrize("value", [{"a": 1}, 5, [], "", None, [""]])
def test_branches_that_cannot_be_read_do_not_mean_all(kit: ServeKit, provider: Provider, value: Any) -> None:
    provider.claims = {"branches": value}
    assert "branches names no branch" in refusal(log_in(kit, provider)[1])


# --- id tokens that do not hold ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"nonce": "of another login"}, "belongs to another login"),
        ({"nonce": None}, "belongs to another login"),
        ({"aud": "another program"}, "another program"),
        ({"aud": None}, "another program"),
        ({"aud": [CLIENT, "other"]}, "given to another program"),
        ({"azp": "other"}, "given to another program"),
        ({"exp": 1000}, "expired"),
        ({"exp": None}, "expired"),
        ({"exp": "tomorrow"}, "expired"),
        ({"iat": 99_999_999_999}, "of the future"),
        ({"iat": None}, "of the future"),
        ({"nbf": 99_999_999_999}, "does not count yet"),
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"iss": None}, "another issuer"),
        ({"sub": None}, "names nobody"),
        ({"sub": ""}, "names nobody"),
        ({"sub": 5}, "names nobody"),
    ],
)
def test_claims_that_do_not_hold(kit: ServeKit, provider: Provider, claims: Claims, said: str) -> None:
    provider.claims = claims
    assert said in refusal(log_in(kit, provider)[1])


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def unsigned(claims: Claims) -> str:
    return f"{part({'alg': 'none', 'kid': 'one'})}.{part(claims)}."


def with_the_public_key_as_secret(provider: Provider) -> Callable[[Claims], str]:
    """The old confusion: HS256 with the bytes of the public key."""

    def make(claims: Claims) -> str:
        head = f"{part({'alg': 'HS256', 'kid': 'one'})}.{part(claims)}"
        mark = hmac.digest(provider.key.as_pem(private=False), head.encode(), "sha256")
        return f"{head}.{base64.urlsafe_b64encode(mark).rstrip(b'=').decode()}"

    return make


def test_signatures_that_do_not_hold(
    kit: ServeKit, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = new_key()

    def by_a_stranger(claims: Claims) -> str:
        return str(jwt.encode({"alg": "RS256", "kid": "one"}, claims, stranger, algorithms=["RS256"]))

    def changed(claims: Claims) -> str:
        head, _, mark = provider.sign(claims | {"groups": ["staff"]}).split(".")
        return f"{head}.{provider.sign(claims).split('.')[1]}.{mark}"

    makers: list[Callable[[Claims], str]] = [
        unsigned, with_the_public_key_as_secret(provider), by_a_stranger, changed,
        lambda claims: "not a token", lambda claims: "", lambda claims: "a.b.c",
    ]  # fmt: skip
    for make in makers:
        provider.make = make
        assert "not signed as it must be" in refusal(log_in(kit, provider)[1])
    provider.make = None
    assert log_in(kit, provider)[1].status_code == 303


# --- state ---------------------------------------------------------------------------------------------


def test_a_callback_that_nobody_began(kit: ServeKit, provider: Provider) -> None:
    client = kit.anonymous()
    for params in (
        {},
        {"state": "x", "code": "y"},
        {"code": "y"},
        {"state": "", "code": "y"},
        {"state": "é"},
    ):
        assert "not begun here" in refusal(client.get("/auth/oidc/callback", params=params))


def test_a_state_belongs_to_the_browser_that_began(kit: ServeKit, provider: Provider) -> None:
    """Login CSRF: an attacker's own code and state do nothing in a victim's browser."""
    attacker, victim = kit.anonymous(), kit.anonymous()
    state, code = begin(attacker, provider)
    begin(victim, provider)
    assert "not begun here" in refusal(finish(victim, state, code))


def test_a_state_counts_once_and_for_ten_minutes(
    kit: ServeKit, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = kit.anonymous()
    state, code = begin(client, provider)
    cookie = {"Cookie": f"{oidc.STATE_COOKIE}={state}"}
    assert finish(client, state, code).status_code == 303
    params = {"state": state, "code": code}
    assert "not begun" in refusal(client.get("/auth/oidc/callback", params=params, headers=cookie))
    state, code = begin(client, provider)
    now_ms = Context.real_ms()
    monkeypatch.setattr(Context, "real_ms", staticmethod(lambda: now_ms + oidc.LOGIN_LIFE_MS))
    assert "not begun" in refusal(finish(client, state, code))


def test_a_flood_of_begun_logins_is_bounded(
    kit: ServeKit, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "MAX_LOGINS", 3)
    for _ in range(6):
        begin(kit.anonymous(), provider)
    with kit.context.db.reading() as db:
        assert db.execute("SELECT count(*) FROM oidc_logins").fetchone() == (3,)


def test_the_provider_says_no(kit: ServeKit, provider: Provider) -> None:
    client = kit.anonymous()
    state, _ = begin(client, provider)
    params = {"state": state, "error": "access_denied", "error_description": "<script>"}
    answer = client.get("/auth/oidc/callback", params=params)
    assert "did not let you in" in refusal(answer) and "script" not in answer.text


# --- a provider that is not well -----------------------------------------------------------------------


def test_a_code_that_the_provider_does_not_know(kit: ServeKit, provider: Provider) -> None:
    client = kit.anonymous()
    state, _ = begin(client, provider)
    answer = finish(client, state, "unknown")
    assert answer.status_code == 502 and "gave no token" in refusal(answer, "oidc_failed")


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"issuer": "https://evil.example"}, "another issuer"),
        ({"token_endpoint": "http://evil.example/token"}, "not https"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "not https"),
        ({"jwks_uri": None}, "not https"),
        ({"large": "x" * 300_000}, "too large"),
    ],
)
def test_metadata_that_cannot_be_believed(
    kit: ServeKit, provider: Provider, metadata: dict[str, Any], said: str
) -> None:
    provider.metadata = metadata
    answer = kit.anonymous().get("/auth/oidc/start")
    assert answer.status_code == 502 and said in refusal(answer, "oidc_failed")


def test_a_provider_that_is_not_there(tmp_path: Path) -> None:
    absent = Provider("http://127.0.0.1:9")
    kit = with_oidc(tmp_path, absent)
    answer = kit.anonymous().get("/auth/oidc/start")
    assert answer.status_code == 502 and "cannot be reached" in refusal(answer, "oidc_failed")
    assert kit.anonymous().get("/api/v1/entry").status_code == 200  # local logins go on
    kit.close()


def test_without_a_provider_there_is_nothing_to_begin(tmp_path: Path) -> None:
    kit = make_serve_kit(tmp_path)
    assert kit.anonymous().get("/api/v1/entry").json()["oidc"] is None
    for path in ("start", "callback"):
        assert kit.anonymous().get(f"/auth/oidc/{path}").status_code == 404
    kit.close()


# --- claims by themselves ------------------------------------------------------------------------------


def test_what_claims_make_of_somebody(kit: ServeKit) -> None:
    config = kit.context.config.oidc
    assert config is not None
    made = oidc.new_account(config, {"sub": "u", "groups": "risk", "locale": "zh-CN", "branches": "north"})
    assert (made.name, made.role, made.language, made.branches) == ("u", "operator", "zh", ("north",))
    unverified = oidc.new_account(config, {"sub": "u", "groups": ["audit"], "email": "a@b", "branches": "*"})
    assert (unverified.email, unverified.role) == (None, "auditor")
    with pytest.raises(ApiProblem):
        oidc.new_account(config, {"sub": "u", "groups": True, "branches": "*"})
    with kit.context.db.reading() as db:
        assert accounts.any_account(db, OTHER)


@pytest.mark.parametrize("branches", ["*", ["north", "*"]])
def test_a_provider_cannot_make_a_partner_that_sees_all(
    kit: ServeKit, provider: Provider, branches: Any
) -> None:
    provider.claims = {"groups": ["fleetco"], "branches": branches}
    assert "must name the branches of a partner" in refusal(log_in(kit, provider)[1])


def test_a_partner_of_a_provider_without_a_claim_of_branches_is_refused(kit: ServeKit) -> None:
    whole = kit.context.config.oidc
    assert whole is not None
    config = dataclasses.replace(whole, branches_claim=None)
    with pytest.raises(ApiProblem, match="branches_claim must name"):
        oidc.new_account(config, {"sub": "u", "groups": "fleetco"})
    named = oidc.new_account(whole, {"sub": "u", "groups": "fleetco", "branches": ["north"]})
    assert (named.role, named.branches) == ("partner", ("north",))
