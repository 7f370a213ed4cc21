"""Calls under way, added up over processes through a real Redis."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis
from django.conf import LazySettings

from integrations.gauges import INTERVAL, LIFETIME, Publisher

pytestmark = pytest.mark.usefixtures("redis_db")

PHI3 = ("phi3", "real_time")
HERMES = ("hermes", "hybrid")


@contextmanager
def publishing(counts: dict[tuple[str, str], int]) -> Iterator[Publisher]:
    publisher = Publisher()
    publisher.start(lambda: counts)
    try:
        yield publisher
    finally:
        publisher.stop()


def eventually(found: Callable[[], object], wanted: object, *, seconds: float = 10) -> None:
    ends = time.monotonic() + seconds
    while found() != wanted and time.monotonic() < ends:
        time.sleep(0.05)
    assert found() == wanted


def test_the_calls_of_all_processes_are_added_up_and_change_with_them() -> None:
    first, second = {PHI3: 2, HERMES: 1}, {PHI3: 3, HERMES: 0}
    with publishing(first) as one, publishing(second) as other:
        for publisher in (one, other):
            eventually(lambda p=publisher: p.in_flight().counts, {PHI3: 5, HERMES: 1})  # type: ignore[misc]
        assert one.in_flight().shared
        second[PHI3] = 0
        eventually(lambda: one.in_flight().counts, {PHI3: 2, HERMES: 1})
        first[HERMES] = 4
        assert one.in_flight().counts[HERMES] == 4  # its own as of now


def test_a_process_that_stops_is_forgotten_at_once() -> None:
    with publishing({}) as one:
        with publishing({PHI3: 3}):
            eventually(lambda: one.in_flight().counts, {PHI3: 3})
        assert one.in_flight().counts == {}


def test_a_long_call_is_still_counted_after_its_first_word_has_expired() -> None:
    with publishing({}) as one, publishing({PHI3: 1}):
        eventually(lambda: one.in_flight().counts, {PHI3: 1})
        ends = time.monotonic() + LIFETIME + 1
        while time.monotonic() < ends:
            assert one.in_flight().counts == {PHI3: 1}
            time.sleep(0.1)


def test_a_killed_process_is_forgotten_within_seconds() -> None:
    code = (
        "import django; django.setup()\n"
        "from integrations import gauges\n"
        "gauges.publish(lambda: {('phi3', 'real_time'): 7})\n"
        "import time; time.sleep(60)\n"
    )
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "citadel.settings"}
    with publishing({PHI3: 1}) as own:
        with subprocess.Popen([sys.executable, "-c", code], env=environment) as process:
            eventually(lambda: own.in_flight().counts, {PHI3: 8}, seconds=20)
            process.send_signal(signal.SIGKILL)
        eventually(lambda: own.in_flight().counts, {PHI3: 1}, seconds=LIFETIME + 5)


def test_without_redis_only_the_own_calls_are_known_and_the_answer_says_so(settings: LazySettings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    with publishing({PHI3: 2}) as own:
        time.sleep(2 * INTERVAL)
        found = own.in_flight()
    assert (found.counts, found.shared) == ({PHI3: 2}, False)


def test_publishing_goes_on_once_redis_was_emptied(redis_db: redis.Redis) -> None:
    with publishing({}) as one, publishing({PHI3: 2}):
        eventually(lambda: one.in_flight().counts, {PHI3: 2})
        redis_db.flushdb()
        assert one.in_flight().counts == {}
        eventually(lambda: one.in_flight().counts, {PHI3: 2})
