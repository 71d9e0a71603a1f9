"""Login by an identity provider: OpenID Connect, authorization code flow with PKCE (RFC 7636, S256).

    GET /auth/oidc/start     -> the provider, with state, nonce and challenge
    GET /auth/oidc/callback  <- the provider, with code and state

State, nonce and verifier lie in serve.db for ten minutes and are used once; a cookie binds the state to the
browser that began (it is Lax, because the provider's redirect comes from another site; the session's own
cookie stays Strict). The id token is checked against the issuer's keys (OpenID Connect Core 1.0, section
3.1.3.7): algorithm RS256 or ES256, iss, aud, azp, exp, iat, nonce. Claims give tenant, role and branches anew
at every login.
"""

from __future__ import annotations

import hmac
import json
import secrets
import sqlite3
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import httpx
from anyio import to_thread
from authlib.integrations.base_client.errors import OAuthError
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from fastapi import APIRouter, Request
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from starlette.responses import RedirectResponse, Response

from cloud_sync.access import ROLES, needs_branches
from cloud_sync.errors import CloudError, Conflict
from cloud_sync.runtime.serve import accounts, noting, sessions
from cloud_sync.runtime.serve.accounts import NewAccount, digest
from cloud_sync.runtime.serve.config import Oidc, is_loopback
from cloud_sync.runtime.serve.deps import Context, Ctx
from cloud_sync.runtime.serve.problems import ApiProblem
from cloud_sync.statement import valid_tenant

ALGORITHMS: Final = ["RS256", "ES256"]
"""Never what the token itself asks for."""
TIMEOUT_S: Final = 10.0
LOGIN_LIFE_MS: Final = 600_000
"""Ten minutes to log in at the provider."""
MAX_LOGINS: Final = 1000
"""Begun and not finished at once; more are a flood, and the oldest go."""
LEEWAY_S: Final = 60
"""How far the provider's clock may be off."""
MAX_ANSWER_BYTES: Final = 256 << 10
"""Of the provider; its keys are a few kilobytes."""
KEYS_EVERY_S: Final = 60.0
"""Keys are asked for again at most so often because of an unknown key id."""
ALL_BRANCHES: Final = "*"
"""In the claim of branches. A claim that is missing does not mean all: it is how a wrong mapping looks."""
STATE_COOKIE: Final = "holdfast_oidc"

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Provider:
    """What the issuer says of itself (OpenID Connect Discovery 1.0, section 4)."""

    authorization: str
    token: str
    keys: str


