"""The page's files: the package's own `cloud_sync/page`, Leaflet from XStatic-Leaflet, and the words.

They are read and compressed once, at the start; a file is served by its exact name out of that table, so that
no path can lead anywhere else. ETags are hashes of the content, and browsers ask every time (`no-cache`): a
new version is seen at once, an old one costs an empty answer.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import xstatic.pkg.leaflet
from fastapi import APIRouter, Request
from starlette.responses import Response

from cloud_sync.runtime.serve.etag import accepts_gzip, matches
from cloud_sync.runtime.serve.problems import ApiProblem
from cloud_sync.words import LANGUAGES, Words

TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
    ".txt": "text/plain; charset=utf-8",
}
"""What is served, and as what; a file of another kind stays where it is."""
MIN_GZIP_BYTES: Final = 500
"""Below, gzip's own header eats the gain."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is sent."""

    type: str
    etag: str
    data: bytes
    zipped: bytes | None


def make_asset(name: str, data: bytes) -> Asset:
    """`data` compressed and named by its content."""
    kind = TYPES["." + name.rpartition(".")[2]]
    zipped = None
    if len(data) >= MIN_GZIP_BYTES and kind != TYPES[".png"]:
        zipped = gzip.compress(data, 9, mtime=0)
    return Asset(kind, f'"{hashlib.sha256(data).hexdigest()[:32]}"', data, zipped)


def load_assets(words: Mapping[str, Words], texts: Mapping[str, Mapping[str, str]]) -> dict[str, Asset]:
    """Path -> asset, of everything there is without a login."""
    found: dict[str, Asset] = {}
    for name, file in _files(importlib.resources.files("cloud_sync") / "page", ""):
        if not name.startswith("words/"):
            found[f"/page/{name}"] = make_asset(name, file.read_bytes())
    for name, file in _files(Path(xstatic.pkg.leaflet.BASE_DIR), ""):
        found[f"/page/leaflet/{name}"] = make_asset(name, file.read_bytes())
    for language in words:
        text = json.dumps(texts[language], ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        found[f"/words/{language}.json"] = make_asset("words.json", text.encode())
    if "/page/index.html" in found:
        found["/"] = found["/page/index.html"]
    return found


def load_texts(language: str) -> dict[str, str]:
    """All areas of one language in one map. Raises ValueError for a code that two areas have."""
    merged: dict[str, str] = {}
    for name, file in _files(importlib.resources.files("cloud_sync") / "page" / "words" / language, ""):
        area = json.loads(file.read_text("utf-8"))
        if twice := merged.keys() & area.keys():
            raise ValueError(f"words/{language}/{name} repeats {sorted(twice)[0]}")
        merged |= area
    return merged


def load_words(language: str) -> Words:
    """The catalogue of one language."""
    return Words(language, load_texts(language))


def all_words() -> dict[str, Words]:
    """The catalogues of all languages."""
    return {language: load_words(language) for language in LANGUAGES}


def _files(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    """Files of a served kind below `folder`, with their paths."""
    if not folder.is_dir():
        return
    for one in sorted(folder.iterdir(), key=lambda file: file.name):
        if one.is_dir():
            yield from _files(one, f"{prefix}{one.name}/")
        elif "." + one.name.rpartition(".")[2] in TYPES:
            yield prefix + one.name, one


def make_router(words: Mapping[str, Words]) -> APIRouter:
    """The routes of the page."""
    assets = load_assets(words, {language: load_texts(language) for language in words})
    router = APIRouter(include_in_schema=False)

    async def asset(request: Request) -> Response:
        return _answer(request, assets.get(request.url.path))

    for path in ("/", "/page/{name:path}", "/words/{name:path}"):
        router.add_api_route(path, asset, methods=["GET", "HEAD"], response_model=None)
    return router


def _answer(request: Request, found: Asset | None) -> Response:
    if found is None:
        raise ApiProblem("not_found", "Nothing is at this address.")
    headers = {"ETag": found.etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if matches(request.headers.get("if-none-match", ""), found.etag):
        return Response(status_code=304, headers=headers)
    data = found.data
    if found.zipped is not None and accepts_gzip(request.headers.get("accept-encoding", "")):
        data = found.zipped
        headers |= {"Content-Encoding": "gzip", "ETag": found.etag[:-1] + '-gz"'}
    headers["Content-Type"] = found.type
    return Response(data, headers=headers)
