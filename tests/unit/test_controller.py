"""How many calls in flight: the target climbs to where the most texts come back; queued work yields to live calls."""

from collections.abc import Callable, Sequence
from random import Random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrations.controller import START, Target
from integrations.pressure import LiveTimes
from integrations.yielding import LEAST_PORTION, Share


def run(target: Target, rate: Callable[[int], float], *, ended: int = 4000, demand: int = 10**6) -> Target:
    """A server that answers rate(calls in flight) calls a second, of 8 texts each, to callers who always want more."""
    now = 100.0
    for _ in range(ended):
        in_flight = min(target.calls, demand)
        now += 1 / rate(in_flight)
        target.ended(8, now, in_flight=in_flight, waiting=demand > target.calls, delay=1 / rate(in_flight))
    return target


def test_a_server_that_takes_any_number_of_calls_gets_many() -> None:
    assert run(Target(), lambda calls: calls / 0.085).calls > 100


def test_a_server_that_does_best_with_few_calls_gets_few() -> None:
    best = 3.0
    target = run(Target(start=40), lambda calls: 100 / (1 + abs(calls - best) / best))
    assert target.calls <= 6


def test_a_server_with_eight_places_gets_about_eight_where_few_are_wanted() -> None:
    assert 5 <= run(Target(fewest=True), lambda calls: min(calls, 8) / 0.05).calls <= 14  # or a step to see


def test_a_server_that_works_one_call_off_at_a_time_gets_one_where_few_are_wanted() -> None:
    assert run(Target(fewest=True), lambda _calls: 2.5).calls <= 2  # or a step to see


def test_a_server_that_takes_any_number_of_calls_gets_many_where_few_are_wanted() -> None:
    assert run(Target(start=4, fewest=True), lambda calls: calls / 0.085).calls > 100


def test_where_few_are_wanted_a_machine_that_others_use_does_not_drive_the_target_up() -> None:
    """Two minutes at a slow server that works one call off at a time, on machines whose speed swings by a third."""

    def calls(seed: int) -> float:
        load, target, now, changes, speed, seen = Random(seed), Target(start=4, fewest=True), 0.0, 0.0, 1.0, list[int]()
        while now < 120:
            if now >= changes:
                speed, changes = load.lognormvariate(0, 0.4), now + 2
            now += 1 / (2.5 * speed)
            target.ended(100, now, in_flight=target.calls, waiting=True)
            seen.append(target.calls)
        return mean(seen)

    assert mean(calls(seed) for seed in range(40)) < 5


def test_the_target_stays_between_its_bounds() -> None:
    target = Target()
    target.within(2, 10)
    assert run(target, lambda calls: calls / 0.085).calls <= 10
    assert run(target, lambda calls: 100 / calls).calls >= 2


def test_a_few_callers_never_move_it() -> None:
    assert run(Target(), lambda calls: calls / 0.085, demand=2).calls == START


def test_what_callers_do_not_reach_is_no_target() -> None:
    target = run(Target(), lambda calls: calls / 0.085)
    assert run(target, lambda calls: calls / 0.085, demand=10).calls <= 15


def test_calls_that_fail_teach_nothing() -> None:
    target = Target()
    for i in range(1000):
        target.ended(0, 100.0 + i / 10, in_flight=4, waiting=True)
    assert target.calls == START


# --- queued work beside live calls ---


@pytest.fixture
def share() -> Share:
    share = Share()
    run(share.target, lambda calls: min(calls, 16) / 0.05)
    assert share.calls >= 12
    return share


def test_without_live_calls_queued_work_takes_what_brings_the_most(share: Share) -> None:
    whole = share.calls
    share.see(None)
    assert (share.calls, share.portion, share.yields) == (whole, 1.0, False)


def test_live_calls_that_are_slowed_down_make_its_calls_fewer_and_then_smaller(share: Share) -> None:
    whole = share.calls
    seen = []
    for _ in range(100):
        share.see(2.0)
        seen.append((share.calls, share.portion))
    assert seen[0][0] <= whole / 2
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == (1, LEAST_PORTION)


def test_live_calls_that_take_many_times_as_long_have_nearly_all_room_within_three_seconds(share: Share) -> None:
    for _ in range(12):
        share.see(20.0)
    assert share.calls == 1
    assert share.portion < 1


def test_when_live_calls_come_again_it_begins_with_what_they_bore(share: Share) -> None:
    for _ in range(100):
        share.see(2.0)
    share.see(None)
    assert share.calls >= 12
    share.see(1.0)
    assert (share.calls, share.portion) == (1, LEAST_PORTION)


def test_one_hiccup_of_the_server_is_made_up_for_within_ten_seconds(share: Share) -> None:
    for _ in range(40):
        share.see(1.3 if share.calls > 7 else 1.0)
    before = share.calls
    for _ in range(3):
        share.see(20.0)
    assert share.calls < before
    for _ in range(40):
        share.see(1.3 if share.calls > 7 else 1.0)
    assert share.calls >= 5


def test_it_grows_again_as_far_as_live_calls_bear_it(share: Share) -> None:
    for _ in range(400):
        share.see(1.3 if share.calls > 7 else 1.0)
    assert 5 <= share.calls <= 8
    share.see(None)
    assert share.calls >= 12


def test_of_several_processes_one_keeps_a_call(share: Share) -> None:
    for _ in range(100):
        share.see(2.0, least=0)
    assert share.calls == 0


def test_who_is_told_nothing_takes_a_fixed_share(share: Share) -> None:
    share.be_blind()
    assert share.calls == 2
    share.see(None)
    assert share.calls >= 12


# --- what live calls take, as a multiple of what they take alone ---


def live_times(*phases: Sequence[float]) -> LiveTimes:
    """Live calls that take so long, one after another, five of them a tick."""
    live = LiveTimes()
    for number, seconds in enumerate(seconds for phase in phases for seconds in phase):
        live.end(seconds, number / 20)
        if number % 5 == 4:
            live.tick()
    return live


def scattered(around: float, seed: int, count: int = 200) -> list[float]:
    load = Random(seed)
    return [around * load.lognormvariate(0, 0.2) for _ in range(count)]


@given(st.integers(0, 10**6), st.floats(0.2, 1.0))
def test_a_long_call_among_twenty_is_not_hidden_by_the_scatter_that_it_brings(seed: int, long: float) -> None:
    live = live_times(scattered(0.01, seed))
    for number in range(100):
        live.end(long if number % 20 == 0 else 0.015, 20 + number / 20)
        assert live.slowness > 1.07
