"""The recorder on a real PostgreSQL: what is recorded is stored, once, whatever happens to the connection."""

import contextlib
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pytest
from django.db import connection
from django.db.models import Sum

from integrations import recorder
from integrations.models import BreakerEvent, CallRecord, CallStats, Endpoint, ModelConfig
from integrations.patterns import Attempt
from integrations.recorder import Recorder
from tests.fixtures_records import PHI3, REPLICA, a_call
from tests.postgres_proxy import PostgresProxy, connections_through

pytestmark = pytest.mark.usefixtures("records")

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def own() -> Iterator[Recorder]:
    """A recorder whose counts begin at 0."""
    made = Recorder()
    yield made
    made.stop(5)


@contextmanager
def administrator() -> Iterator[Any]:
    """A cursor in another database of the same server."""
    settings = connection.settings_dict
    other = psycopg2.connect(host=settings["HOST"], port=settings["PORT"], user=settings["USER"], dbname="postgres")
    other.autocommit = True
    with contextlib.closing(other), other.cursor() as cursor:
        yield cursor


def of_writers(cursor: Any, what: str) -> int:
    """Count `what` over every connection to this run's database but the test's own."""
    with connection.cursor() as ours:
        ours.execute("SELECT pg_backend_pid()")
        own_pid = ours.fetchone()[0]
    cursor.execute(
        f"SELECT count({what}) FROM pg_stat_activity"
        " WHERE datname = %s AND pid <> %s AND backend_type = 'client backend'",
        [connection.settings_dict["NAME"], own_pid],
    )
    return int(cursor.fetchone()[0])


def writers(cursor: Any) -> int:
    """Return how many there are."""
    return of_writers(cursor, "*")


def end_writers(cursor: Any) -> int:
    """End them; return how many there were."""
    return of_writers(cursor, "pg_terminate_backend(pid, 5000)")


@contextmanager
def database_gone() -> Iterator[None]:
    """PostgreSQL ends every connection to this run's database but the test's own, and takes no new one."""
    name = connection.settings_dict["NAME"]
    with administrator() as cursor:
        connection.ensure_connection()
        cursor.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            end_writers(cursor)
            yield
        finally:
            cursor.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


def counted(**which: object) -> int:
    """How many calls the totals count."""
    rows = CallStats.objects.filter(width="total", kind="call", **which)
    return int(rows.aggregate(n=Sum("count"))["n"] or 0)


def run_in_another_process(code: str) -> None:
    settings = connection.settings_dict
    url = f"postgresql://{settings['USER']}@{settings['HOST']}:{settings['PORT']}/{settings['NAME']}"
    whole = "import django; django.setup()\nfrom integrations import recorder\n"
    whole += "from tests.fixtures_records import a_call\n" + code
    environment = os.environ | {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "citadel.settings"}
    subprocess.run([sys.executable, "-c", whole], env=environment, check=True, timeout=60)


def test_a_recorded_call_is_stored_as_it_was_with_its_minute_and_its_total() -> None:
    tried = (
        Attempt(endpoint=PHI3, outcome="upstream_failed", ms=2.0, detail="refused"),
        Attempt(endpoint=REPLICA, outcome="ok", ms=80.0),
    )
    call = a_call(
        started_at=NOON,
        endpoint=REPLICA,
        failover_from=PHI3,
        attempts=tried,
        failovers=1,
        texts=2,
        batch_id="batch_phi3_1",
    )
    recorder.record(call)
    assert recorder.flush()
    row = CallRecord.objects.get()
    same = "started_at request_id client model pattern mode code duration_ms texts endpoint failover_from batch_id"
    assert {name: getattr(row, name) for name in same.split()} == {name: getattr(call, name) for name in same.split()}
    assert row.attempts == [
        {"endpoint": PHI3, "outcome": "upstream_failed", "ms": 2.0, "detail": "refused"},
        {"endpoint": REPLICA, "outcome": "ok", "ms": 80.0},
    ]
    stats = CallStats.objects.values_list("width", "kind", "endpoint", "code", "count", "texts", "failovers")
    assert sorted(stats) == [
        ("minute", "attempt", PHI3, "upstream_failed", 1, 0, 0),
        ("minute", "attempt", REPLICA, "ok", 1, 0, 0),
        ("minute", "call", REPLICA, "ok", 1, 2, 1),
        ("total", "attempt", PHI3, "upstream_failed", 1, 0, 0),
        ("total", "attempt", REPLICA, "ok", 1, 0, 0),
        ("total", "call", REPLICA, "ok", 1, 2, 1),
    ]


