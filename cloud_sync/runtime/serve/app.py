"""The FastAPI application: every router, every error a problem, the headers, the background tasks.

`open_context` opens what the server needs, `create_app` builds the application around it; `daemon` runs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import anyio.to_thread
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from cloud_sync.errors import ConfigError, StoreBusy
from cloud_sync.runtime import cases, projector, titles
from cloud_sync.runtime.collector_files import load_config as load_collector
from cloud_sync.runtime.collector_files import load_keys, make_clock
from cloud_sync.runtime.kinds import serve_say as say
from cloud_sync.runtime.serve import (
    live,
    oidc,
    problems,
    routes_accounts,
    routes_fleet,
    routes_incidents,
    routes_records,
    routes_session,
    routes_telling,
    sessions,
    telling,
)
from cloud_sync.runtime.serve import static as page
from cloud_sync.runtime.serve.accounts import Passwords
from cloud_sync.runtime.serve.config import ServeConfig
from cloud_sync.runtime.serve.db import ServeDb, StorePool
from cloud_sync.runtime.serve.deps import Context
from cloud_sync.runtime.serve.etag import FinishJson
from cloud_sync.runtime.serve.schemas import Problem
from cloud_sync.runtime.serve.security import Guard
from firmware_bridge.runtime.clock import Clock

THREADS: Final = 64
"""Worker threads: each may wait for SQLite or for a password's hash; 16 of them at most for passwords."""
SWEEP_S: Final = 3600.0
"""How often ended sessions are deleted; they are refused from the moment they end."""
RESTART_S: Final = 5.0
"""Pause before a background task that failed is started again."""
API: Final = "/api/v1"
TAGS: Final = [
    {"name": "session", "description": "Logging in and out, one-time links."},
    {"name": "fleet", "description": "Vehicles, the map, completeness of records."},
    {"name": "incidents", "description": "Incidents, their stories and what people did about them."},
    {"name": "records", "description": "Titles, the log with proofs, the audit, alarms."},
    {"name": "live", "description": "Server-sent events."},
    {"name": "telling", "description": "Rules, webhooks and messages on their way."},
    {"name": "accounts", "description": "Accounts and API tokens."},
]
DESCRIPTION: Final = (
    "What devices on pledged vehicles proved, and what people decided upon it. Log in with a session (cookie "
    "and X-CSRF-Token) or an API token. Every list is paged with `next` and `cursor`, carries the "
    "collector's time as `now`, and has a weak ETag. Errors are problem details (RFC 9457)."
)


def open_context(
    config: ServeConfig, *, clock: Clock | None = None, passwords: Passwords | None = None
) -> Context:
    """Everything the server needs, opened. Raises CloudError."""
    collector = load_collector(config.collector)
    keys = load_keys(collector)
    clock = clock or make_clock(collector)
    stores = StorePool(collector.store)
    with stores.writing() as store, store.transaction() as db:
        projector.migrate(db)
        cases.migrate(db)
    try:
        words = page.all_words()
    except (OSError, ValueError) as error:
        raise ConfigError(f"the page's words cannot be read: {error}; install holdfast again") from error
    try:
        tenant = titles.tenant_of(config.collector, None)
    except ConfigError:
        tenant = None
    return Context(
        config=config, collector=collector, keys=keys, clock=clock, tenant=tenant, stores=stores,
        db=ServeDb(config.store), words=words, passwords=passwords or Passwords(), version=_version(),
        base_url=config.base_url or url_of(config, config.port),
    )  # fmt: skip


def url_of(config: ServeConfig, port: int) -> str:
    """The address of a server that says none itself."""
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"{'https' if config.cert else 'http'}://{host}:{port}"


def _version() -> str:
    try:
        return version("holdfast")
    except PackageNotFoundError:
        return "unknown"


def create_app(context: Context) -> FastAPI:
    """The application. Its background tasks run while its lifespan does."""
    app = FastAPI(
        title="Holdfast", version=context.version, description=DESCRIPTION, openapi_tags=TAGS,
        openapi_url=f"{API}/openapi.json", docs_url=None, redoc_url=None, redirect_slashes=False,
        lifespan=_lifespan, generate_unique_id_function=_operation_id,
    )  # fmt: skip
    app.state.context = context
    problems.install(app)
    for part in (
        routes_session, routes_fleet, routes_incidents, routes_records, live, routes_telling, routes_accounts,
        oidc,
    ):  # fmt: skip
        app.include_router(part.router)
    app.include_router(page.make_router(context.words))
    app.add_middleware(FinishJson)
    app.add_middleware(Guard, context=context)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _operation_id(route: APIRoute) -> str:
    """The function's name: stable when a path moves."""
    return route.name


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    context: Context = app.state.context
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    tasks = [
        asyncio.create_task(_kept_running(name, make), name=name) for name, make in _background(app).items()
    ]
    try:
        yield
    finally:
        context.stopping.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _background(app: FastAPI) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
    """What runs beside the requests."""
    context: Context = app.state.context
    return {"sweep": lambda: _sweep(context), "telling": lambda: telling.run(context)}


async def _kept_running(name: str, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a background task until it is cancelled; one that fails is said and begins again."""
    while True:
        try:
            await make()
        except Exception as error:  # noqa: BLE001 - the top of a task: it must not end the server, nor end in silence
            say("task_failed", task=name, error=repr(error), wait_s=RESTART_S, exc_info=error)
        await asyncio.sleep(RESTART_S)


async def _sweep(context: Context) -> None:
    def once() -> None:
        try:
            with context.db.transaction() as db:
                sessions.sweep(db, context.config.session, context.real_ms())
        except StoreBusy as error:
            say("sessions_not_swept", error=error)

    while True:
        await anyio.to_thread.run_sync(once)
        await asyncio.sleep(SWEEP_S)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The description, with problem details where FastAPI writes errors of its own form."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    schema = get_openapi(
        title=app.title, version=app.version, description=app.description, tags=app.openapi_tags,
        routes=app.routes, separate_input_output_schemas=False,
    )  # fmt: skip
    parts = schema.setdefault("components", {})
    for name in ("HTTPValidationError", "ValidationError"):
        parts.get("schemas", {}).pop(name, None)
    parts.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
    parts["responses"] = {
        "Problem": {
            "description": "What went wrong and what to do (RFC 9457)",
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    }
    reference = {"$ref": "#/components/responses/Problem"}
    for path in schema["paths"].values():
        for operation in path.values():
            answers = operation["responses"]
            answers.pop("422", None)
            answers |= {"4XX": reference, "5XX": reference}
            if operation.get("security"):
                operation["security"] = [{"session": []}, {"token": []}]
                answers |= {"401": reference, "403": reference}
    app.openapi_schema = schema
    return schema
