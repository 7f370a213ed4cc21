"""What is asked for all day, over a large database, one without history and an empty one: it should take the same time.

    python -m tests.benchmarks.flat --calls 10000000 --batches 100000

Four databases on a PostgreSQL of the bench's own: one with as many call records and batches, one with those of its last
day alone, one that is a day old and has had few calls, and one with none. Each question is asked of all in turns;
medians count. The records are made by `manage.py load_sample_data`, a million at the most; the others are copies of
these, of earlier days.
"""

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2

from tests.benchmarks import rig

from django.conf import settings  # isort: skip
from django.core.management import call_command  # isort: skip
from django.contrib.auth.models import User  # isort: skip
from django.db import connection, connections  # isort: skip
from django.test import Client, override_settings  # isort: skip
from tests.made_batches import a_submission  # isort: skip

from batches import claiming, queues, releasing, rescue, submission, turns  # isort: skip
from batches.models import BatchJob  # isort: skip
from integrations import pruning, recorder, snapshot  # isort: skip

API = "/api/v1/external"
# load_sample_data makes so many calls itself; the others are copied.
MADE = 1_000_000
# Calls of an installation that is a day old: nearly each kind of call has been made once.
YOUNG = 50_000
CLAIMED = "to be claimed"

_QUICKLY = {
    "max_wal_size": "8GB",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "maintenance_work_mem": "1GB",
}
_TABLES = "integrations_callrecord, integrations_callstats, batches_batchjob, batches_batchchunk"
_FORGET = (
    "DELETE FROM integrations_callrecord WHERE started_at < %(since)s",
    "DELETE FROM integrations_callstats WHERE width = 'hour' OR width = 'minute' AND bucket < %(since)s",
    "DELETE FROM batches_batchchunk c USING batches_batchjob b WHERE b.id = c.batch_id AND b.finished_at < %(since)s",
    "DELETE FROM batches_batchjob WHERE finished_at < %(since)s",
)