def test_ten_thousand_calls_from_four_threads_are_all_stored_and_counted() -> None:
    def work(number: int) -> None:
        for n in range(2_500):
            recorder.record(a_call(model=f"m{n % 5}", texts=number))

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorder.flush(30)
    assert recorder.waiting() == 0
    assert CallRecord.objects.count() == counted() == 10_000
    totals = CallStats.objects.filter(width="total", kind="call")
    assert {row.model: (row.count, row.texts, sum(row.histogram)) for row in totals} == {
        f"m{n}": (2_000, 5_000, 2_000) for n in range(5)
    }


def test_texts_that_no_column_holds_are_cut_and_cleaned_and_numbers_made_finite() -> None:
    awkward = a_call(
        request_id="r\0" + "x" * 100,
        client="tab\tnew\nline\\slash\rü€",
        code="lone \ud800 surrogate",
        duration_ms=math.nan,
        texts=-3,
        attempts=(Attempt(endpoint="e" * 500, outcome="o\0" * 50, ms=-math.inf, detail="d\0" + "d" * 300),),
    )
    recorder.record(awkward)
    recorder.record(a_call(request_id="plain"))
    assert recorder.flush()
    row = CallRecord.objects.exclude(request_id="plain").get()
    assert row.request_id == "r" + "x" * 62
    assert (row.client, row.code) == ("tab\tnew\nline\\slash\rü€", "lone ? surrogate")
    assert (row.duration_ms, row.texts) == (0.0, 0)
    assert row.attempts == [{"endpoint": "e" * 300, "outcome": "o" * 16, "ms": 0.0, "detail": "d" * 199}]
    assert all(math.isfinite(row.total_ms) for row in CallStats.objects.all())
    assert counted() == 2


def test_a_call_that_cannot_be_stored_at_all_takes_no_other_with_it(own: Recorder) -> None:
    for n in range(20):
        own.put(a_call(request_id=f"good-{n}"))
        if n == 7:
            own.put(a_call(duration_ms=None))
            own.put(a_call(started_at=datetime(1, 1, 1, tzinfo=UTC), duration_ms=-math.inf, texts="three"))
    assert own.flush(20)
    assert set(CallRecord.objects.values_list("request_id", flat=True)) == {f"good-{n}" for n in range(20)}
    assert own.dropped() == 2
    own.put(a_call())
    assert own.flush(5)
    assert CallStats.objects.get(width="total", kind="drop").count == 2


def test_a_changed_breaker_leaves_an_event_also_when_its_endpoint_is_gone_meanwhile() -> None:
    model = ModelConfig.objects.create(slug="phi3", upstream_model="phi3")
    endpoint = Endpoint.objects.create(model=model, url=PHI3)
    change = {"model": "phi3", "url": PHI3, "from_state": "closed", "to_state": "open", "reason": "r" * 400}
    recorder.breaker_event(endpoint_id=endpoint.pk, until=NOON, at=NOON, **change)
    recorder.breaker_event(endpoint_id=endpoint.pk + 1000, at=NOON, actor="ops", **change)
    assert recorder.flush()
    known = ("endpoint_id", "at", "to_state", "until", "actor", "reason")
    assert list(BreakerEvent.objects.order_by("id").values_list(*known)) == [
        (endpoint.pk, NOON, "open", NOON, "", "r" * 300),
        (None, NOON, "open", None, "ops", "r" * 300),
    ]


