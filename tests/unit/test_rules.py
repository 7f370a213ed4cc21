"""Each rule of the configuration refuses what it names and lets the rest through."""

import pytest
from django.core.exceptions import ValidationError

from integrations import rules
from integrations.models import Endpoint, ModelConfig


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:11400", "https://gpu-3.example.com/base", "http://[::1]:8080", "http://host.internal"]
)
def test_a_base_url_is_accepted(url: str) -> None:
    rules.endpoint_url(url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "must begin"),
        ("ftp://127.0.0.1", "must begin"),
        ("127.0.0.1:11400", "must begin"),
        ("http://", "must begin"),
        ("http://host:99999", "not a URL"),
        ("http://host:0", "port 0"),
        ("http://[::1", "not a URL"),
        ("http://10.0.0.999:80", "not an IP address"),
        ("http://host/?a=1", "without"),
        ("http://host/?", "without"),
        ("http://host/#top", "without"),
        ("http://ho st", "white space"),
        ("http://host/\r\nX-Evil: 1", "white space"),
    ],
)
def test_what_is_no_base_url_is_refused(url: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        rules.endpoint_url(url)


@pytest.mark.parametrize("url", ["http://user:hunter2@host", "http://user:hunter2@host:no", "http://hunter2@host"])
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        rules.endpoint_url(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("patterns", [["real_time"], ["real_time", "hybrid"], ["bulk_only"]])
def test_patterns_that_go_together_are_accepted(patterns: list[str]) -> None:
    rules.check_assignments(patterns)


@pytest.mark.parametrize(
    ("patterns", "why"),
    [
        ([], "at least one"),
        (["hybrid", "hybrid"], "twice"),
        (["real_time", "bulk_only"], "bulk_only cannot"),
        (["bulk_only", "hybrid"], "bulk_only cannot"),
    ],
)
def test_patterns_that_contradict_each_other_are_refused(patterns: list[str], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        rules.check_assignments(patterns)


@pytest.mark.parametrize("slug", ["batch", "patterns", "Test"])
def test_a_slug_that_is_part_of_another_address_is_refused(slug: str) -> None:
    with pytest.raises(ValidationError, match="reserved"):
        rules.not_reserved(slug)


@pytest.mark.parametrize(
    ("header", "variable", "field"),
    [
        ("X Key", "", "auth_header"),
        ("X-Key\r\nHost", "", "auth_header"),
        ("Host", "GPU_TOKEN", "auth_header"),
        ("", "GPU_TOKEN", "auth_header"),
        ("Authorization", "Bearer abc", "auth_env"),
        ("Authorization", "SECRET_KEY", "auth_env"),
        ("Authorization", "DATABASE_URL", "auth_env"),
    ],
)
def test_a_header_that_would_break_the_request_or_leak_our_secrets_is_refused(
    header: str, variable: str, field: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        rules.check_auth(Endpoint(auth_header=header, auth_env=variable))
    assert field in refused.value.message_dict


def test_a_usual_authentication_header_is_accepted() -> None:
    rules.check_auth(Endpoint(auth_header="X-Api-Key", auth_env="GPU_TOKEN"))


def test_a_fallback_has_the_same_space_and_the_same_length() -> None:
    model = ModelConfig(slug="a", embedding_space="minilm", dimensions=384)
    rules.check_fallbacks(model, [ModelConfig(slug="b", embedding_space="minilm")])
    for other, why in (
        (ModelConfig(slug="b", embedding_space="e5"), "must not mix"),
        (ModelConfig(slug="b", embedding_space="minilm", dimensions=768), "768 dimensions"),
        (ModelConfig(slug="a", embedding_space="minilm"), "own fallback"),
    ):
        with pytest.raises(ValidationError, match=why):
            rules.check_fallbacks(model, [other])


def test_two_models_without_a_space_are_no_fallbacks_for_each_other() -> None:
    with pytest.raises(ValidationError, match="must not mix"):
        rules.check_fallbacks(ModelConfig(slug="a"), [ModelConfig(slug="b")])
