"""collector.toml and serve.toml for `holdfast config`: each setting with its reason, and the daemon's reader.

A test holds these tables against the readers, so that a setting cannot be known to one and not to the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cloud_sync.access import ROLES
from cloud_sync.errors import ConfigError
from cloud_sync.runtime import collector_files
from cloud_sync.runtime.serve import config as serve_config
from edge.config import LOG_LEVELS, Problem
from edge.runtime.config_kinds import ConfigKind, check_by_table, values_by_table
from edge.settings import Setting

_NONE: Final = "not set"
_KINDS: Final = ("live", "replay", "simulated")


def _text(name: str, reason: str, default: str = _NONE, *, required: bool = False) -> Setting:
    return Setting(name, "text", "", "", default, reason, required=required)


def _word(name: str, words: tuple[str, ...], default: str, reason: str) -> Setting:
    return Setting(name, "text", "", ", ".join(words), default, reason, words=words)


def _flag(name: str, reason: str) -> Setting:
    return Setting(name, "true or false", "", "", "false", reason)


def _number(
    name: str, unit: str, low: int, high: int, default: str, reason: str, *, required: bool = False
) -> Setting:
    allowed = f"{low:,} .. {high:,}"
    return Setting(name, "integer", unit, allowed, default, reason, low, high, required=required)


def _texts(name: str, default: str, reason: str, words: tuple[str, ...] = ()) -> Setting:
    return Setting(name, "list of texts", "", ", ".join(words), default, reason, words=words)


def collector_settings() -> list[Setting]:
    """Every setting of collector.toml."""
    return [
        _text("collector.origin", "The log's name; trust.json of every node says the same.", required=True),
        _text("collector.tenant", "Whose assets `holdfast title` means where --tenant is not given."),
        _text("collector.store", "Segments, log and ledger: one SQLite file.", '"store.db"'),
        _text("collector.client_id", "MQTT client id.", "that of keys/tls.crt"),
        _word("collector.log_level", LOG_LEVELS, '"info"', "What happened and what to do, without chatter."),
        _text("mqtt.host", "Name or address of the broker.", required=True),
        _number("mqtt.port", "", 1, 65_535, _NONE, "MQTT over TLS is 8883, as IANA has it.", required=True),
        _text("mqtt.server_name", "The name in the broker's certificate.", "mqtt.host"),
        _word("clock.source", ("system", "page"), '"system"', "A page is the clock of a scenario."),
        _text("clock.page", "The file that the scenario writes; only with source = page."),
        Setting("clock.epoch_wall_ns", "integer", "ns", "0 .. 9,223,372,036,854,775,808", _NONE,
                "Wall time of the page's zero since 1970-01-01T00:00:00Z.", 0, 1 << 63),
        _word("clock.kind", _KINDS, _NONE, "Of a page: never live, and every segment says so."),
        _flag("clock.synced", "The host's clock is disciplined by NTP; nobody else can know."),
        _texts("policy.accept_kinds", '["live"]',
               "Clocks whose segments are taken; a scenario's must not mix with the world's.", _KINDS),
    ]  # fmt: skip


def serve_settings() -> list[Setting]:
    """Every setting of serve.toml."""
    return [*_serve(), *_oidc(), *_mail(), *_limits()]


def _serve() -> list[Setting]:
    return [
        _text("serve.collector", "The collector whose store is shown.", required=True),
        _text("serve.host", "Loopback: from outside only with tls or behind_proxy.", '"127.0.0.1"'),
        _number("serve.port", "", 0, 65_535, str(serve_config.DEFAULT_PORT),
                "Above 1024, so that no root is needed; 0: any free one."),
        _text("serve.base_url", "What people type to get here; no other name is answered.", "host and port"),
        _text("serve.store", "Accounts, sessions, tokens, rules, messages on their way.", '"serve.db"'),
        _text("serve.places", "The operator's own place names: CSV with name,lat,lon,radius_m,kind."),
        _text("serve.outline", "Outlines for the map, as GeoJSON."),
        _word("serve.log_level", LOG_LEVELS, '"info"', "What happened and what to do, without chatter."),
        _flag("serve.tls", "This server speaks TLS itself, with cert and key."),
        _text("serve.cert", "PEM certificate; only with tls = true."),
        _text("serve.key", "PEM key; only with tls = true."),
        _flag("serve.behind_proxy", "A proxy in front speaks TLS and says who called."),
        _texts("serve.proxies", '["127.0.0.1", "::1"]', "Only these are believed about who called."),
        _text("tiles.url", "Template of a licensed tile source; without it the map shows a neutral grid."),
        _text("tiles.attribution", "The words its licence asks for."),
        _word("tiles.datum", ("wgs84", "gcj02", "bd09"), '"wgs84"', "Of that source; at display only."),
    ]  # fmt: skip


def _oidc() -> list[Setting]:
    return [
        _text("oidc.name", "What the button says.", '"OpenID Connect"'),
        _text("oidc.issuer", "The identity provider; https."),
        _text("oidc.client_id", "Ours at the provider."),
        _text("oidc.client_secret_file", "Left out: a public client, with PKCE alone."),
        _text("oidc.scopes", "Must have openid among them.", '"openid profile email"'),
        _text("oidc.tenant", "Everybody's tenant; or instead of it tenant_claim."),
        _text("oidc.tenant_claim", "The claim that says whose each one is."),
        _text("oidc.role_claim", "The claim that `roles` is about.", '"role"'),
        Setting("oidc.roles", "table", "", "", "{}",
                f"Value of the claim to one of {', '.join(ROLES)}; empty: the values are the roles."),
        _text("oidc.manage_claim", "Who manages accounts; without it accounts are given that here."),
        _texts("oidc.manage_values", '["true"]', "Values of manage_claim that mean yes."),
        _text("oidc.branches_claim", "The branches one is confined to; without it all."),
    ]  # fmt: skip


def _mail() -> list[Setting]:
    return [
        _text("smtp.host", "The mail server; without it no mail is sent."),
        _number("smtp.port", "", 1, 65_535, "587; 465 with tls, 25 with none", "The usual ones of each."),
        _text("smtp.from", "The sender's address."),
        _text("smtp.user", "Belongs together with password_file."),
        _text("smtp.password_file", "A file of mode 0600, or a systemd credential of that name."),
        _word("smtp.tls", ("starttls", "tls", "none"), '"starttls"', "none is for this machine alone."),
    ]  # fmt: skip


def _limits() -> list[Setting]:
    return [
        _number("session.idle_s", "s", 60, 30 * 86_400, str(serve_config.IDLE_S),
                "A session that nobody used for a working day ends."),
        _number("session.life_s", "s", 300, 90 * 86_400, str(serve_config.LIFE_S),
                "A session ends after a week, used or not."),
        _flag("webhooks.allow_private", "Webhooks may go to loopback and private addresses: for tests."),
    ]  # fmt: skip


def _check_collector(path: Path, text: str) -> list[Problem]:
    return check_by_table(text, collector_settings(), lambda: collector_files.load_config(path), ConfigError)


def _check_serve(path: Path, text: str) -> list[Problem]:
    return check_by_table(text, serve_settings(), lambda: serve_config.load_config(path), ConfigError)


COLLECTOR: Final = ConfigKind(
    "collector.toml", "collector", "the collector and its log", collector_settings, _check_collector,
    lambda _path, text: values_by_table(text, collector_settings()),
)  # fmt: skip
SERVE: Final = ConfigKind(
    "serve.toml", "serve", "the operator's page and API", serve_settings, _check_serve,
    lambda _path, text: values_by_table(text, serve_settings()),
)  # fmt: skip