@dataclass(slots=True)
class Client:
    """Talks to the configured issuer; keeps its metadata and keys."""

    config: Oidc
    secret: str | None
    transport: httpx.AsyncBaseTransport | None = None
    provider: Provider | None = None
    keys: KeySet | None = None
    keys_at_s: float = 0.0

    async def discover(self) -> Provider:
        """The issuer's metadata, asked for once. Raises ApiProblem oidc_failed."""
        if self.provider is None:
            found = await self._json(f"{self.config.issuer}/.well-known/openid-configuration")
            if str(found.get("issuer", "")).rstrip("/") != self.config.issuer:
                raise failed("its metadata names another issuer")
            names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
            ends = [str(found.get(name)) for name in names]
            for end in ends:
                parts = urlsplit(end)
                near = parts.scheme == "http" and is_loopback(parts.hostname or "")
                if parts.scheme != "https" and not near:
                    raise failed("its metadata names an address that is not https")
            self.provider = Provider(*ends)
        return self.provider

    async def fetch(self, code: str, verifier: str, redirect: str) -> dict[str, Any]:
        """The token answer for `code`. Raises ApiProblem oidc_failed."""
        provider = await self.discover()
        method = "client_secret_basic" if self.secret else "none"
        with warnings.catch_warnings():  # Authlib speaks of a successor of httpx, at import
            warnings.simplefilter("ignore")
            from authlib.integrations.httpx_client import AsyncOAuth2Client
        try:
            async with AsyncOAuth2Client(
                self.config.client_id, self.secret, token_endpoint_auth_method=method, redirect_uri=redirect,
                timeout=TIMEOUT_S, trust_env=False, transport=self.transport, follow_redirects=False,
            ) as client:  # fmt: skip
                return dict(await client.fetch_token(provider.token, code=code, code_verifier=verifier))
        except (OAuthError, httpx.HTTPError, ValueError) as error:
            raise failed(f"it gave no token ({type(error).__name__})") from error

    async def claims(self, token: str, nonce: str) -> dict[str, Any]:
        """The claims of an id token that holds. Raises ApiProblem oidc_refused, oidc_failed."""
        try:
            found = jwt.decode(token, await self._key_set(False), algorithms=ALGORITHMS)
        except (JoseError, ValueError):
            # A key may have been rotated in since: once more with what the issuer publishes now.
            try:
                found = jwt.decode(token, await self._key_set(True), algorithms=ALGORITHMS)
            except (JoseError, ValueError) as error:
                raise refused(f"its id token is not signed as it must be ({type(error).__name__})") from error
        self._check(found.claims, nonce)
        return dict(found.claims)

    def _check(self, claims: Mapping[str, Any], nonce: str) -> None:
        now_s = time.time()
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if str(claims.get("iss", "")).rstrip("/") != self.config.issuer:
            raise refused("its id token is another issuer's")
        if self.config.client_id not in audiences:
            raise refused("its id token is for another program")
        if (len(audiences) > 1 or "azp" in claims) and claims.get("azp") != self.config.client_id:
            raise refused("its id token was given to another program")
        if not _number(claims.get("exp")) or claims["exp"] + LEEWAY_S <= now_s:
            raise refused("its id token has expired")
        if not _number(claims.get("iat")) or claims["iat"] - LEEWAY_S > now_s:
            raise refused("its id token is of the future: one of the clocks is wrong")
        if _number(claims.get("nbf")) and claims["nbf"] - LEEWAY_S > now_s:
            raise refused("its id token does not count yet")
        if not isinstance(claims.get("nonce"), str) or not hmac.compare_digest(
            claims["nonce"].encode(), nonce.encode()
        ):
            raise refused("its id token belongs to another login")
        if not isinstance(claims.get("sub"), str) or not claims["sub"]:
            raise refused("its id token names nobody")

    async def _key_set(self, again: bool) -> KeySet:
        now_s = time.monotonic()
        if self.keys is None or (again and now_s - self.keys_at_s >= KEYS_EVERY_S):
            provider = await self.discover()
            try:
                self.keys = KeySet.import_key_set(await self._json(provider.keys))  # type: ignore[arg-type]
            except (JoseError, ValueError, KeyError, TypeError) as error:
                raise failed("its keys cannot be read") from error
            self.keys_at_s = now_s
        return self.keys

    async def _json(self, url: str) -> dict[str, Any]:
        try:
            async with httpx.AsyncClient(
                timeout=TIMEOUT_S, trust_env=False, transport=self.transport, follow_redirects=False
            ) as client, client.stream("GET", url) as answer:  # fmt: skip
                answer.raise_for_status()
                body = b""
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > MAX_ANSWER_BYTES:
                        raise failed("its answer is too large")
            value = json.loads(body)
        except (httpx.HTTPError, ValueError) as error:
            raise failed(f"it cannot be reached ({type(error).__name__})") from error
        if not isinstance(value, dict):
            raise failed("its answer is not an object")
        return value


@router.get("/auth/oidc/start")
async def start(ctx: Ctx) -> Response:
    """Send the browser to the provider."""
    client = client_of(ctx)
    provider = await client.discover()
    state, nonce, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(48)
    await to_thread.run_sync(_remember, ctx, state, nonce, verifier)
    query = urlencode(
        {
            "response_type": "code", "client_id": client.config.client_id, "redirect_uri": _redirect_uri(ctx),
            "scope": client.config.scopes, "state": state, "nonce": nonce,
            "code_challenge": create_s256_code_challenge(verifier), "code_challenge_method": "S256",
        }
    )  # fmt: skip
    joint = "&" if urlsplit(provider.authorization).query else "?"
    response = RedirectResponse(provider.authorization + joint + query, 302)
    response.set_cookie(
        STATE_COOKIE, state, max_age=LOGIN_LIFE_MS // 1000, path="/auth/oidc", secure=ctx.https,
        httponly=True, samesite="lax",
    )  # fmt: skip
    return response


