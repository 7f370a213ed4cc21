"""YAML in: every fault is named with its model and field. YAML out: what was read."""

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st

from integrations.configuration import ENDPOINT_FIELDS, MODEL_FIELDS, PATTERN_FIELDS, ModelDocument, read, write
from integrations.models import Endpoint, ModelConfig, PatternAssignment

FULL = """
models:
  - slug: e5
    upstream_model: intfloat/e5-small
    dimensions: 384
    embedding_space: e5
    query_prefix: "query: "
    passage_prefix: "passage: "
    normalise: false
    truncate: end
    max_waiting_texts: 5000
    patterns:
      - real_time
      - pattern: hybrid
        urgent_threshold: 10
        deadline: 12.5
    endpoints:
      - http://127.0.0.1:9001/
      - url: https://gpu.example.com
        protocol: tei
        max_batch: 32
        auth_env: GPU_TOKEN
        enabled: false
    fallbacks: [e5-other]
"""


def faults(text: str) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as refused:
        read(text)
    return refused.value.message_dict


def test_every_field_of_a_file_is_read() -> None:
    (document,) = read(FULL)
    assert document.slug == "e5"
    assert document.fields["upstream_model"] == "intfloat/e5-small"
    assert (document.fields["normalise"], document.fields["enabled"]) == (False, True)
    assert [p["pattern"] for p in document.patterns] == ["real_time", "hybrid"]
    assert (document.patterns[1]["deadline"], document.patterns[0]["deadline"]) == (12.5, None)
    assert [e["url"] for e in document.endpoints] == ["http://127.0.0.1:9001", "https://gpu.example.com"]
    assert [e["protocol"] for e in document.endpoints] == ["ollama", "tei"]
    assert document.fallbacks == ("e5-other",)


def test_what_is_written_is_read_back_the_same() -> None:
    documents = read(FULL)
    assert read(write(documents)) == documents


def test_a_model_is_called_upstream_as_here_unless_the_file_says_otherwise() -> None:
    (document,) = read("models: [{slug: phi3, patterns: [real_time]}]")
    assert document.fields["upstream_model"] == "phi3"


def test_documents_know_every_field_that_is_no_state() -> None:
    state = {"id", "model", "slug", "position", "draining", "drain_reason", "breaker_epoch", "cache_epoch"}
    state |= {"forced_open", "forced_reason", "forced_by", "forced_at", "forced_until"}
    for row, known in ((ModelConfig, MODEL_FIELDS), (Endpoint, ENDPOINT_FIELDS), (PatternAssignment, PATTERN_FIELDS)):
        assert {f.name for f in row._meta.concrete_fields} - state == set(known)


@pytest.mark.parametrize(
    ("entry", "key", "why"),
    [
        ("{slug: a, dimension: 3}", "a: dimension", "no such key"),
        ("{slug: a, endpoints: [{url: 'http://h', protocoll: tei}]}", "a: endpoints[0].protocoll", "no such key"),
        ("{slug: a, endpoints: ['http://h', {url: 'http://i', protocol: grpc}]}", "a: endpoints[1].protocol", "grpc"),
        ("{slug: a, endpoints: [nonsense]}", "a: endpoints[0].url", "must begin"),
        ("{slug: a, endpoints: [{protocol: tei}]}", "a: endpoints[0].url", "blank"),
        ("{slug: a, endpoints: ['http://h', 'http://h/']}", "a: endpoints[1].url", "twice"),
        ("{slug: a, endpoints: [{url: 'http://h', max_batch: 0}]}", "a: endpoints[0].max_batch", "greater"),
        ("{slug: a, endpoints: [{url: 'http://h', enabled: 'yes'}]}", "a: endpoints[0].enabled", "true or false"),
        ("{slug: a, endpoints: [7]}", "a: endpoints[0]", "mapping"),
        ("{slug: a, endpoints: http://h}", "a: endpoints", "list"),
        ("{slug: a, patterns: [sometimes]}", "a: patterns[0].pattern", "sometimes"),
        ("{slug: a, patterns: [{pattern: hybrid, deadline: .nan}]}", "a: patterns[0].deadline", "number"),
        ("{slug: a, patterns: [{pattern: hybrid, deadline: 1.0e+9}]}", "a: patterns[0].deadline", "less"),
        ("{slug: a, patterns: [{pattern: hybrid, batch_size: 2.5}]}", "a: patterns[0].batch_size", "whole"),
        ("{slug: a, patterns: [{pattern: hybrid, batch_size: true}]}", "a: patterns[0].batch_size", "whole"),
        ("{slug: a, dimensions: 9999999999}", "a: dimensions", "less"),
        (f"{{slug: a, dimensions: {10**400}}}", "a: dimensions", "whole"),
        ("{slug: a, upstream_model: 7}", "a: upstream_model", "quotes"),
        ("{slug: a, upstream_model: ''}", "a: upstream_model", "blank"),
        ("{slug: a, normalise: null}", "a: normalise", "empty"),
        ('{slug: a, query_prefix: "a\\0b"}', "a: query_prefix", "cannot be stored"),
        ('{slug: a, query_prefix: "a\\ud800b"}', "a: query_prefix", "cannot be stored"),
        ("{slug: batch}", "batch: slug", "reserved"),
        ("{slug: a b}", "a b: slug", "letters"),
        ("{slug: 7}", "models[0]: slug", "as text"),
        ("[]", "models[0]: slug", "mapping"),
    ],
)
def test_a_fault_is_named_with_its_model_and_field(entry: str, key: str, why: str) -> None:
    found = faults(f"models: [{entry}]")
    assert why in " ".join(found[key])


def test_all_faults_are_told_at_once() -> None:
    found = faults("models: [{slug: a, nonsense: 1, truncate: maybe}, {slug: b, endpoints: ['ftp://h']}]")
    assert set(found) == {"a: nonsense", "a: truncate", "b: endpoints[0].url"}


@pytest.mark.parametrize("slugs", [("a", "a"), ("phi3", "Phi3")])
def test_two_models_with_one_slug_are_refused(slugs: tuple[str, str]) -> None:
    found = faults(f"models: [{{slug: {slugs[0]}}}, {{slug: {slugs[1]}}}]")
    assert f"{slugs[0]}: slug" in found


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", "models"),
        ("models: {}", "models"),
        ("[1, 2]", "models"),
        ("models: []\nendpoints: []", "endpoints"),
        ("models: [", "file"),
        ("models: []\nmodels: []", "file"),
        ("models: [{slug: a, slug: b}]", "file"),
        ("models: [!!python/object/apply:os.getcwd []]", "file"),
        ("[" * 5000, "file"),
    ],
)
def test_what_is_no_configuration_at_all_is_refused(text: str, key: str) -> None:
    assert key in faults(text)


@given(st.text(max_size=60))
def test_no_text_whatever_does_more_than_be_refused(text: str) -> None:
    try:
        documents = read(text)
    except ValidationError:
        return
    assert all(isinstance(d, ModelDocument) for d in documents)
