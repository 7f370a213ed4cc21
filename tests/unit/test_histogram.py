"""Durations by place: what a histogram may lose, and what it may not."""

import math

from hypothesis import given
from hypothesis import strategies as st

from integrations import histogram

DURATIONS = st.floats(min_value=0, max_value=10 * histogram.LONGEST_MS)
MEASURABLE = st.floats(min_value=histogram.SHORTEST_MS, max_value=histogram.LONGEST_MS, exclude_min=True)
WIDEST = 1.13


def exact_quantile(durations: list[float], q: float) -> float:
    return sorted(durations)[math.ceil(q * len(durations)) - 1]


def test_the_bounds_rise_by_at_most_13_percent_from_half_a_millisecond_to_over_five_minutes() -> None:
    steps = [high / low for low, high in zip(histogram.BOUNDS, histogram.BOUNDS[1:], strict=False)]
    assert 1.1 < min(steps) < max(steps) < WIDEST
    assert histogram.BOUNDS[0] == histogram.SHORTEST_MS
    assert histogram.BOUNDS[-1] == histogram.LONGEST_MS > 300_000
    assert {1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 100_000} <= set(histogram.BOUNDS)


def test_a_duration_stands_in_the_place_whose_upper_bound_it_does_not_exceed() -> None:
    assert [histogram.place(ms) for ms in (0, 0.5, 0.51, 0.56, 1e9)] == [0, 0, 1, 1, len(histogram.BOUNDS)]


@given(durations=st.lists(MEASURABLE, min_size=1, max_size=60), q=st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_off_by_at_most_the_width_of_a_place(durations: list[float], q: float) -> None:
    found, exact = histogram.quantile(histogram.of(durations), q), exact_quantile(durations, q)
    assert found is not None
    assert exact / WIDEST <= found <= exact * WIDEST


@given(durations=st.lists(DURATIONS, max_size=60))
def test_quantiles_rise_with_their_share(durations: list[float]) -> None:
    counts = histogram.of(durations)
    found = [histogram.quantile(counts, q) for q in (0.1, 0.5, 0.9, 0.99, 1.0)]
    assert found == sorted(found, key=lambda ms: ms or 0.0)
    assert all(ms is not None and 0 <= ms <= histogram.LONGEST_MS for ms in found) or not durations


@given(one=st.lists(DURATIONS, max_size=30), other=st.lists(DURATIONS, max_size=30))
def test_merged_histograms_are_the_histogram_of_all(one: list[float], other: list[float]) -> None:
    assert histogram.merge(histogram.of(one), histogram.of(other)) == histogram.of(one + other)


def test_nothing_measured_has_no_quantile() -> None:
    assert histogram.quantile([], 0.5) is None
    assert histogram.quantile([0, 0], 0.5) is None


def test_of_what_is_too_long_to_measure_only_the_last_bound_is_known() -> None:
    assert histogram.quantile(histogram.of([1e9]), 0.5) == histogram.LONGEST_MS


@given(durations=st.lists(DURATIONS, max_size=60))
def test_cumulative_counts_are_exact_at_every_bound(durations: list[float]) -> None:
    bounds = (1.0, 25.0, 1000.0, 100_000.0)
    exact = [sum(ms <= bound for ms in durations) for bound in bounds]
    assert histogram.cumulative(histogram.of(durations), bounds) == exact


def test_zeros_at_the_end_say_nothing() -> None:
    assert histogram.trimmed([0, 2, 0, 0]) == [0, 2]
    assert histogram.trimmed([0, 0]) == []
