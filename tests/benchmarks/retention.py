"""What deleting old records costs those who write new ones.

    python -m tests.benchmarks.retention

On a PostgreSQL of its own. Threads write call records as a busy web process does, a worker works on a batch, and a
scheduler runs beside them: in turns with a backlog of old calls, transitions and batches to delete, and with the same
rows but nothing due. Every write is timed, and PostgreSQL is asked all the while who waits for a lock of the scheduler.
"""

import argparse
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice

from tests.benchmarks import rig  # first: it sets Django up

from django.db import connection  # isort: skip
from batches import submission  # isort: skip
from batches.models import BatchChunk, BatchJob  # isort: skip
from integrations.models import BreakerEvent, CallRecord  # isort: skip
from integrations.record_writer import Writer  # isort: skip
from tests.fixtures_records import a_call  # isort: skip
from tests.made_batches import a_batch, a_submission  # isort: skip
from tests.processes import Stack, serve_model  # isort: skip

NEVER = str(1e9)
VECTORS = random.Random(1).randbytes(100 * 384 * 4)
WRITERS = 2
CALLS_A_WRITE = 100
PAUSE = 0.05
_OLD_CALLS = """
    INSERT INTO integrations_callrecord (started_at, request_id, client, model, pattern, mode, code, duration_ms, texts,
        endpoint, failover_from, attempts, batch_id)
    SELECT now() - interval '40 days' + n * interval '1 ms', 'old-' || n, 'team-a', 'phi3', 'real_time', 'live', 'ok',
        85, 1, 'http://127.0.0.1:11403', '', '[{"endpoint": "http://127.0.0.1:11403", "outcome": "ok", "ms": 85}]', ''
    FROM generate_series(1, %s) n
"""
_OLD_EVENTS = """
    INSERT INTO integrations_breakerevent (at, model, url, from_state, to_state, reason, actor)
    SELECT now() - interval '100 days' + n * interval '1 ms', 'phi3', 'http://127.0.0.1:11403', 'closed', 'open', '', ''
    FROM generate_series(1, %s) n
"""
_WAITING = """
    SELECT coalesce(max(extract(epoch FROM clock_timestamp() - state_change)), 0)::float8
    FROM pg_stat_activity a WHERE wait_event_type = 'Lock' AND datname = current_database() AND EXISTS (
        SELECT FROM pg_stat_activity b WHERE b.pid = ANY (pg_blocking_pids(a.pid)) AND b.application_name = 'scheduler'
    )
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and report."""
    parser = rig.parser(__doc__)
    parser.add_argument("--calls", type=int, default=300_000, help="old ones; a third as many transitions")
    parser.add_argument("--chunks", type=int, default=500, help="of 100 old texts with 384 values each")
    parser.add_argument("--seconds", type=float, default=12.0, help="of writing, in each turn")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args(argv)
    if options.short:
        options.calls, options.chunks, options.seconds, options.rounds = 20_000, 20, 3.0, 1
    with rig.own_stack() as (stack, _):
        rig.report(options, "retention", measure(stack, options))


def measure(stack: Stack, options: argparse.Namespace) -> dict[str, object]:
    """Both in turns."""
    stub = rig.a_stub(stack, dimensions=384, ms=100, slots=4)
    serve_model(stub.url, fields={"batch_size": 100})
    stack.worker()
    keep = {"CALL_RECORD_RETENTION": NEVER, "BREAKER_EVENT_RETENTION": NEVER, "RESULT_RETENTION": NEVER}
    contenders = {
        "nothing is due": partial(turn, stack, options, keep),
        "a backlog is deleted": partial(turn, stack, options, {}),
    }
    return dict(rig.rounds(contenders, times=options.rounds))


def turn(stack: Stack, options: argparse.Namespace, env: dict[str, str]) -> dict[str, float]:
    """Write for a while beside one scheduler, and say how that went."""
    load(options)
    submission.submit(a_submission([f"text {n}" for n in range(100_000)], batch_size=100))
    before, done = left(), BatchJob.objects.get(state__in=BatchJob.ACTIVE)
    scheduler = stack.scheduler(**env, PGAPPNAME="scheduler")
    took: list[float] = []
    waits = [0.0]
    with working(partial(watch, waits), *[partial(write, took)] * WRITERS):
        time.sleep(options.seconds)
    done.refresh_from_db()
    scheduler.stop()
    found = sorted(took)
    return {
        "writes": len(found),
        "write_p50_ms": statistics.median(found) * 1000,
        "write_p99_ms": found[int(len(found) * 0.99)] * 1000,
        "write_worst_ms": found[-1] * 1000,
        "longest_wait_for_its_locks_ms": max(waits) * 1000,
        "texts_a_second": done.completed / options.seconds,
        "deleted_a_second": (before - left()) / options.seconds,
    }


def left() -> int:
    """Old rows that are there."""
    calls = CallRecord.objects.filter(request_id__startswith="old-").count()
    return calls + BreakerEvent.objects.count() + BatchChunk.objects.filter(batch__client="old").count()


def load(options: argparse.Namespace) -> None:
    """Begin with the old rows alone."""
    with connection.cursor() as cursor:
        for table in ("integrations_callrecord", "integrations_breakerevent", "batches_batchchunk"):
            cursor.execute(f"DELETE FROM {table}")  # nosec B608 # one of these
        BatchJob.objects.all().delete()
        cursor.execute(_OLD_CALLS, [options.calls])
        cursor.execute(_OLD_EVENTS, [options.calls // 3])
        size = options.chunks * 100
        age = 40 * 86400.0
        job = a_batch(client="old", total=size, completed=size, age=age, state="completed")
        BatchJob.objects.filter(pk=job.pk).update(finished_at=job.submitted_at)
        chunks = (
            BatchChunk(
                batch=job,
                number=n,
                first=n * 100,
                size=100,
                texts=["a text"] * 100,
                state="done",
                available_at=job.submitted_at,
                vectors=VECTORS,
            )
            for n in range(options.chunks)
        )
        while made := BatchChunk.objects.bulk_create(islice(chunks, 50)):
            del made
        cursor.execute("VACUUM ANALYZE")


@contextmanager
def working(*tasks: Callable[[threading.Event], None]) -> Iterator[None]:
    """Do all of these in threads, until the block ends."""
    ended = threading.Event()

    def run(task: Callable[[threading.Event], None]) -> None:
        try:
            task(ended)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def write(took: list[float], ended: threading.Event) -> None:
    """Write calls as a recorder does, and time each transaction."""
    writer = Writer()
    while not ended.wait(PAUSE):
        calls = [a_call(model="m") for _ in range(CALLS_A_WRITE)]
        took.append(rig.timed(partial(writer.write, calls, dropped=0)))
    writer.close()


def watch(waits: list[float], ended: threading.Event) -> None:
    """Ask who waits for a lock of the scheduler, and since when."""
    while not ended.wait(0.01):
        with connection.cursor() as cursor:
            cursor.execute(_WAITING)
            waits.append(cursor.fetchone()[0])


if __name__ == "__main__":
    main()