_COPY = """
INSERT INTO integrations_callrecord (started_at, request_id, client, model, pattern, mode, code, duration_ms, texts,
    endpoint, failover_from, attempts, batch_id)
SELECT started_at - %s * interval '31 days', request_id, client, model, pattern, mode, code, duration_ms, texts,
    endpoint, failover_from, attempts, batch_id
FROM integrations_callrecord ORDER BY id LIMIT %s
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and report."""
    options = parsed(argv)
    with rig.own_stack():
        with connection.cursor() as cursor:
            for name, value in _QUICKLY.items():  # filling it is not what is measured
                cursor.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            cursor.execute("SELECT pg_reload_conf()")
        rig.report(options, "flat", compare(options))


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = rig.parser(__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--batches", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(argv)
    if options.short:
        options.calls, options.batches, options.rounds = 2_000, 100, 1
    return options


def compare(options: argparse.Namespace) -> dict[str, object]:
    """Ask both databases in turns."""
    seeds = {slug: ["http://127.0.0.1:1", "http://127.0.0.1:2"] for slug in settings.SEED_ENDPOINTS}
    scopes = ["embed", "batch", "read", "operate"]
    with override_settings(SEED_ENDPOINTS=seeds, CITADEL_ANONYMOUS_SCOPES=scopes):
        return _compare(options)


def _compare(options: argparse.Namespace) -> dict[str, object]:
    full = connections.settings["default"]["NAME"]
    empty, young, recent = f"{full}_empty", f"{full}_young", f"{full}_recent"
    call_command("sync_models", stdout=io.StringIO(), stderr=io.StringIO())
    User.objects.create(username="benchmark", is_staff=True, is_superuser=True)
    recorder.stop()
    try:
        _copy(full, empty)
        _copy(full, young)
        took = rig.timed(lambda: fill(options.calls, options.batches, between=lambda: _copy(full, recent)))
        _use(young)
        fill(min(YOUNG, options.calls), min(YOUNG // 100, options.batches), days=1)
        _use(recent)
        _forget_history()
        print(f"filled in {took:.0f} s", flush=True)
        return _ask({"full": full, "recent": recent, "young": young, "empty": empty}, options)
    finally:
        _use(full)
        User.objects.filter(username="benchmark").delete()
        with _administrator() as cursor:
            for made in (empty, young, recent):
                cursor.execute(f'DROP DATABASE IF EXISTS "{made}" WITH (FORCE)')


def _copy(database: str, to: str) -> None:
    connection.close()
    with _administrator() as cursor:
        cursor.execute(f'CREATE DATABASE "{to}" TEMPLATE "{database}"')


def fill(calls: int, batches: int, *, days: float = 7.0, between: Callable[[], None] = lambda: None) -> None:
    """Make so many records.

    days: so many before now have some, but for copies of them. `between` is called before copies are made.
    """
    made = min(calls, MADE)
    call_command("load_sample_data", calls=made, batches=batches, days=days, stdout=io.StringIO())
    between()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT indexname, indexdef FROM pg_indexes"
            " WHERE tablename = 'integrations_callrecord' AND indexname NOT LIKE '%_pkey'"
        )
        indexes = cursor.fetchall() if calls > made else []
        for name, _ in indexes:  # to make one at the end is quicker than to add to it
            cursor.execute(f'DROP INDEX "{name}"')
        for n in range(1, -(-calls // made)):
            began = time.monotonic()
            cursor.execute(_COPY, [n, made])
            print(f"{(n + 1) * made:,} calls, {time.monotonic() - began:.0f} s", flush=True)
        for _, definition in indexes:
            cursor.execute(definition)
        cursor.execute(f"VACUUM (ANALYZE) {_TABLES}")


def _forget_history() -> None:
    """Leave what the longest window is about, and all that has not ended."""
    since = datetime.now(UTC) - timedelta(hours=25)
    with connection.cursor() as cursor:
        for statement in _FORGET:
            cursor.execute(statement, {"since": since})
        cursor.execute(f"VACUUM (FULL, ANALYZE) {_TABLES}")


def _ask(databases: Mapping[str, str], options: argparse.Namespace) -> dict[str, object]:
    snapshot.load()
    client = Client(HTTP_HOST="localhost")
    asked = dict(questions(client))
    for database in databases.values():
        _use(database)
        claimed = submission.submit(a_submission(["a text"] * 100, slug="mixtral", request_id=CLAIMED))
        releasing.release_batch(claimed.batch_id)
    taken: dict[str, dict[str, list[float]]] = {name: {which: [] for which in databases} for name in asked}
    for round_ in range(options.rounds + 1):
        for which, database in databases.items():
            _use(database)
            client.force_login(User.objects.get(username="benchmark"))
            for name, ask in asked.items():
                ask()  # what was read lately is read from memory, in each
                ms = rig.timed(ask) * 1000
                if round_:  # a process's first page is no page's
                    taken[name][which].append(ms)
    _use(databases["full"])
    # Each deletes a slice of what is over its retention, in a transaction of its own.
    pruned = statistics.median(rig.timed(lambda: pruning.prune(seconds=0)) * 1000 for _ in range(options.rounds))
    rows: dict[str, object] = {"pruned_slice_ms": pruned}
    for name, found in taken.items():
        medians = {which: statistics.median(ms) for which, ms in found.items()}
        rows[name] = {f"{which}_ms": ms for which, ms in medians.items()} | {
            f"to_{other}": medians["full"] / medians[other] for other in ("recent", "young", "empty")
        }
    return {"calls": options.calls, "batches": options.batches, **rows}


def questions(client: Client) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is asked, and how."""
    for name, path in (
        ("status", f"{API}/patterns/status"),
        ("metrics, 5 minutes", f"{API}/patterns/metrics?window=5m"),
        ("metrics, 24 hours", f"{API}/patterns/metrics?window=24h"),
        ("/metrics", "/metrics"),
        ("queue status", f"{API}/batch/queue/status"),
        ("dashboard", "/admin/"),
        ("dashboard, its refresh", "/admin/live/"),
        ("queue page", "/admin/batches/workerheartbeat/queue/"),
        ("batches of a client", f"{API}/batch"),
    ):
        yield name, lambda path=path: _good(client.get(path))
    yield "submit", lambda: _submit(client)
    yield "scheduler: release", lambda: releasing.release_due(datetime.now(UTC))
    yield "scheduler: rescue", lambda: rescue.idle_batches(queues.listed() or frozenset())
    yield "worker: claim", _claim


def _submit(client: Client) -> None:
    body = {"texts": ["one", "two"], "batch": True}
    answer = _good(client.post(f"{API}/mixtral/embed", body, content_type="application/json"))
    BatchJob.objects.filter(batch_id=answer.json()["batch_id"]).update(state="cancelled", finished_at=datetime.now(UTC))


def _claim() -> None:
    """Find whose turn it is, and take a whole chunk; a smaller one would take along what the other database lacks."""
    job = BatchJob.objects.get(client="team-a", request_id=CLAIMED)  # of a hundred thousand: by an index
    target = claiming.find(job.batch_id)
    if target is None:
        raise SystemExit("nothing to claim")
    turns.next_target(target)
    claims = claiming.claim(target, owner="bench", call_size=1)
    if not claims:
        raise SystemExit("nothing was claimed")
    claiming.hand_back(claims)


def _good(answer: Any) -> Any:
    if answer.status_code not in (200, 202):
        raise SystemExit(f"{answer.request['PATH_INFO']} answered {answer.status_code}: {answer.content[:300]!r}")
    return answer


def _use(database: str) -> None:
    connection.close()
    connections.settings["default"]["NAME"] = database


@contextlib.contextmanager
def _administrator() -> Iterator[Any]:
    found = connections.settings["default"]
    parts = {"host": found["HOST"], "port": found["PORT"], "user": found["USER"], "password": found["PASSWORD"]}
    parts |= {name: found["OPTIONS"][name] for name in ("host", "port") if name in found["OPTIONS"]}
    server = psycopg2.connect(dbname="postgres", **{name: value for name, value in parts.items() if value})
    server.autocommit = True
    try:
        with server.cursor() as cursor:
            yield cursor
    finally:
        server.close()


if __name__ == "__main__":
    main()
