"""What the server counts of its answers, and what of serve.db is counted when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator
from platform import python_version
from typing import Final

from starlette.types import Scope

from cloud_sync.errors import CloudError
from cloud_sync.runtime.metric_tables import SERVE_METRICS
from cloud_sync.runtime.serve.deps import Context
from cloud_sync.runtime.serve.live_hub import Hub
from firmware_bridge.metric import Sample
from firmware_bridge.runtime.exposition import Gathered, Meters, new_registry

LOGIN: Final = "/api/v1/session"
LIVE: Final = "live"
CLASSES: Final = frozenset(
    {"session", "fleet", "incidents", "records", LIVE, "telling", "accounts", "page", "none"}
)
"""Classes of routes: the tags of the API, the page, and addresses that are none."""
STATES: Final = ("waiting", "delivered", "dead")
_KEY: Final = "metrics"
_OLDEST: Final = (
    "SELECT made_ms FROM deliveries WHERE id = (SELECT min(d.id) FROM (SELECT DISTINCT tenant FROM lanes) t"
    " JOIN deliveries d ON d.tenant = t.tenant AND d.state = 'waiting')"
)


class ServeMetrics:
    """The meters of one server; its `registry` has them."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.registry = new_registry(Gathered(SERVE_METRICS, self.gather))
        self._meters = Meters(
            SERVE_METRICS, self.registry,
            ("holdfast_serve_requests", "holdfast_serve_request_seconds", "holdfast_serve_login_failures"),
        )  # fmt: skip

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        """A request was answered, or its client left (status 0)."""
        kind = class_of(scope)
        self._meters.count("holdfast_serve_requests", kind, str(status))
        if kind != LIVE:
            self._meters.observe("holdfast_serve_request_seconds", seconds, kind)
        route = getattr(scope.get("route"), "path", None)
        if route == LOGIN and scope["method"] == "POST" and status in (401, 429):
            self._meters.count("holdfast_serve_login_failures")

    def gather(self) -> Iterator[Sample]:
        """What is read at a scrape; what cannot be read is missing."""
        context = self._context
        yield _one("build", 1, context.version, python_version())
        hub = context.extras.get(LIVE)
        yield _one("live_streams", hub.viewers if isinstance(hub, Hub) else 0)
        yield _one("viewers_cut", hub.dropped if isinstance(hub, Hub) else 0)
        try:
            with context.db.reading() as db:
                yield _one("sessions", db.execute("SELECT count(*) FROM sessions").fetchone()[0])
                states = dict(db.execute("SELECT state, count(*) FROM deliveries GROUP BY state").fetchall())
                oldest = db.execute(_OLDEST).fetchone()
        except CloudError:
            return  # busy, or the tables are not made yet: the next scrape sees them
        for state in STATES:
            yield _one("deliveries", states.get(state, 0), state)
        if oldest is not None:
            yield _one("delivery_oldest_seconds", max(context.real_ms() - oldest[0], 0) / 1000)


def install(context: Context) -> ServeMetrics:
    """The server's meters; made at the first call."""
    found = context.extras.get(_KEY)
    if not isinstance(found, ServeMetrics):
        found = context.extras[_KEY] = ServeMetrics(context)
    return found


def class_of(scope: Scope) -> str:
    """The class of a request's route: one of CLASSES, so that addresses that are made up add no series."""
    route = scope.get("route")
    if route is None:
        return "none"
    tags = [tag for tag in getattr(route, "tags", None) or () if tag in CLASSES]
    return str(tags[0]) if tags else "page"


def _one(name: str, value: float, *labels: str) -> Sample:
    return Sample(f"holdfast_serve_{name}", value, labels)
