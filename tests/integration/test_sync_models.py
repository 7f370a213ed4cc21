"""sync_models and export_models, from the environment and from YAML."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from integrations import operations
from integrations.models import AuditEntry, ConfigVersion, Endpoint, ModelConfig

pytestmark = pytest.mark.django_db

URLS = {"phi3": ["http://127.0.0.1:9001", "http://127.0.0.1:9002"], "general": ["http://127.0.0.1:9003"]}
PATTERNS = {
    "phi3": ["real_time"],
    "general": ["real_time"],
    "openchat": ["real_time", "hybrid"],
    "hermes": ["hybrid"],
    "mixtral": ["bulk_only"],
    "yi34": ["bulk_only"],
    "deepcoder": ["bulk_only"],
    "imp": ["bulk_only"],
    "deepseek": ["bulk_only"],
}


@pytest.fixture(autouse=True)
def environment(settings: Any) -> None:
    settings.SEED_ENDPOINTS = {slug: URLS.get(slug, []) for slug in PATTERNS}
    settings.SEED_PROTOCOLS = {slug: "tei" if slug == "general" else "ollama" for slug in PATTERNS}
    settings.SEED_UPSTREAM_MODELS = {slug: slug for slug in PATTERNS}


def run(*args: str) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command(*args, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def export() -> str:
    return run("export_models")[0]


def patterns(slug: str) -> list[str]:
    return [a.pattern for a in ModelConfig.objects.get(slug=slug).assignments.all()]


def version() -> int:
    return ConfigVersion.objects.get(id=1).version


def test_the_nine_models_come_with_the_patterns_of_the_card() -> None:
    _, warnings = run("sync_models")
    assert {m.slug: patterns(m.slug) for m in ModelConfig.objects.all()} == PATTERNS
    assert [e.url for e in ModelConfig.objects.get(slug="phi3").endpoints.all()] == URLS["phi3"]
    assert ModelConfig.objects.get(slug="general").endpoints.get().protocol == "tei"
    assert "mixtral is enabled and has no enabled endpoint" in warnings
    assert "phi3" not in warnings


def test_a_second_sync_changes_nothing_and_leaves_no_trace() -> None:
    run("sync_models")
    before = export(), AuditEntry.objects.count(), version()
    assert "Changed 0 of 9 models" in run("sync_models")[0]
    assert (export(), AuditEntry.objects.count(), version()) == before


def test_a_second_sync_keeps_an_operators_edits_and_reset_takes_them_back() -> None:
    run("sync_models")
    fresh = export()
    operations.assign_patterns("phi3", ["hybrid"], actor="ann")
    first = Endpoint.objects.get(url="http://127.0.0.1:9001")
    operations.trip_breaker([first.pk], actor="ann", reason="fire")
    operations.delete_endpoints([Endpoint.objects.get(url="http://127.0.0.1:9002").pk], actor="ann")
    run("sync_models")
    assert patterns("phi3") == ["hybrid"]
    assert ModelConfig.objects.get(slug="phi3").endpoints.count() == 1
    out, _ = run("sync_models", "--reset")
    assert '~ phi3: patterns: ["hybrid"] -> ["real_time"]' in out
    assert export() == fresh
    # A trip is no configuration: no import closes a breaker that somebody opened by hand.
    assert Endpoint.objects.get(pk=first.pk).forced_open


def test_a_model_that_an_operator_deleted_stays_away_until_reset() -> None:
    run("sync_models")
    operations.delete_models(["imp", "yi34"], actor="ann")
    run("sync_models")
    assert ModelConfig.objects.count() == 7
    run("sync_models", "--reset")
    assert ModelConfig.objects.count() == 9


def test_a_model_without_any_endpoint_gets_those_of_the_environment_later(settings: Any) -> None:
    run("sync_models")
    operations.assign_patterns("mixtral", ["hybrid"], actor="ann")
    settings.SEED_ENDPOINTS = {**settings.SEED_ENDPOINTS, "mixtral": ["http://127.0.0.1:9009"]}
    run("sync_models")
    assert ModelConfig.objects.get(slug="mixtral").endpoints.get().url == "http://127.0.0.1:9009"
    assert patterns("mixtral") == ["hybrid"]


def test_a_dry_run_shows_the_difference_and_changes_nothing() -> None:
    out, _ = run("sync_models", "--dry-run")
    assert "+ phi3: " in out
    assert "Would change 9" in out
    assert not ModelConfig.objects.exists()
    assert not AuditEntry.objects.exists()


def test_a_wrong_environment_is_refused_with_the_model_and_the_field(settings: Any) -> None:
    settings.SEED_ENDPOINTS = {**settings.SEED_ENDPOINTS, "imp": ["nonsense"]}
    settings.SEED_PROTOCOLS = {**settings.SEED_PROTOCOLS, "general": "grpc"}
    with pytest.raises(CommandError) as refused:
        run("sync_models")
    assert "imp: endpoints[0].url" in str(refused.value)
    assert "general: endpoints[0].protocol" in str(refused.value)
    assert not ModelConfig.objects.exists()


FILE = """
models:
  - slug: phi3
    dimensions: 384
    embedding_space: minilm
    patterns: [{pattern: real_time, deadline: 10}, hybrid]
    endpoints: ["http://127.0.0.1:9002", {url: "http://127.0.0.1:9005", protocol: openai, auth_env: GPU_TOKEN}]
    fallbacks: [tenth]
  - slug: tenth
    upstream_model: "all-minilm:l6"
    embedding_space: minilm
    patterns: [bulk_only]
    endpoints: ["http://127.0.0.1:9006"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(FILE)
    return path


def test_a_file_makes_its_models_as_it_says_and_no_others(file: Path) -> None:
    run("sync_models")
    kept = Endpoint.objects.get(url="http://127.0.0.1:9002").pk
    before = version()
    run("sync_models", "--from", str(file))
    assert version() == before + 1
    assert AuditEntry.objects.latest("id").before.keys() == {"phi3", "tenth"}
    phi3 = ModelConfig.objects.get(slug="phi3")
    assert next((e.pk, e.url) for e in phi3.endpoints.all()) == (kept, "http://127.0.0.1:9002")
    assert patterns("phi3") == ["real_time", "hybrid"]
    assert [m.slug for m in phi3.fallbacks.all()] == ["tenth"]
    assert ModelConfig.objects.count() == 10
    assert patterns("hermes") == ["hybrid"]


def test_an_export_read_back_is_the_same(file: Path, tmp_path: Path) -> None:
    run("sync_models")
    run("sync_models", "--from", str(file))
    exported = export()
    (tmp_path / "exported.yaml").write_text(exported)
    assert "Changed 0 of 10" in run("sync_models", "--from", str(tmp_path / "exported.yaml"))[0]
    for model in ModelConfig.objects.all():
        model.delete()
    run("sync_models", "--from", str(tmp_path / "exported.yaml"))
    assert export() == exported


def test_an_export_of_some_models_holds_those(file: Path) -> None:
    run("sync_models")
    out, _ = run("export_models", "phi3", "imp")
    assert [line for line in out.splitlines() if "slug" in line] == ["- slug: imp", "- slug: phi3"]
    with pytest.raises(CommandError, match="phi4"):
        run("export_models", "phi4")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("embedding_space: minilm\n    patterns: [bulk", "embedding_space: e5\n    patterns: [bulk", "phi3: fallbacks"),
        ("[tenth]", "[eleventh]", "phi3: fallbacks"),
        ("[bulk_only]", "[bulk_only, hybrid]", "tenth: patterns"),
        ("[bulk_only]", "[]", "tenth: patterns"),
        ("slug: tenth", "slug: Hermes", "Hermes: slug"),
        ("auth_env: GPU_TOKEN", "auth_env: SECRET_KEY", "phi3: endpoints[1].auth_env"),
        ("upstream_model:", "upstream_modell:", "tenth: upstream_modell"),
    ],
)
def test_a_file_with_one_fault_changes_nothing_and_names_it(file: Path, old: str, new: str, fault: str) -> None:
    run("sync_models")
    before = export(), AuditEntry.objects.count(), version()
    assert old in FILE
    file.write_text(FILE.replace(old, new))
    with pytest.raises(CommandError) as refused:
        run("sync_models", "--from", str(file))
    assert f"{file}: {fault}: " in str(refused.value)
    assert (export(), AuditEntry.objects.count(), version()) == before


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"nowhere\.yaml"):
        run("sync_models", "--from", str(tmp_path / "nowhere.yaml"))


def test_a_file_and_a_reset_contradict_each_other(file: Path) -> None:
    with pytest.raises(CommandError, match="not allowed with"):
        run("sync_models", "--reset", f"--from={file}")
