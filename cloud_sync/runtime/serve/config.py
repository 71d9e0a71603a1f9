"""`serve.toml`: what the server of API and page is told.

    [serve]    collector, host, port, base_url, store, places, outline, log_level,
               tls, cert, key, behind_proxy, proxies
    [tiles]    url, attribution, datum
    [oidc]     name, issuer, client_id, client_secret_file, scopes, tenant, tenant_claim, role_claim, roles,
               manage_claim, manage_values, branches_claim
    [smtp]     host, port, from, user, password_file, tls
    [session]  idle_s, life_s
    [webhooks] allow_private

Relative paths count from the folder of serve.toml. Secrets never stand in it: they are files of mode 0600, or
systemd credentials of the same file name ($CREDENTIALS_DIRECTORY). A name that is not known is an error.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from cloud_sync.access import ROLES
from cloud_sync.errors import ConfigError
from cloud_sync.statement import valid_tenant

DEFAULT_PORT: Final = 8480
IDLE_S: Final = 12 * 3600
"""A session that nobody used for a working day ends."""
LIFE_S: Final = 7 * 86_400
"""A session ends after a week, used or not."""
MAX_SECRET_BYTES: Final = 4096
"""A password or client secret is a line; a larger file is the wrong one."""

SECTIONS: Final[dict[str, frozenset[str]]] = {
    "serve": frozenset(
        {
            "collector", "host", "port", "base_url", "store", "places", "outline", "log_level",
            "tls", "cert", "key", "behind_proxy", "proxies",
        }
    ),
    "tiles": frozenset({"url", "attribution", "datum"}),
    "oidc": frozenset(
        {
            "name", "issuer", "client_id", "client_secret_file", "scopes", "tenant", "tenant_claim",
            "role_claim", "roles", "manage_claim", "manage_values", "branches_claim",
        }
    ),
    "smtp": frozenset({"host", "port", "from", "user", "password_file", "tls"}),
    "session": frozenset({"idle_s", "life_s"}),
    "webhooks": frozenset({"allow_private"}),
}  # fmt: skip
"""Every section and key there is."""

Datum = Literal["wgs84", "gcj02", "bd09"]
SmtpTls = Literal["starttls", "tls", "none"]


@dataclass(frozen=True, slots=True)
class Tiles:
    """A licensed source of map tiles."""

    url: str
    attribution: str
    datum: Datum

    @property
    def source(self) -> str:
        """What the Content-Security-Policy allows for it: scheme and host, `*` for the letters of `{s}`."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.replace('{s}', '*')}"


@dataclass(frozen=True, slots=True)
class Oidc:
    """An identity provider, and what its claims mean here."""

    name: str
    issuer: str
    client_id: str
    client_secret_file: str | None
    """None: a public client, with PKCE alone."""
    scopes: str
    tenant: str | None
    """The tenant of everybody who comes by it, unless `tenant_claim` says which."""
    tenant_claim: str | None
    role_claim: str
    roles: Mapping[str, str] = field(hash=False)
    """Value of the claim -> role, the first one that fits. Empty: the values are the roles themselves."""
    manage_claim: str | None
    manage_values: tuple[str, ...]
    branches_claim: str | None


@dataclass(frozen=True, slots=True)
class Smtp:
    """The mail server that messages go through."""

    host: str
    port: int
    sender: str
    user: str | None
    password_file: str | None
    tls: SmtpTls


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How long a login lasts, in seconds."""

    idle_s: int = IDLE_S
    life_s: int = LIFE_S


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """A serve.toml that can be meant."""

    path: Path
    collector: Path
    """The collector's collector.toml."""
    host: str
    port: int
    """0: the system chooses."""
    base_url: str | None
    """What people type, without a slash at the end; None: from host and port."""
    store: Path
    places: Path | None
    outline: Path | None
    log_level: str
    cert: Path | None
    """With `key`: this server speaks TLS itself."""
    key: Path | None
    behind_proxy: bool
    proxies: tuple[str, ...]
    """Addresses whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    tiles: Tiles | None
    oidc: Oidc | None
    smtp: Smtp | None
    session: SessionLimits
    webhooks_allow_private: bool
    """Webhooks may go to loopback and private addresses."""

    @property
    def folder(self) -> Path:
        """Where relative paths count from."""
        return self.path.absolute().parent

    def secret(self, name: str) -> str:
        """The secret in the file `name`, or in the systemd credential of that file's name.

        Raises ConfigError when it is not there, is empty, or may be read by others.
        """
        return read_secret(self.folder / name)


def read_secret(path: Path) -> str:
    """The one line of the secret file `path`; see ServeConfig.secret."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if credentials and (Path(credentials) / path.name).is_file():
        path = Path(credentials) / path.name
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ConfigError(f"secret {path} may be read by others: chmod 600 it")
            text = file.read(MAX_SECRET_BYTES + 1).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"secret {path}: {error}; write it there, mode 0600") from error
    if not text or "\n" in text or len(text) > MAX_SECRET_BYTES:
        raise ConfigError(f"secret {path} must be one line")
    return text


