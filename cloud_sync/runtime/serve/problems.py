"""RFC 9457 problem details for everything that goes wrong, and which error of ours is which problem.

A problem's `code` is a key of the words (`problem.<code>`), its `type` is `urn:holdfast:problem:<code>`. An
unforeseen error gets an id that stands in the server's log; nothing of it is told to the caller.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from cloud_sync.errors import (
    BadCursor,
    BadRequest,
    BundleError,
    CloudError,
    Conflict,
    Denied,
    NotFound,
    StoreBusy,
    StoreReadOnly,
)
from cloud_sync.runtime.kinds import serve_say as say
from cloud_sync.runtime.serve.schemas import Problem

MEDIA_TYPE: Final = "application/problem+json"
MAX_FIELDS: Final = 5
"""Fields that one refusal names: more help nobody."""
MAX_DETAIL_CHARS: Final = 1000

_JSON_REMEDY: Final = "Send one JSON object, in UTF-8."

TITLES: Final[dict[str, tuple[int, str]]] = {
    "bad_request": (400, "The request cannot be meant"),
    "bad_cursor": (400, "This cursor is not one of this list"),
    "bad_host": (400, "This server has another name"),
    "not_logged_in": (401, "Nobody is logged in"),
    "login_failed": (401, "Name and password do not go together"),
    "scope_missing": (403, "This account must not do that"),
    "denied": (403, "This account must not do that"),
    "csrf": (403, "The request did not come from the page"),
    "origin": (403, "The request came from another page"),
    "oidc_refused": (403, "The identity provider's account may not enter"),
    "not_found": (404, "There is no such thing"),
    "method_not_allowed": (405, "That cannot be done here"),
    "slow": (408, "The request took too long to arrive"),
    "conflict": (409, "Somebody else acted meanwhile"),
    "name_taken": (409, "This name is taken"),
    "bundle": (409, "No bundle can be made of this"),
    "link_gone": (410, "This link is used or too old"),
    "too_large": (413, "The request is too large"),
    "url_too_long": (414, "The address is too long"),
    "media_type": (415, "JSON is expected"),
    "invalid": (422, "Some of the request cannot be meant"),
    "weak_password": (422, "This password is too easy"),
    "too_often": (429, "Too many attempts"),
    "header_too_large": (431, "The headers are too large"),
    "internal": (500, "Something went wrong here"),
    "oidc_failed": (502, "The identity provider did not answer as it must"),
    "busy": (503, "The store is busy"),
}
"""Code -> status and title, all there are."""


class ApiProblem(Exception):
    """A problem to be answered; `headers` go with it."""

    def __init__(
        self, code: str, detail: str, remedy: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.remedy = remedy
        self.headers = dict(headers or {})


def body_of(code: str, detail: str, remedy: str = "", status: int | None = None) -> bytes:
    """The JSON of a problem."""
    known, title = TITLES[code]
    value = Problem(
        type=f"urn:holdfast:problem:{code}", title=title, status=status or known,
        detail=detail[:MAX_DETAIL_CHARS], code=code, remedy=remedy,
    )  # fmt: skip
    return json.dumps(value.model_dump(), ensure_ascii=False).encode()


def respond(
    code: str,
    detail: str,
    remedy: str = "",
    headers: Mapping[str, str] | None = None,
    status: int | None = None,
) -> Response:
    """A problem as an answer."""
    return Response(
        body_of(code, detail, remedy, status), status or TITLES[code][0], dict(headers or {}), MEDIA_TYPE
    )


def of_error(error: CloudError) -> ApiProblem:
    """Which problem an error of the cloud is. Paths and SQL stay in the log."""
    match error:
        case BadCursor():
            return ApiProblem("bad_cursor", str(error), "Begin again without a cursor.")
        case BadRequest():
            return ApiProblem("bad_request", str(error))
        case NotFound():
            return ApiProblem("not_found", str(error))
        case Denied():
            return ApiProblem("denied", str(error))
        case Conflict():
            return ApiProblem("conflict", str(error), "Read it again and decide.")
        case BundleError():
            return ApiProblem("bundle", str(error))
        case StoreBusy():
            say("serve_store_busy", error=error)
            wait = "60" if isinstance(error, StoreReadOnly) else "1"
            return ApiProblem(
                "busy", "The store cannot be used right now; nothing was changed.", "Try again in a moment.",
                {"Retry-After": wait},
            )  # fmt: skip
    return internal(error)


def internal(error: BaseException) -> ApiProblem:
    """An error nobody foresaw: an id for the caller, everything else for the log."""
    number = secrets.token_hex(4)
    say("serve_fault", reason=number, error=repr(error), exc_info=error)
    return ApiProblem(
        "internal", f"The server's log has this as error {number}.", "Tell whoever runs the server."
    )


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem."""

    async def problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiProblem)
        return respond(error.code, error.detail, error.remedy, error.headers)

    async def cloud(request: Request, error: Exception) -> Response:
        assert isinstance(error, CloudError)
        return await problem(request, of_error(error))

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return validation_problem(error.errors())

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return http_problem(error)

    app.add_exception_handler(ApiProblem, problem)
    app.add_exception_handler(CloudError, cloud)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)


def validation_problem(errors: Sequence[Any]) -> Response:
    """Which fields cannot be meant, and what is allowed. What was sent is not repeated."""
    if any(error.get("type") == "json_invalid" for error in errors):
        return respond("bad_request", "The body is not JSON.", _JSON_REMEDY)
    said = []
    for error in errors[:MAX_FIELDS]:
        where = ".".join(str(part) for part in error.get("loc", ())[1:]) or "body"
        said.append(f"{where[:80]}: {error.get('msg', 'not allowed')}")
    more = len(errors) - MAX_FIELDS
    detail = "; ".join(said) + (f"; and {more} more" if more > 0 else "")
    return respond("invalid", detail, "Correct what is named and send it again.")


def http_problem(error: HTTPException) -> Response:
    """Starlette's own errors: unknown addresses and methods mostly."""
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return respond("not_found", "Nothing is at this address.", headers=headers)
    if error.status_code == 405:
        allowed = headers.get("Allow") or headers.get("allow", "")
        return respond("method_not_allowed", f"Allowed here: {allowed or 'GET'}.", headers=headers)
    code = next(
        (code for code, (status, _) in TITLES.items() if status == error.status_code),
        "internal" if error.status_code >= 500 else "bad_request",
    )
    remedy = _JSON_REMEDY if error.status_code == 400 else ""
    return respond(code, str(error.detail), remedy, headers, error.status_code)
