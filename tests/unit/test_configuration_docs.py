"""The pages on settings and configuration say what the code does."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from citadel import settings as module
from citadel.diagnosis import SHOWN
from integrations.configuration import ENDPOINT_FIELDS, MODEL_FIELDS, PATTERN_FIELDS, read

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (ROOT / "docs/settings.md").read_text()
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()
# Shown nowhere, or (DATABASE_URL) as the database's part of a diagnosis.
HIDDEN = {"SECRET_KEY", "CALLBACK_SECRETS", "DATABASES", "DATABASE_CONN_MAX_AGE", "OPENAI_FILES_STORAGE_OPTIONS"}


def reads() -> dict[str, ast.expr]:
    """Every variable that citadel/settings.py reads, with its default; "{SLUG}_ENDPOINT" for those of the models."""
    found = {}
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "env" and node.func.attr != "read_env":
            name = node.args[0]
            text = name.value if isinstance(name, ast.Constant) else "{SLUG}" + str(name.values[-1].value)
            found[text] = next(k.value for k in node.keywords if k.arg == "default")
    return found


def rows(page: str) -> dict[str, str]:
    """The first two cells of each table row: variable -> default."""
    return dict(re.findall(r"^\| `([^`]+)` \| (.*?) \|", page, re.MULTILINE))


def test_settings_are_found_in_the_code() -> None:
    assert {"DATABASE_URL", "REAL_TIME_TIMEOUT", "{SLUG}_ENDPOINT"} <= reads().keys()


def test_every_setting_is_documented_and_nothing_else() -> None:
    of_commands = {"CITADEL_URL", "CITADEL_API_KEY"}
    assert rows(SETTINGS).keys() == reads().keys() | of_commands


def test_the_documented_defaults_are_the_real_ones() -> None:
    documented = rows(SETTINGS)
    compared = 0
    for name, node in reads().items():
        try:
            default = eval(compile(ast.Expression(node), "default", "eval"), {})
        except NameError:
            continue  # made from another setting
        if isinstance(default, bool) or not isinstance(default, int | float):
            continue
        assert float(documented[name].strip("`")) == default, name
        compared += 1
    assert compared > 40


def test_a_diagnosis_shows_every_setting_that_is_no_secret() -> None:
    tree = ast.parse(Path(module.__file__).read_text())
    read_from_environment = set()
    for node in tree.body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and re.search(r"\benv\.", ast.unparse(node)):
            read_from_environment.add(target.id)
    assert read_from_environment - HIDDEN == set(SHOWN)


@pytest.mark.parametrize("known", [MODEL_FIELDS, ENDPOINT_FIELDS, PATTERN_FIELDS])
def test_every_field_of_the_yaml_is_documented(known: dict[str, Any]) -> None:
    assert [name for name in known if f"`{name}`" not in CONFIGURATION] == []


def test_the_example_of_the_page_is_valid() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", CONFIGURATION, re.DOTALL)
    assert [d.slug for d in read(example)] == ["phi3", "minilm-spare"]
