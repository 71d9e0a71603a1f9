"""serve.toml: what it may say, and what it is told when it cannot be meant."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from test_systemd import example

from cloud_sync.errors import ConfigError
from cloud_sync.runtime.serve import config
from cloud_sync.runtime.serve.config import ServeConfig, is_loopback, load_config, read_secret


def load(tmp_path: Path, text: str = "", serve: str = "") -> ServeConfig:
    file = tmp_path / "serve.toml"
    file.write_text(f'[serve]\ncollector = "collector.toml"\n{serve}\n{text}', "utf-8")
    return load_config(file)


def test_one_line_is_enough_and_listens_to_this_machine_alone(tmp_path: Path) -> None:
    found = load(tmp_path)
    assert (found.host, found.port, found.base_url) == ("127.0.0.1", 8480, None)
    assert (found.collector, found.store) == (tmp_path / "collector.toml", tmp_path / "serve.db")
    assert (found.places, found.outline, found.tiles, found.oidc, found.smtp) == (None,) * 5
    assert (found.session.idle_s, found.session.life_s) == (43_200, 604_800)
    assert found.webhooks_allow_private is False and found.behind_proxy is False


@pytest.mark.parametrize("all_of_it", [False, True], ids=["as it lies", "all of it"])
def test_the_example_is_read(tmp_path: Path, all_of_it: bool) -> None:
    text = example("serve.toml.example", all_of_it=all_of_it)
    if all_of_it:  # of the examples for TLS only one can hold
        text = text.replace("behind_proxy = false", "behind_proxy = true").replace(
            "tls = false", "tls = true"
        )
    file = tmp_path / "serve.toml"
    file.write_text(text, "utf-8")
    found = load_config(file)
    assert (found.port, found.log_level, found.session.idle_s) == (8480, "info", 43_200)
    assert (found.oidc is not None, found.smtp is not None, found.tiles is not None) == (all_of_it,) * 3


def test_the_example_names_every_section_and_key() -> None:
    document = tomllib.loads(example("serve.toml.example", all_of_it=True))
    known = {name: set(keys) for name, keys in config.SECTIONS.items()}
    known["oidc"].remove("tenant_claim")  # instead of tenant; its comment names it
    assert {name: set(table) for name, table in document.items()} == known


@pytest.mark.parametrize(
    ("serve", "text", "said"),
    [
        ("colector = 1", "", "did you mean collector"),
        ("", "[sesion]\nidle_s = 60", "did you mean session"),
        ("", "[session]\nidle = 60", "did you mean idle_s"),
        ("", "[zzz]\n", "there are oidc, serve"),
        ("port = true", "", "port must be an integer"),
        ("port = 70000", "", "port must be an integer from 0 to 65535"),
        ("host = 5", "", "host must be a text"),
        ('log_level = "loud"', "", "log_level is one of"),
        ("tls = true", "", "cert is missing"),
        ('cert = "a"', "", "but not tls = true"),
        ('base_url = "ftp://x"', "", "base_url is an http or https URL"),
        ('base_url = "http://user:pw@localhost"', "", "without a password"),
        ('base_url = "http://localhost:99999"', "", "base_url is an http or https URL"),
        ('base_url = "http://localhost/page"', "", "scheme and host alone"),
        ('base_url = "http://holdfast.example"', "", "must be https"),
        ('base_url = "https://holdfast.example"', "", "nobody speaks TLS"),
        ('host = "0.0.0.0"', "", "can be reached from outside, in clear text"),
        ('host = "::"', "", "can be reached from outside"),
        ('host = "holdfast.example"', "", "can be reached from outside"),
        ('host = "0.0.0.0"\nbehind_proxy = true', "", "base_url is needed"),
        ("", "[session]\nidle_s = 90000\nlife_s = 300", "longer than life_s"),
        ("", '[tiles]\nurl = "https://t.example/"\nattribution = "x"', "template with {z}"),
        ("", '[tiles]\nurl = "https://t.example;script-src *{z}{x}{y}"\nattribution = "x"', "template"),
        ("", '[smtp]\nhost = "mail.example"\nfrom = "a@b"\ntls = "none"', "on this machine alone"),
        ("", '[smtp]\nhost = "mail.example"\nfrom = "a@b"\nuser = "u"', "belong together"),
        ("", '[smtp]\nhost = "mail.example"\nfrom = "nobody"', "sender's address"),
        ("", '[oidc]\nissuer = "http://login.example"\nclient_id = "x"\ntenant = "a"', "must be https"),
        ("", '[oidc]\nissuer = "https://login.example"\nclient_id = "x"', "tenant_claim is needed"),
        (
            "",
            '[oidc]\nissuer = "https://login.example"\nclient_id = "x"\ntenant = "a"\nroles = {a = "king"}',
            "operator, auditor",
        ),
        (
            "",
            '[oidc]\nissuer = "https://login.example"\nclient_id = "x"\ntenant = "a"\nscopes = "email"',
            "openid",
        ),
        ("", "not toml", "serve.toml"),
    ],
)
def test_what_cannot_be_meant_says_what_to_do(tmp_path: Path, serve: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text, serve)
    assert said in str(error.value)
    assert "serve.toml" in str(error.value)


def test_a_missing_file_and_a_missing_section(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load_config(tmp_path / "nowhere.toml")
    (tmp_path / "serve.toml").write_text("[session]\n", "utf-8")
    with pytest.raises(ConfigError, match=r"\[serve\] is missing"):
        load_config(tmp_path / "serve.toml")


def test_the_network_is_served_with_tls_or_behind_a_proxy(tmp_path: Path) -> None:
    tls = 'host = "0.0.0.0"\nbase_url = "https://h.example"\ntls = true\ncert = "a.crt"\nkey = "a.key"'
    assert load(tmp_path, serve=tls).cert == tmp_path / "a.crt"
    proxy = 'host = "0.0.0.0"\nbase_url = "https://h.example/"\nbehind_proxy = true'
    found = load(tmp_path, serve=proxy)
    assert found.base_url == "https://h.example"
    assert found.proxies == ("127.0.0.1", "::1")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "10.0.0.1", "::", "localhost.example", "127.0.0.1.example"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_a_secret_is_a_file_of_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "smtp.secret"
    with pytest.raises(ConfigError, match="write it there"):
        read_secret(file)
    file.write_text("pass word\n", "utf-8")
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_secret(file)
    file.chmod(0o600)
    assert read_secret(file) == "pass word"
    for bad in ("", "two\nlines\n", "x" * 5000):
        file.write_text(bad, "utf-8")
        with pytest.raises(ConfigError, match="one line"):
            read_secret(file)


def test_a_systemd_credential_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, text in ((tmp_path, "from the file"), (tmp_path / "credentials", "from systemd")):
        folder.mkdir(exist_ok=True)
        (folder / "oidc.secret").write_text(text, "utf-8")
        (folder / "oidc.secret").chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    assert load(tmp_path).secret("oidc.secret") == "from systemd"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    assert load(tmp_path).secret("oidc.secret") == "from the file"


def test_the_policy_of_the_page_names_the_host_of_the_tiles(tmp_path: Path) -> None:
    tiles = '[tiles]\nurl = "https://{s}.t.example:8443/{z}/{x}/{y}.png"\nattribution = "x"\ndatum = "gcj02"'
    found = load(tmp_path, tiles).tiles
    assert found is not None
    assert (found.source, found.datum) == ("https://*.t.example:8443", "gcj02")