def load_config(path: Path) -> ServeConfig:
    """The configuration in `path`. Raises ConfigError that names the entry."""
    try:
        value = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    _check_names(path, value)
    if "serve" not in value:
        raise ConfigError(f'{path}: [serve] is missing; it needs collector = "collector.toml"')
    serve = _Table(path, "serve", value["serve"])
    session = _Table(path, "session", value.get("session", {}))
    idle_s = session.number("idle_s", 60, 30 * 86_400, IDLE_S)
    limits = SessionLimits(idle_s, session.number("life_s", 300, 90 * 86_400, max(LIFE_S, idle_s)))
    if limits.idle_s > limits.life_s:
        raise ConfigError(f"{path}: [session] idle_s is longer than life_s: a session cannot outlive itself")
    tls = serve.flag("tls")
    config = ServeConfig(
        path=path,
        collector=serve.file("collector"),
        host=serve.text("host", "127.0.0.1"),
        port=serve.number("port", 0, 65_535, DEFAULT_PORT),
        base_url=_base_url(serve),
        store=serve.file("store", "serve.db"),
        places=serve.maybe_file("places"),
        outline=serve.maybe_file("outline"),
        log_level=serve.choice("log_level", ("debug", "info", "warning", "error"), "info"),
        cert=serve.file("cert") if tls else None,
        key=serve.file("key") if tls else None,
        behind_proxy=serve.flag("behind_proxy"),
        proxies=serve.texts("proxies", ("127.0.0.1", "::1")),
        tiles=_tiles(_Table(path, "tiles", value["tiles"])) if "tiles" in value else None,
        oidc=_oidc(_Table(path, "oidc", value["oidc"])) if "oidc" in value else None,
        smtp=_smtp(_Table(path, "smtp", value["smtp"])) if "smtp" in value else None,
        session=limits,
        webhooks_allow_private=_Table(path, "webhooks", value.get("webhooks", {})).flag("allow_private"),
    )
    if not tls and ("cert" in value["serve"] or "key" in value["serve"]):
        raise ConfigError(f"{path}: [serve] cert and key are given, but not tls = true")
    _check_binding(config)
    return config


