"""The OpenAPI description and the pages in docs/ leave nothing out."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings, settings
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema

from integrations import errors

DOCS = Path(settings.BASE_DIR) / "docs"
OF_THE_API = ("api/v1/", "v1/", "health/", "metrics", "api/schema/", "api/docs/")
# Pages for people and the description itself.
NOT_IN_THE_SCHEMA = ("/api/schema/", "/api/docs/")


@pytest.fixture
def http(settings: LazySettings) -> Client:
    settings.WHITENOISE_AUTOREFRESH = True  # no reading of every static file
    return Client()


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    with GENERATOR_STATS.silence():
        document: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return document


def routes() -> list[str]:
    """The API's addresses as people write them: /api/v1/external/{model}/embed."""
    return sorted({f"/{path}" for path in _paths(get_resolver().url_patterns) if path.startswith(OF_THE_API)})


def _paths(patterns: list[URLPattern | URLResolver], before: str = "") -> Iterator[str]:
    for pattern in patterns:
        path = before + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", str(pattern.pattern))
        if isinstance(pattern, URLResolver):
            yield from _paths(pattern.url_patterns, path)
        else:
            yield path


def test_the_routes_are_found() -> None:
    assert {
        "/api/v1/external/{model}/embed",
        "/health/ready",
        "/api/v1/external/batch/{batch_id}",
        "/api/docs/",
    } <= set(routes())


def test_the_schema_is_valid_and_made_without_a_warning() -> None:
    with GENERATOR_STATS.silence():
        document = SchemaGenerator().get_schema(request=None, public=True)
        found = [*GENERATOR_STATS._warn_cache, *GENERATOR_STATS._error_cache]
    assert found == []
    validate_schema(document)


@pytest.mark.parametrize("route", [r for r in routes() if not r.startswith(NOT_IN_THE_SCHEMA)])
def test_every_route_is_in_the_schema(schema: dict[str, Any], route: str) -> None:
    assert route in schema["paths"]


def test_every_operation_says_what_it_answers_and_who_may_ask(schema: dict[str, Any]) -> None:
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation.get("summary"), where
            if path.startswith("/api/v1/"):
                assert operation["security"] == [{"bearer": []}, {"apiKey": []}], where
                assert "application/problem+json" in operation["responses"]["401"]["content"], where
            if path.startswith("/v1/"):
                assert operation["security"] == [{"bearer": []}, {"apiKey": []}], where
                assert "application/json" in operation["responses"]["401"]["content"], where


def test_embedding_is_described_with_both_bodies_and_each_refusal(schema: dict[str, Any]) -> None:
    operation = schema["paths"]["/api/v1/external/{model}/embed"]["post"]

    assert set(operation["requestBody"]["content"]) == {"application/json", "application/x-ndjson"}
    assert {
        "200",
        "202",
        "400",
        "401",
        "403",
        "404",
        "408",
        "409",
        "413",
        "415",
        "422",
        "429",
        "500",
        "502",
        "503",
        "504",
    } == set(operation["responses"])
    assert "circuit_open" in operation["responses"]["503"]["description"]
    assert "Retry-After" in operation["responses"]["503"]["headers"]
    assert "Location" in operation["responses"]["202"]["headers"]


def test_the_schema_is_public_as_yaml_and_as_json(http: Client, db: None) -> None:
    assert http.get("/api/schema/").content.startswith(b"openapi: 3.")
    assert http.get("/api/schema/?format=json").json()["info"]["title"] == "Citadel"


def test_the_page_for_people_needs_nothing_from_elsewhere_and_no_inline_script(http: Client, db: None) -> None:
    page = http.get("/api/docs/").content.decode()

    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(addresses) >= 4
    assert all(a.startswith("/") and not a.startswith("//") for a in addresses)
    assert "<script>" not in page
    for address in addresses:
        answer = http.get(address)
        assert answer.status_code == 200, address
        answer.close()


def test_each_problems_type_leads_to_its_description(http: Client, db: None) -> None:
    page = http.get("/api/docs/errors").content.decode()

    for code in {kind.code for kind in errors.tree()}:
        assert f'id="{code}"' in page


# --- docs/ ---


@pytest.mark.parametrize("route", routes())
def test_every_route_is_in_the_contract(route: str) -> None:
    assert f"`{route}`" in (DOCS / "api.md").read_text()


@pytest.mark.parametrize("kind", errors.tree())
def test_every_error_has_its_row_with_its_status(kind: type[errors.CitadelError]) -> None:
    rows = [line for line in (DOCS / "errors.md").read_text().splitlines() if f"| `{kind.code}` |" in line]

    assert [row.startswith(f"| {kind.status} |") for row in rows] == [True]


def test_no_error_is_described_that_does_not_exist() -> None:
    described = re.findall(r"^\| \d{3} \| `(\w+)` \|", (DOCS / "errors.md").read_text(), flags=re.MULTILINE)

    assert set(described) == {kind.code for kind in errors.tree()}


def test_the_contract_names_every_field_of_a_request() -> None:
    text = (DOCS / "api.md").read_text()

    for field in (
        "text",
        "texts",
        "urgent",
        "batch",
        "pattern",
        "input_type",
        "priority",
        "callback_url",
        "client_metadata",
    ):
        assert f"`{field}`" in text
