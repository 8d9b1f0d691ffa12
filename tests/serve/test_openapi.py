"""The OpenAPI document is true: what it allows is answered as it says, and nothing it forbids breaks the server."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from posttrain.serve.app import Service, create_app

schemathesis = pytest.importorskip("schemathesis")
OPERATIONS = (
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/feedback"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("GET", "/health"),
    ("GET", "/metrics"),
)


@pytest.fixture(scope="module")
def schema(scripted_engine: Any, running: Any) -> Iterator[Any]:
    engine = scripted_engine()
    engine.served["string"] = engine.served["tiny"]
    with running(Service(engine)) as place:
        yield schemathesis.openapi.from_url(f"{place}/openapi.json")


def test_document_names_every_route_and_no_422(scripted_engine: Any) -> None:
    app = create_app(Service(scripted_engine()))
    found = app.openapi()
    assert {(m.upper(), path) for path, item in found["paths"].items() for m in item} == set(OPERATIONS)
    assert not any("422" in op["responses"] for item in found["paths"].values() for op in item.values())


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_answers_are_as_described(schema: Any, method: str, path: str) -> None:
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    operation = schema[path][method]
    statuses = set()

    @hypothesis.settings(
        max_examples=12,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        statuses.add(case.call_and_validate(checks=checks).status_code)

    ask()
    assert statuses
