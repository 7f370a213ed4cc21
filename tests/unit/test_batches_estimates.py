"""When held texts are released."""

from datetime import UTC, datetime, timedelta

import pytest

from batches.estimates import release_time
from tests.made import an_assignment

NOON = datetime(2025, 7, 15, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("held", "waited", "expected"), [(99, 20, 40), (100, 20, 0), (1, 0, 60), (1, 60, 0), (1, 90, 0)]
)
def test_held_texts_are_released_by_size_or_by_time(held: int, waited: float, expected: float) -> None:
    assignment = an_assignment("bulk_only", batch_size=100, processing_interval=60)
    assert release_time(assignment, held=held, oldest=at(-waited), now=NOON) == at(expected)
