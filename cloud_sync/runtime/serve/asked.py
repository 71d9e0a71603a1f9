"""What routes ask of a request before they look at it: query parameters that exist, times that can be meant.

A mistyped filter must not mean 'everything', and one given twice must not mean 'one of them'.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import Depends, Path, Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from cloud_sync.access import Principal
from cloud_sync.errors import BadRequest
from cloud_sync.runtime.serve.deps import LoggedIn, require

MAX_QUERY_CHARS: Final = 80
"""A search text; names of devices and cars are shorter."""
MAX_CURSOR_CHARS: Final = 1000
MAX_PAGE: Final = 500
REPEATABLE: Final = frozenset({"state"})
"""Filters of which several may be given: any of them."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
TIME_PATTERN: Final = (
    r"^[12][0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9](:[0-5][0-9](\.[0-9]{1,6})?)?"
    r"(Z|[+-][0-2][0-9]:[0-5][0-9])$"
)

Text = Annotated[str | None, Query(max_length=MAX_QUERY_CHARS)]
Time = Annotated[
    str | None, Query(pattern=TIME_PATTERN, description="ISO 8601, such as 2026-12-01T04:40:00Z")
]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
Cursor = Annotated[str | None, Query(max_length=MAX_CURSOR_CHARS, description="`next` of the page before")]
Device = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
IncidentId = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\.[0-9a-f]{32}\.[0-9]{1,19}$")]


def only_known(request: Request) -> None:
    """Refuse query parameters that the route does not have, and those given twice that have one value.

    Raises BadRequest with the nearest name.
    """
    given = request.query_params.multi_items()
    if not given:
        return
    known = _parameters(request.scope.get("route"))
    seen: set[str] = set()
    for name, _ in given:
        if name not in known:
            raise BadRequest(f"there is no query parameter {name!r:.60}; {_nearest(name, known)}")
        if name in seen and name not in REPEATABLE:
            raise BadRequest(f"query parameter {name} was given twice: give it once")
        seen.add(name)


def _parameters(route: Any) -> list[str]:
    return sorted(_names(route.dependant)) if isinstance(route, APIRoute) else []


def _names(dependant: Dependant) -> set[str]:
    own = {str(field.alias) for field in dependant.query_params}
    return own.union(*(_names(each) for each in dependant.dependencies))


def _nearest(name: str, known: list[str]) -> str:
    if not known:
        return "this address takes none"
    close = difflib.get_close_matches(name.lower()[:60], known, 1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"


def require_any(*scopes: str) -> Callable[[LoggedIn], Principal]:
    """Like `deps.require`, for what any one of `scopes` suffices."""

    def allowed(found: LoggedIn) -> Principal:
        if any(found.principal.may(scope) for scope in scopes):
            return found.principal
        return require(scopes[0])(found)

    return allowed


def wall_ms(name: str, text: str | None) -> int | None:
    """A time of a query, ms since 1970. Raises BadRequest for one before, or a day that does not exist."""
    if text is None:
        return None
    try:
        value = (datetime.fromisoformat(text) - _EPOCH) // _MS
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"{name} is a time such as 2026-12-01T04:40:00Z: {error}") from error
    if value < 0:
        raise BadRequest(f"{name} is before 1970")
    return value


KnownQuery = Depends(only_known)
