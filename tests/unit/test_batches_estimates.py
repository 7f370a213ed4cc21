"""How fast the queue is taken to be."""

from datetime import UTC, datetime, timedelta

import pytest

from batches.estimates import Work, release_time, texts_per_second
from tests.made import an_assignment

NOON = datetime(2025, 7, 15, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def work(began: float, ended: float, texts: int) -> Work:
    return Work(texts=texts, began=at(began), ended=at(ended))


@pytest.mark.parametrize(
    ("done", "rate"),
    [
        ([], None),
        ([work(0, 10, 50)], 5),
        ([work(0, 10, 50), work(100, 110, 150)], 10),  # nothing was to do in between
        ([work(0, 10, 50), work(0, 10, 50)], 10),  # side by side
        ([work(5, 15, 60), work(0, 10, 90)], 10),  # overlapping, in any order
        ([work(0, 20, 60), work(5, 10, 40)], 5),  # one within the other
        ([work(0, 20, 60), work(5, 10, 40), work(15, 25, 25)], 5),
        ([work(3, 3, 50)], None),  # no time has passed
        ([work(5, 3, 50)], None),  # the clock was set back
    ],
)
def test_the_rate_is_texts_over_the_time_in_which_there_was_work(done: list[Work], rate: float | None) -> None:
    assert texts_per_second(done) == rate


@pytest.mark.parametrize(
    ("held", "waited", "expected"), [(99, 20, 40), (100, 20, 0), (1, 0, 60), (1, 60, 0), (1, 90, 0)]
)
def test_held_texts_are_released_by_size_or_by_time(held: int, waited: float, expected: float) -> None:
    assignment = an_assignment("bulk_only", batch_size=100, processing_interval=60)
    assert release_time(assignment, held=held, oldest=at(-waited), now=NOON) == at(expected)
