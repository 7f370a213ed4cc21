"""The comparison with the promised documents finds each way in which an answer can differ."""

import copy
from typing import Any

import pytest

from tests.spec_shape import SPEC, differences


@pytest.mark.parametrize("name", SPEC)
def test_each_promised_document_is_like_itself(name: str) -> None:
    assert differences(SPEC[name], SPEC[name], same=("status", "pattern")) == []


def test_further_fields_and_other_values_of_the_same_kind_are_no_difference() -> None:
    answer = copy.deepcopy(SPEC["bulk"])
    answer["metadata"]["request_id"] = "r"
    answer |= {"batch_id": "batch_mixtral_20260101_000000_00ff99", "items_count": 7, "extra": None}

    assert differences(SPEC["bulk"], answer) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"items_count": 3.0}, "$.items_count: a whole number was promised, 3.0 came"),
        ({"items_count": True}, "$.items_count: a whole number was promised, True came"),
        ({"batch_id": "mixtral-1"}, "$.batch_id: a batch id was promised, 'mixtral-1' came"),
        (
            {"estimated_completion": "2025-07-15T14:35:00"},
            "$.estimated_completion: a time such as 2025-07-15T14:30:00Z was promised, '2025-07-15T14:35:00' came",
        ),
        ({"status": "held"}, "$.status: 'queued' was promised, 'held' came"),
        ({"metadata": {"pattern_type": "x", "queued_at": "2025-07-15T14:35:00Z"}}, "$.metadata.batch_size: missing"),
        ({"queue_position": None}, "$.queue_position: a whole number was promised, None came"),
    ],
)
def test_a_changed_field_is_named(change: dict[str, Any], complaint: str) -> None:
    assert differences(SPEC["bulk"], SPEC["bulk"] | change, same=("status",)) == [complaint]


def test_another_order_of_the_fields_is_named() -> None:
    turned = dict(reversed(SPEC["real_time"].items()))

    assert [d.partition(":")[0] for d in differences(SPEC["real_time"], turned)] == ["$"]


def test_each_item_of_a_list_is_looked_at_and_an_empty_one_is_named() -> None:
    promised = {"embedding": [0.5]}

    assert differences(promised, {"embedding": [0.1, "x"]}) == ["$.embedding.1: a number was promised, 'x' came"]
    assert differences(promised, {"embedding": []}) == ["$.embedding: an empty list came"]


def test_null_passes_only_where_it_was_said_to() -> None:
    promised, answer = {"stats": {"success_rate": 99.1}}, {"stats": {"success_rate": None}}

    assert differences(promised, answer, nullable=("success_rate",)) == []
    assert differences(promised, answer) != []