def is_loopback(host: str) -> bool:
    """Whether `host` can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_binding(config: ServeConfig) -> None:
    """Nothing listens to the network in clear text, and no password crosses it so."""
    secure = config.cert is not None
    if not is_loopback(config.host) and not secure and not config.behind_proxy:
        raise ConfigError(
            f"{config.path}: [serve] host {config.host} can be reached from outside, in clear text: "
            "set tls = true with cert and key, or behind_proxy = true where a proxy speaks TLS, "
            "or leave host away (127.0.0.1)"
        )
    if not is_loopback(config.host) and config.base_url is None:
        raise ConfigError(
            f"{config.path}: [serve] base_url is needed with host {config.host}: what people type to get here"
        )
    if config.base_url is not None:
        parts = urlsplit(config.base_url)
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise ConfigError(f"{config.path}: [serve] base_url must be https: passwords would be readable")
        if parts.scheme == "http" and secure:
            raise ConfigError(f"{config.path}: [serve] base_url must be https with tls = true")
        if parts.scheme == "https" and not secure and not config.behind_proxy:
            raise ConfigError(
                f"{config.path}: [serve] base_url is https, but nobody speaks TLS: "
                "tls = true, or behind_proxy = true"
            )


def _base_url(serve: _Table) -> str | None:
    text = serve.maybe("base_url")
    if text is None:
        return None
    parts = _url(serve, "base_url", text)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise serve.error("base_url", "is scheme and host alone, such as https://holdfast.example")
    return f"{parts.scheme}://{parts.netloc}"


def _tiles(table: _Table) -> Tiles:
    url = table.text("url")
    parts = _url(table, "url", url)
    if any(c in parts.netloc for c in " ;,'\"") or not all(name in url for name in ("{z}", "{x}", "{y}")):
        raise table.error("url", "is a template with {z}, {x} and {y}")
    datum = table.choice("datum", ("wgs84", "gcj02", "bd09"), "wgs84")
    kinds: dict[str, Datum] = {"wgs84": "wgs84", "gcj02": "gcj02", "bd09": "bd09"}
    return Tiles(url, table.text("attribution"), kinds[datum])


def _oidc(table: _Table) -> Oidc:
    issuer = table.text("issuer").rstrip("/")
    parts = _url(table, "issuer", issuer)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise table.error("issuer", "must be https (http is for loopback alone)")
    roles = table.value.get("roles", {})
    if not isinstance(roles, dict) or any(role not in ROLES for role in roles.values()):
        raise table.error("roles", f"is a table from values of the claim to {', '.join(ROLES)}")
    tenant, claim = table.maybe("tenant"), table.maybe("tenant_claim")
    if (tenant is None) == (claim is None):
        raise table.error("tenant", "or tenant_claim is needed, and not both")
    if tenant is not None and not valid_tenant(tenant):
        raise table.error("tenant", "is not a tenant's name")
    scopes = table.text("scopes", "openid profile email")
    if "openid" not in scopes.split():
        raise table.error("scopes", "must have openid among them")
    return Oidc(
        table.text("name", "OpenID Connect"), issuer, table.text("client_id"),
        table.maybe("client_secret_file"), scopes, tenant, claim, table.text("role_claim", "role"), roles,
        table.maybe("manage_claim"), table.texts("manage_values", ("true",)), table.maybe("branches_claim"),
    )  # fmt: skip


def _smtp(table: _Table) -> Smtp:
    tls = table.choice("tls", ("starttls", "tls", "none"), "starttls")
    kinds: dict[str, SmtpTls] = {"starttls": "starttls", "tls": "tls", "none": "none"}
    host, user = table.text("host"), table.maybe("user")
    if tls == "none" and not is_loopback(host):
        raise table.error("tls", '"none" is for a mail server on this machine alone')
    if (user is None) != (table.maybe("password_file") is None):
        raise table.error("user", "and password_file belong together")
    port = table.number("port", 1, 65_535, {"starttls": 587, "tls": 465, "none": 25}[tls])
    sender = table.text("from")
    if "@" not in sender or any(c in sender for c in "\r\n"):
        raise table.error("from", "is the sender's address")
    return Smtp(host, port, sender, user, table.maybe("password_file"), kinds[tls])


def _url(table: _Table, key: str, text: str) -> _Parts:
    try:
        parts = urlsplit(text)
        ok = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        _ = parts.port
    except ValueError:
        ok = False
    if not ok:
        raise table.error(key, "is an http or https URL without a password")
    return _Parts(parts.scheme, parts.netloc, parts.hostname, parts.path, parts.query, parts.fragment)


@dataclass(frozen=True, slots=True)
class _Parts:
    scheme: str
    netloc: str
    hostname: str | None
    path: str
    query: str
    fragment: str


@dataclass(frozen=True, slots=True)
class _Table:
    """One section, read with messages that name file, section and key."""

    path: Path
    name: str
    value: Mapping[str, object]

    def error(self, key: str, what: str) -> ConfigError:
        return ConfigError(f"{self.path}: [{self.name}] {key} {what}")

    def maybe(self, key: str) -> str | None:
        value = self.value.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            raise self.error(key, "must be a text")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self.maybe(key) or default
        if value is None:
            raise self.error(key, "is missing")
        return value

    def texts(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        value = self.value.get(key, list(default))
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.error(key, "must be a list of texts")
        return tuple(value)

    def flag(self, key: str) -> bool:
        value = self.value.get(key, False)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def number(self, key: str, low: int, high: int, default: int) -> int:
        value = self.value.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(key, f"must be an integer from {low} to {high}")
        return value

    def choice(self, key: str, allowed: tuple[str, ...], default: str) -> str:
        value = self.text(key, default).lower()
        if value not in allowed:
            raise self.error(key, f"is one of {', '.join(allowed)}")
        return value

    def file(self, key: str, default: str | None = None) -> Path:
        return self.path.absolute().parent / self.text(key, default)

    def maybe_file(self, key: str) -> Path | None:
        return None if self.maybe(key) is None else self.file(key)


def _check_names(path: Path, value: Mapping[str, object]) -> None:
    for section, table in value.items():
        if section not in SECTIONS or not isinstance(table, dict):
            raise ConfigError(f"{path}: [{section}] is not known; {_nearest(section, SECTIONS)}")
        for name in table:
            if name not in SECTIONS[section]:
                raise ConfigError(f"{path}: [{section}] has no {name}; {_nearest(name, SECTIONS[section])}")


def _nearest(name: str, names: Mapping[str, object] | frozenset[str]) -> str:
    found = difflib.get_close_matches(name, list(names), 1)
    return f"did you mean {found[0]}?" if found else f"there are {', '.join(sorted(names))}"
