"""The demo as a visitor of its own page: makes the first account, looks, and compares with the store."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Final

import httpx

from cloud_sync.errors import CloudError

ACCOUNT: Final = "demo"
PASSWORD_BYTES: Final = 12
"""96 bits, typed or pasted by a person who looks at a demo."""
TIMEOUT_S: Final = 20.0
"""Longest wait for one answer: a machine at its limit hashes a password for seconds."""
LISTED: Final = 100
"""Incidents asked for; a demo has three."""


class PageFailed(CloudError):
    """The page did not answer as it must."""


@dataclass(frozen=True, slots=True)
class Entrance:
    """Where the page is and how to enter."""

    url: str
    name: str
    password: str

    def as_json(self, *, open_now: bool) -> dict[str, Any]:
        """The `page` of the demo's JSON."""
        return {"url": self.url, "name": self.name, "password": self.password, "open": open_now}


def enter(url: str, link: str) -> Entrance:
    """Use the one-time link that `holdfast serve` printed: the demo's account. Raises PageFailed."""
    entrance = Entrance(url, ACCOUNT, secrets.token_urlsafe(PASSWORD_BYTES))
    body = {"token": link.rsplit("/", 1)[-1], "name": entrance.name, "password": entrance.password}
    with _client(url) as client:
        _answer(client.post("/api/v1/enter", json=body))
    return entrance


def look(entrance: Entrance) -> dict[str, Any]:
    """Log in as a person does, and read: {incidents, vehicles, index_bytes, tows: story of the first}.

    Raises PageFailed.
    """
    with _client(entrance.url) as client:
        index = client.get("/")
        if index.status_code != 200 or "<html" not in index.text:
            raise PageFailed(f"{entrance.url} answers {index.status_code} and no page")
        _answer(client.post("/api/v1/session", json={"name": entrance.name, "password": entrance.password}))
        incidents = _answer(client.get("/api/v1/incidents", params={"limit": LISTED}))["items"]
        vehicles = _answer(client.get("/api/v1/vehicles", params={"limit": LISTED}))["items"]
        stories = [_answer(client.get(f"/api/v1/incidents/{row['id']}")) for row in incidents]
    return {"incidents": incidents, "vehicles": vehicles, "stories": stories}


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False)


def _answer(response: httpx.Response) -> Any:
    if response.is_success:
        return response.json()
    raise PageFailed(f"{response.request.method} {response.request.url.path}: {response.text[:300]}")
