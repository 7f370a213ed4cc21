"""Which assignment answers a request, and how: the contract's table."""

from typing import Any

import pytest

from integrations.errors import PatternConflict, PatternNotAssigned
from integrations.patterns import EmbedRequest, choose
from tests.made import a_model, an_assignment, an_endpoint

LIVE, QUEUED = "live", "queued"


def asked(patterns: str, texts: int = 1, **fields: Any) -> str:
    """What becomes of a request for a model with these patterns: "pattern mode"."""
    assignments = tuple(an_assignment(p, urgent_threshold=5) for p in patterns.split())
    request = EmbedRequest(texts=("a",) * texts, single=texts == 1, **fields)
    chosen = choose(a_model(an_endpoint("http://127.0.0.1:9"), assignments=assignments), request)
    return f"{chosen.assignment.pattern} {chosen.mode}"


@pytest.mark.parametrize(
    ("patterns", "fields", "answer"),
    [
        ("real_time", {}, "real_time live"),
        ("real_time", {"urgent": False}, "real_time live"),  # nobody else could take it
        ("real_time", {"texts": 200}, "real_time live"),
        ("real_time", {"batch": False}, "real_time live"),
        ("real_time hybrid", {}, "real_time live"),
        ("real_time hybrid", {"urgent": True, "texts": 6}, "real_time live"),
        ("real_time hybrid", {"urgent": False}, "hybrid queued"),
        ("real_time hybrid", {"batch": True}, "hybrid queued"),
        ("real_time hybrid", {"texts": 5}, "real_time live"),
        ("real_time hybrid", {"texts": 6}, "hybrid queued"),
        ("real_time hybrid", {"pattern": "hybrid"}, "hybrid live"),
        ("real_time hybrid", {"pattern": "hybrid", "urgent": False}, "hybrid queued"),
        ("real_time hybrid", {"pattern": "real_time", "urgent": False}, "real_time live"),
        ("hybrid real_time", {}, "hybrid live"),
        ("hybrid", {"urgent": True, "texts": 200}, "hybrid live"),
        ("hybrid", {"urgent": False}, "hybrid queued"),
        ("hybrid", {"batch": True}, "hybrid queued"),
        ("hybrid", {"texts": 5}, "hybrid live"),
        ("hybrid", {"texts": 6}, "hybrid queued"),
        ("hybrid", {"texts": 6, "batch": False}, "hybrid queued"),
        ("bulk_only", {}, "bulk_only queued"),
        ("bulk_only", {"urgent": False}, "bulk_only queued"),
        ("bulk_only", {"batch": True}, "bulk_only queued"),
    ],
)
def test_the_first_assignment_that_accepts_answers(patterns: str, fields: dict[str, Any], answer: str) -> None:
    assert asked(patterns, **fields) == answer


@pytest.mark.parametrize(
    ("patterns", "fields", "flag"),
    [
        ("real_time", {"batch": True}, '"batch": true'),
        ("bulk_only", {"urgent": True}, '"urgent": true'),
        ("real_time hybrid", {"pattern": "real_time", "batch": True}, '"batch": true'),
    ],
)
def test_what_no_assignment_accepts_is_a_conflict_that_names_the_flag(
    patterns: str, fields: dict[str, Any], flag: str
) -> None:
    with pytest.raises(PatternConflict, match=flag):
        asked(patterns, **fields)


def test_a_pattern_that_the_model_does_not_have_is_told_with_those_it_has() -> None:
    with pytest.raises(PatternNotAssigned, match="real_time, hybrid"):
        asked("real_time hybrid", pattern="bulk_only")
