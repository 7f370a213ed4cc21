"""docs/guarantees.md names, for each promise, a test that there is."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.running import ROOT

PAGE = (ROOT / "docs/guarantees.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


def functions(path: str) -> set[str]:
    """The functions of a file."""
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[name for _, name in NAMED])
def test_a_named_test_is_there(path: str, name: str) -> None:
    assert name in functions(path)


def promises() -> Iterator[str]:
    """The rows of the tables that say what proves each."""
    head = ""
    for line in PAGE.splitlines():
        if not line.startswith("|"):
            head = ""
        elif not head:
            head = line
        elif "proved by" in head and not line.startswith("|---"):
            yield line


def test_every_promise_names_a_test() -> None:
    rows = list(promises())
    assert len(rows) > 20
    assert [row for row in rows if "::test_" not in row] == []
