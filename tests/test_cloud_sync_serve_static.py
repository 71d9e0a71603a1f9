"""The page's files: exactly those, with their kinds, tags and compression, and no way to any other."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from urllib.parse import unquote

import pytest
from serve_kit import ServeKit, kit
from starlette.types import Message, Scope

from cloud_sync.runtime.serve import static
from cloud_sync.runtime.serve.etag import accepts_gzip, matches, weak_tag
from cloud_sync.words import LANGUAGES, parameters

__all__ = ["kit"]

PAGE = Path(static.__file__).parents[2] / "page"


def test_the_index_is_the_page(kit: ServeKit) -> None:
    answer = kit.anonymous().get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.content == (PAGE / "index.html").read_bytes()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/page/app.js", "text/javascript; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
        ("/page/leaflet/leaflet.js", "text/javascript; charset=utf-8"),
        ("/page/leaflet/leaflet-src.esm.js", "text/javascript; charset=utf-8"),
        ("/page/leaflet/leaflet.css", "text/css; charset=utf-8"),
        ("/page/leaflet/images/marker-icon.png", "image/png"),
        ("/words/en.json", "application/json"),
        ("/words/zh.json", "application/json"),
    ],
)
def test_files_have_their_kind(kit: ServeKit, path: str, kind: str) -> None:
    answer = kit.anonymous().get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert len(answer.content) > 50


def test_everything_the_page_refers_to_is_there(kit: ServeKit) -> None:
    """Modules import each other by relative paths; all of them are served."""
    import re

    client = kit.anonymous()
    found = 0
    for file in PAGE.glob("*.js"):
        for name in re.findall(r"""(?:from|import\()\s*["']\./([\w./-]+)["']""", file.read_text("utf-8")):
            found += 1
            assert client.get(f"/page/{name}").status_code == 200, f"{file.name} imports {name}"
    for name in re.findall(r'(?:href|src)="(/[^"]+)"', (PAGE / "index.html").read_text("utf-8")):
        assert client.get(name).status_code == 200, name
    assert found > 5


@pytest.mark.parametrize(
    "path",
    [
        "/page/../app.py", "/page/..%2f..%2f__main__.py", "/page/%2e%2e/%2e%2e/errors.py", "/page//etc/hosts",
        "/page/leaflet/../../app.py", "/page/leaflet/leaflet.js.map", "/page/words/en/shell.json", "/page/",
        "/page", "/words/", "/words/de.json", "/words/../page/app.js", "/page/app.js/", "/page/app.js%00",
        "/page\\app.js", "/page/..\\..\\app.py", "/favicon.ico", "/serve.toml", "/page/APP.JS",
    ],
)  # fmt: skip
def test_nothing_else_is(kit: ServeKit, path: str) -> None:
    start, body = raw(kit, path)
    assert start["status"] in (400, 404)
    assert (b"content-type", b"application/problem+json") in start["headers"]
    assert json.loads(body["body"])["code"] in ("not_found", "bad_request")


def raw(kit: ServeKit, path: str) -> list[Message]:
    """What is answered to a path as it stands: clients would put `..` right before they send it."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": unquote(path), "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8480),
    }  # fmt: skip
    asyncio.run(kit.app(scope, receive, send))
    return sent


def test_the_raw_way_finds_what_is_there(kit: ServeKit) -> None:
    assert raw(kit, "/page/app.js")[0]["status"] == 200


def test_the_same_content_costs_nothing_the_second_time(kit: ServeKit) -> None:
    client = kit.anonymous()
    first = client.get("/page/app.js", headers={"Accept-Encoding": "gzip"})
    assert first.headers["content-encoding"] == "gzip" and first.headers["vary"] == "Accept-Encoding"
    plain = client.get("/page/app.js", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers and plain.content == first.content
    assert plain.headers["etag"] != first.headers["etag"]
    for tag in (first.headers["etag"], plain.headers["etag"], f'"x", {plain.headers["etag"]}', "*"):
        again = client.get("/page/app.js", headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["cache-control"] == "no-cache"
    assert client.get("/page/app.js", headers={"If-None-Match": '"other"'}).status_code == 200


def test_head_is_answered_and_post_is_not(kit: ServeKit) -> None:
    client = kit.anonymous()
    assert client.head("/page/app.js").status_code == 200
    assert client.post("/page/app.js").status_code == 405


def test_the_first_load_is_small(kit: ServeKit) -> None:
    """Everything but the views that are loaded later: below 300 kB as it is sent."""
    assets = static.load_assets(kit.context.words, {name: static.load_texts(name) for name in LANGUAGES})
    first = [
        asset for path, asset in assets.items()
        if (path.startswith("/page/") and path.count("/") == 2) or path in ("/words/en.json",)
        or path in ("/page/leaflet/leaflet.js", "/page/leaflet/leaflet.css")
    ]  # fmt: skip
    assert sum(len(asset.zipped or asset.data) for asset in first) < 300_000


def test_assets_are_what_they_were_made_of() -> None:
    asset = static.make_asset("x.js", b"let a = 1;\n" * 100)
    assert asset.zipped is not None and gzip.decompress(asset.zipped) == asset.data
    assert static.make_asset("x.png", b"\x89" * 5000).zipped is None
    assert static.make_asset("x.css", b"a{}").zipped is None
    assert static.make_asset("y.js", b"let a = 1;\n" * 100).etag == asset.etag
    assert static.make_asset("x.js", b"let a = 2;\n" * 100).etag != asset.etag


# --- words ---------------------------------------------------------------------------------------------


def test_both_languages_have_the_same_codes_and_parameters() -> None:
    english, chinese = static.load_texts("en"), static.load_texts("zh")
    assert english.keys() == chinese.keys()
    differ = [code for code in english if parameters(english[code]) != parameters(chinese[code])]
    assert differ == []


def test_the_words_are_served_as_they_are_loaded(kit: ServeKit) -> None:
    served = kit.anonymous().get("/words/zh.json").json()
    assert served == static.load_texts("zh")
    assert static.load_words("zh").say("problem.not_found") == served["problem.not_found"]


def test_a_code_that_two_areas_have_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "page" / "words" / "en"
    folder.mkdir(parents=True)
    for area in ("a", "b"):
        (folder / f"{area}.json").write_text(json.dumps({"same.code": area}), "utf-8")
    monkeypatch.setattr(static.importlib.resources, "files", lambda name: tmp_path)
    with pytest.raises(ValueError, match=r"b\.json repeats same\.code"):
        static.load_texts("en")


def test_every_problem_has_words() -> None:
    from cloud_sync.runtime.serve.problems import TITLES

    for language in LANGUAGES:
        words = static.load_words(language)
        assert [code for code in TITLES if f"problem.{code}" not in words] == []


# --- tags and encodings by themselves ------------------------------------------------------------------


def test_the_time_alone_is_no_news() -> None:
    one = b'{"items":[],"next":null,"total":0,"now":"2026-12-01T04:40:00.000Z"}'
    two = b'{"items":[],"next":null,"total":0,"now":"2026-12-01T04:41:00.000Z"}'
    three = b'{"items":[],"next":null,"total":1,"now":"2026-12-01T04:40:00.000Z"}'
    assert weak_tag(one) == weak_tag(two) != weak_tag(three)
    inside = [json.dumps({"note": f'"now":"2026-12-01T04:4{n}:00.000Z"'}).encode() for n in range(2)]
    assert weak_tag(inside[0]) != weak_tag(inside[1])


@pytest.mark.parametrize(
    ("header", "fits"),
    [
        ('W/"a"', True), ('"a"', True), ('"b", W/"a"', True), ("*", True), ("", False), ('"b"', False),
        ("a", False), ('W/"a-gz"', True),
    ],
)  # fmt: skip
def test_if_none_match(header: str, fits: bool) -> None:
    assert matches(header, 'W/"a"') is fits


@pytest.mark.parametrize(
    ("header", "yes"),
    [
        ("gzip", True), ("deflate, gzip;q=1.0, *;q=0.5", True), ("*", True), ("gzip;q=0", False),
        ("gzip; q=0.000", False), ("br", False), ("", False), ("GZIP", True), ("xgzip", False),
    ],
)  # fmt: skip
def test_accept_encoding(header: str, yes: bool) -> None:
    assert accepts_gzip(header) is yes