@router.get("/auth/oidc/callback")
async def callback(ctx: Ctx, request: Request) -> Response:
    """Take the provider's answer; a good one becomes a session and leads to the page."""
    client = client_of(ctx)
    state, code = request.query_params.get("state", ""), request.query_params.get("code", "")
    bound = request.cookies.get(STATE_COOKIE, "")
    known = await to_thread.run_sync(_recall, ctx, state) if state else None
    if known is None or not hmac.compare_digest(state.encode(), bound.encode()):
        raise refused("this login was not begun here, or more than ten minutes ago", "Begin the login again.")
    if not code:
        raise refused("the provider did not let you in", "Begin again, or ask who runs the provider.")
    nonce, verifier = known
    answer = await client.fetch(code, verifier, _redirect_uri(ctx))
    if not isinstance(answer.get("id_token"), str):
        raise failed("it gave no id token")
    claims = await client.claims(answer["id_token"], nonce)
    token = await to_thread.run_sync(_enter, ctx, client.config, claims, request)
    response = RedirectResponse("/", 303)
    response.delete_cookie(STATE_COOKIE, path="/auth/oidc", secure=ctx.https, httponly=True, samesite="lax")
    from cloud_sync.runtime.serve.routes_session import set_cookie

    set_cookie(ctx, response, token)
    return response


def client_of(ctx: Context) -> Client:
    """The client of the configured issuer. Raises ApiProblem not_found where there is none."""
    config = ctx.config.oidc
    if config is None:
        raise ApiProblem("not_found", "No identity provider is configured here.")
    found = ctx.extras.get("oidc")
    if not isinstance(found, Client):
        secret = ctx.config.secret(config.client_secret_file) if config.client_secret_file else None
        found = ctx.extras["oidc"] = Client(config, secret)
    return found


def new_account(config: Oidc, claims: Mapping[str, Any]) -> NewAccount:
    """What the claims make of somebody. Raises ApiProblem oidc_refused."""
    tenant = config.tenant
    if config.tenant_claim is not None:
        tenant = _text(claims.get(config.tenant_claim))
    if tenant is None or not valid_tenant(tenant):
        raise refused(f"the claim {config.tenant_claim} names no tenant")
    given = _texts(claims.get(config.role_claim))
    roles = config.roles or {role: role for role in ROLES}
    role = next((mapped for value, mapped in roles.items() if value in given), None)
    if role is None:
        raise refused(
            f"the claim {config.role_claim} has none of the roles that may enter",
            f"Ask who runs the provider for one of: {', '.join(roles)}.",
        )
    manages = bool(
        config.manage_claim and set(_texts(claims.get(config.manage_claim))) & set(config.manage_values)
    ) and role in ("operator", "auditor")
    branches = tuple(_texts(claims.get(config.branches_claim))) if config.branches_claim else ()
    if config.branches_claim and not branches:
        raise refused(
            f"the claim {config.branches_claim} names no branch",
            f'Ask for one, or for "{ALL_BRANCHES}": all.',
        )
    if ALL_BRANCHES in branches:
        branches = ()
    if needs_branches(role) and not branches:
        where = config.branches_claim or "of branches, which [oidc] branches_claim must name,"
        raise refused(
            f"the claim {where} must name the branches of a {role}, who never sees all",
            "Ask who runs the provider to name them.",
        )
    name = _text(claims.get("preferred_username")) or _text(claims.get("email")) or str(claims["sub"])
    email = _text(claims.get("email")) if claims.get("email_verified") is True else None
    language = "zh" if str(claims.get("locale", "")).startswith("zh") else "en"
    return NewAccount(tenant, name[:80], role, manages, branches[:50], language, email)


