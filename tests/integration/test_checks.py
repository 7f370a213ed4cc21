"""`manage.py check` judges what is stored by the rules of every edit."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import Error, Warning, run_checks
from django.db import connection

from integrations import checks, operations, rules
from integrations.models import Endpoint, ModelConfig, PatternAssignment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def phi3(db: None) -> ModelConfig:
    model = ModelConfig(slug="phi3", upstream_model="phi3")
    rows = [Endpoint(url="http://127.0.0.1:9001"), PatternAssignment(pattern="real_time")]
    operations.save_model(model, rows=rows, actor="ann")
    return model


def messages() -> set[tuple[str, type]]:
    """What the checks say of models: ("phi3: endpoints[0].url", Error or Warning)."""
    found = run_checks(tags=["models"])
    return {(f"{m.obj}: {m.msg.split(': ')[0]}", type(m)) for m in found if str(m.id).startswith("citadel.")}


def test_a_sound_configuration_gives_nothing_to_say(phi3: ModelConfig) -> None:
    assert messages() == set()


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE integrations_endpoint SET protocol = 'grpc'", ("phi3: endpoints[0].protocol", Error)),
        ("UPDATE integrations_endpoint SET url = 'nonsense'", ("phi3: endpoints[0].url", Error)),
        ("UPDATE integrations_endpoint SET auth_env = 'SECRET_KEY'", ("phi3: endpoints[0].auth_env", Error)),
        ("UPDATE integrations_endpoint SET auth_env = 'CITADEL_NOT_SET'", ("phi3: endpoints[0].auth_env", Warning)),
        ("UPDATE integrations_endpoint SET ca_file = '/no/such/file'", ("phi3: endpoints[0].ca_file", Warning)),
        ("UPDATE integrations_endpoint SET enabled = false", ("phi3: endpoints", Warning)),
        ("DELETE FROM integrations_patternassignment", ("phi3: patterns", Error)),
        (
            "INSERT INTO integrations_patternassignment (model_id, pattern, position) "
            "SELECT id, 'bulk_only', 1 FROM integrations_modelconfig",
            ("phi3: patterns", Error),
        ),
        (
            "INSERT INTO integrations_modelconfig_fallbacks (from_modelconfig_id, to_modelconfig_id) "
            "SELECT id, id FROM integrations_modelconfig",
            ("phi3: fallbacks", Error),
        ),
        ("UPDATE integrations_modelconfig SET slug = 'batch'", ("batch: slug", Error)),
    ],
)
def test_a_row_that_no_edit_would_have_let_in_is_named(
    phi3: ModelConfig, statement: str, found: tuple[str, type]
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
    assert found in messages()


def test_two_models_that_differ_by_case_are_both_named(phi3: ModelConfig) -> None:
    twin = ModelConfig.objects.create(slug="PHI3", upstream_model="x")
    PatternAssignment.objects.create(model=twin, pattern="hybrid")
    assert messages() >= {("phi3: slug", Error), ("PHI3: slug", Error)}


def test_the_environment_is_judged_too(db: None, settings: Any) -> None:
    settings.CITADEL_ANONYMOUS_SCOPES = ["everything"]
    settings.SEED_ENDPOINTS = {**settings.SEED_ENDPOINTS, "yi34": ["http://127.0.0.1:9001"]}
    settings.SEED_PROTOCOLS = {**settings.SEED_PROTOCOLS, "yi34": "grpc"}
    found = [m for m in run_checks(tags=["models"]) if str(m.id).startswith("citadel.")]
    assert {(m.obj, m.hint) for m in found} == {
        ("CITADEL_ANONYMOUS_SCOPES", None),
        ("the environment", "See YI34_PROTOCOL."),
    }


def test_checks_of_another_database_leave_ours_alone(phi3: ModelConfig) -> None:
    Endpoint.objects.update(url="nonsense")
    assert checks.check_configuration(None, databases=["other"]) == []
    assert checks.check_configuration(None, databases=["default"]) != []


def test_warnings_name_what_a_stored_model_lacks(phi3: ModelConfig) -> None:
    phi3.endpoints.all().delete()
    assert list(rules.warnings_of(ModelConfig.objects.get())) == ["endpoints"]


def manage(command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command where no PostgreSQL answers."""
    env = {**os.environ, "DATABASE_URL": "postgresql://postgres@127.0.0.1:1/none"}
    line = [sys.executable, "manage.py", command]
    return subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)


def test_without_postgresql_there_is_nothing_to_judge() -> None:
    done = manage("check")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["sync_models", "export_models", "check_models"])
def test_a_command_says_in_a_line_that_postgresql_is_away(command: str) -> None:
    done = manage(command)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert "Connection refused" in done.stderr
