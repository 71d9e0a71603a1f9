"""The API under fire: what its own description allows, and what it does not, drawn by schemathesis.

In process, with an operator's token, the same cases every time. No answer is a server error, and every answer
is one that the description knows, in its form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serve_kit import BASE, ServeKit, make_serve_kit
from starlette.testclient import TestClient

from cloud_sync.access import SCOPES
from cloud_sync.runtime.serve import schemas
from cloud_sync.runtime.serve.problems import TITLES

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip
EXAMPLES = 8
"""Cases of each mode for each operation: about 700 requests in all."""
TUPLES = "/api/v1/map"
"""Its rows are tuples (`prefixItems`), which this schemathesis rewrites into a schema that is none; their
form is checked with the model itself."""
STREAM = "/api/v1/live"
"""Never ends by itself; tests/test_cloud_sync_serve_live.py has it."""


@pytest.fixture(scope="module")
def fired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServeKit, TestClient, dict[str, str]]]:
    """A kit, a client, and real ids for path parameters."""
    kit = make_serve_kit(tmp_path_factory.mktemp("openapi"))
    id_ = kit.incident()
    client = TestClient(kit.app, base_url=BASE, follow_redirects=False, raise_server_exceptions=True)
    client.headers["Authorization"] = f"Bearer {kit.api_token()}"
    yield kit, client, {"device": "car-1", "id": id_, "path": "0/000.p/3"}
    client.close()
    kit.close()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_is_one_that_the_description_knows(
    fired: tuple[ServeKit, TestClient, dict[str, str]], mode: GenerationMode
) -> None:
    kit, client, ids = fired
    schema = schemathesis.openapi.from_dict(kit.app.openapi())
    statuses: dict[int, int] = {}
    operations = [found.ok() for found in schema.get_all_operations()]
    for operation in operations:
        if operation.path != STREAM:
            fire(operation, mode, client, ids, statuses)
    assert len(operations) > 45
    assert not [status for status in statuses if status >= 500], statuses
    if mode is GenerationMode.POSITIVE:
        assert statuses[200] > 100, statuses
    assert sum(statuses.get(status, 0) for status in (400, 404, 422)) > 50, statuses


def fire(
    operation: Any, mode: GenerationMode, client: TestClient, ids: dict[str, str], statuses: dict[int, int]
) -> None:
    """Send drawn cases of one operation; half of them with ids that exist."""
    if mode is GenerationMode.NEGATIVE and not (list(operation.iter_parameters()) or operation.body):
        return  # nothing of it can be wrong
    checks = [each for each in CHECKS if operation.path != TUPLES or each is not response_schema_conformance]

    @settings(
        max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy(generation_mode=mode), st.booleans())
    def one(case: Any, real: bool) -> None:
        if real and mode is GenerationMode.POSITIVE:
            for name in list(case.path_parameters or {}):
                case.path_parameters[name] = ids.get(name, case.path_parameters[name])
        kwargs = case.as_transport_kwargs(base_url=BASE, headers=dict(client.headers))
        answer = client.request(**{name: value for name, value in kwargs.items() if value})
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        case.validate_response(answer, checks=checks)
        if operation.path == TUPLES and answer.status_code == 200:
            schemas.FleetMap.model_validate(answer.json())

    one()


def test_the_description_names_every_problem_and_hides_nothing(
    fired: tuple[ServeKit, TestClient, dict[str, str]],
) -> None:
    document = fired[0].app.openapi()
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        assert path.startswith(("/api/v1/", "/log/", "/auth/", "/health")), path
        for operation in operations.values():
            assert operation.get("description") or operation.get("summary"), path
            assert {"4XX", "5XX"} <= set(operation["responses"]), path
            if path not in ("/api/v1/entry", "/api/v1/session", "/api/v1/enter"):
                assert operation.get("security") or path.startswith("/auth/"), path


def test_codes_and_scopes_are_of_one_mind() -> None:
    assert set(get_args(schemas.Scope)) == set(SCOPES)
    assert all(re.fullmatch(r"[a-z_]+", code) and 400 <= status < 600 for code, (status, _) in TITLES.items())