def test_a_writer_whose_connection_is_ended_connects_again_and_loses_nothing(own: Recorder) -> None:
    own.put(a_call())
    assert own.flush(5)
    with administrator() as cursor:
        assert end_writers(cursor) >= 1
    own.put(a_call())
    assert own.flush(20)
    assert CallRecord.objects.count() == counted() == 2
    assert own.dropped() == 0


def test_with_the_database_gone_the_buffer_waits_to_its_bound_and_what_is_over_it_is_counted(
    own: Recorder, settings: Any
) -> None:
    settings.RECORD_BUFFER_SIZE = 30
    own.put(a_call(request_id="before"))
    assert own.flush(5)
    with database_gone():
        for n in range(100):
            own.put(a_call(request_id=f"during-{n}"))
        assert not own.flush(0.5)
        assert (own.waiting(), own.dropped(), own.unreported()) == (30, 70, 70)
    assert own.flush(20)
    assert (own.waiting(), own.dropped(), own.unreported()) == (0, 70, 0)
    kept = {"before"} | {f"during-{n}" for n in range(30)}
    assert set(CallRecord.objects.values_list("request_id", flat=True)) == kept
    assert counted() == 31
    assert {row.width: row.count for row in CallStats.objects.filter(kind="drop")} == {"minute": 70, "total": 70}


def test_stopping_without_a_database_ends_in_time_and_counts_what_is_lost(own: Recorder) -> None:
    with database_gone():
        own.put(a_call())
        own.stop(10)
        assert (own.waiting(), own.dropped()) == (0, 1)
    own.put(a_call())
    assert own.flush(5)
    assert counted() == 1


def test_a_commit_whose_answer_was_lost_is_not_written_twice(own: Recorder) -> None:
    with PostgresProxy(connection.settings_dict) as proxy, connections_through(proxy):
        proxy.swallow_answer_to(b"COMMIT")
        own.put(a_call())
        assert own.flush(20)
        own.stop(5)
    assert proxy.swallowed == 1
    assert CallRecord.objects.count() == counted() == 1


def test_a_commit_that_never_arrived_is_written_again(own: Recorder) -> None:
    with PostgresProxy(connection.settings_dict) as proxy, connections_through(proxy):
        proxy.swallow_before(b"COMMIT")
        own.put(a_call())
        assert own.flush(20)
        own.stop(5)
    assert proxy.swallowed == 1
    assert CallRecord.objects.count() == counted() == 1


def test_a_process_that_ends_writes_what_it_has_recorded() -> None:
    run_in_another_process("for n in range(700): recorder.record(a_call())")
    assert CallRecord.objects.count() == counted() == 700


def test_after_a_fork_parent_and_child_each_write_their_own_records_once() -> None:
    run_in_another_process(
        "import os\n"
        "recorder.record(a_call(client='before'))\n"
        "recorder.flush()\n"
        "recorder.record(a_call(client='parent'))\n"
        "if (pid := os.fork()) == 0:\n"
        "    recorder.record(a_call(client='child'))\n"
        "    recorder.stop()\n"
        "    os._exit(0 if recorder.dropped() == 0 else 3)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "recorder.record(a_call(client='after'))\n"
    )
    assert sorted(CallRecord.objects.values_list("client", flat=True)) == ["after", "before", "child", "parent"]


def test_stopping_gives_the_connection_back(own: Recorder) -> None:
    own.put(a_call())
    assert own.flush(5)
    own.stop(5)
    ends = time.monotonic() + 5
    with administrator() as cursor:
        while writers(cursor) and time.monotonic() < ends:
            time.sleep(0.02)  # the server process ends a moment after its connection
        assert writers(cursor) == 0