def _enter(ctx: Context, config: Oidc, claims: Mapping[str, Any], request: Request) -> str:
    """Find or make the account of issuer and subject, and open a session; its token."""
    new, subject, now_ms = new_account(config, claims), str(claims["sub"]), ctx.real_ms()
    with ctx.db.transaction() as db:
        row = db.execute(
            "SELECT id, tenant FROM accounts WHERE issuer = ? AND subject = ?", (config.issuer, subject)
        ).fetchone()
        if row is None:
            number = _add(db, new, now_ms)
            db.execute(
                "UPDATE accounts SET issuer = ?, subject = ? WHERE id = ?", (config.issuer, subject, number)
            )
        else:
            number = int(row[0])
            if row[1] != new.tenant:
                raise refused("this account belongs to another tenant", "Ask who manages accounts.")
            values: dict[str, object] = {"role": new.role, "branches": list(new.branches)}
            if config.manage_claim:
                values["manages"] = new.manages
            accounts.update(db, new.tenant, number, values)
        account = accounts.find(db, new.tenant, number)
        if account.disabled:
            raise refused("this account is disabled", "Ask who manages accounts.")
        old = request.cookies.get(ctx.cookie)
        if old:
            sessions.close_session(db, old)
        token = sessions.open_session(db, account.tenant, account.id, now_ms)
    noting.about(ctx, account.tenant, account.name, "login")
    return token


def _add(db: sqlite3.Connection, new: NewAccount, now_ms: int) -> int:
    try:
        return accounts.add(db, new, now_ms)
    except Conflict as error:
        raise refused(
            "an account of this name exists that does not belong to it",
            "Ask who manages accounts to rename or disable that one.",
        ) from error
    except CloudError as error:
        raise refused(str(error)) from error


def _remember(ctx: Context, state: str, nonce: str, verifier: str) -> None:
    now_ms = ctx.real_ms()
    with ctx.db.transaction() as db:
        db.execute("DELETE FROM oidc_logins WHERE made_ms <= ?", (now_ms - LOGIN_LIFE_MS,))
        db.execute(
            "DELETE FROM oidc_logins WHERE state IN"
            " (SELECT state FROM oidc_logins ORDER BY made_ms DESC LIMIT -1 OFFSET ?)",
            (MAX_LOGINS - 1,),
        )
        db.execute(
            "INSERT INTO oidc_logins(state, nonce, verifier, made_ms) VALUES(?,?,?,?)",
            (digest(state), nonce, verifier, now_ms),
        )


def _recall(ctx: Context, state: str) -> tuple[str, str] | None:
    """Nonce and verifier of a begun login, once."""
    with ctx.db.transaction() as db:
        row = db.execute(
            "DELETE FROM oidc_logins WHERE state = ? AND made_ms > ? RETURNING nonce, verifier",
            (digest(state), ctx.real_ms() - LOGIN_LIFE_MS),
        ).fetchone()
    return None if row is None else (str(row[0]), str(row[1]))


def _redirect_uri(ctx: Context) -> str:
    return f"{ctx.base_url}/auth/oidc/callback"


def failed(why: str) -> ApiProblem:
    """The provider did not do its part."""
    return ApiProblem(
        "oidc_failed", f"The identity provider: {why}.", "Try again; log in with a password if you have one."
    )


def refused(why: str, remedy: str = "Ask who runs the identity provider.") -> ApiProblem:
    """The provider's word does not let anybody in."""
    return ApiProblem("oidc_refused", f"No login: {why}.", remedy)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: object) -> str | None:
    return value.strip() if isinstance(value, str) and value.strip() else None


def _texts(value: object) -> list[str]:
    if isinstance(value, bool):
        return [str(value).lower()]
    found = value if isinstance(value, list) else [value]
    return [one.strip() for one in found if isinstance(one, str) and one.strip()]
