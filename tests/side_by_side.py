"""An upgrade for real: processes of an earlier commit go on working while today's `migrate` and processes join them.

    python -m tests.side_by_side COMMIT

By hand, before a release, since it needs the history. It checks the commit out, lets its web, worker and scheduler work
on servers of their own, migrates under their load, starts today's beside them, and in the end stops the old ones. Every
live call must be answered, every text of every batch must have its own vector, and each side must act on what the other
side's operators do. It prints what happened and fails otherwise.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import django
import psycopg2
import requests
from django.db import connection

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "citadel.settings")
django.setup()

from batches.models import BatchJob  # noqa: E402
from integrations import operations  # noqa: E402
from integrations.models import CallRecord, Endpoint  # noqa: E402
from tests.acceptance.test_worker_kills import assert_each_text_has_its_own_vector  # noqa: E402
from tests.load import Load  # noqa: E402
from tests.processes import Stack, stack_on  # noqa: E402
from tests.running import ROOT, wait_until  # noqa: E402
from tests.servers import Servers  # noqa: E402
from tests.upstreams import Upstream  # noqa: E402

SCOPES = {"CITADEL_ANONYMOUS_SCOPES": "embed,batch,read"}
MODEL = """
models:
  - slug: m
    upstream_model: test-model
    patterns: [{{pattern: hybrid, batch_size: 20, processing_interval: 0.2, retry_attempts: 0}}]
    endpoints: [{first}, {second}]
"""
TEXTS = 1000


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The code of this commit in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="citadel-before-") as folder:
        place = Path(folder) / "citadel"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(place), commit], check=True)
        try:
            yield place
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)


def migrations() -> int:
    """How many the database has seen."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM django_migrations")
        return int(cursor.fetchone()[0])


def submit(url: str, name: str) -> tuple[str, list[str]]:
    """Submit a batch there; return its id and its texts."""
    texts = [f"{name} {n}" for n in range(TEXTS)]
    body = {"texts": texts, "urgent": False}
    answer = requests.post(f"{url}/api/v1/external/m/embed", json=body, timeout=30)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["batch_id"]), texts


def completed(batches: dict[str, list[str]], upstream: Upstream) -> None:
    """Wait until all of them are, and look at each vector."""
    wait_until(lambda: BatchJob.objects.filter(batch_id__in=batches, state="completed").count() == len(batches), 120)
    for batch_id, texts in batches.items():
        assert_each_text_has_its_own_vector(batch_id, texts, upstream)


def answers_from(url: str, endpoint: str, key: str) -> bool:
    """Whether a live call there is answered by this endpoint."""
    headers = {"Authorization": f"Bearer {key}"}
    body = {"text": "a", "urgent": True}
    answer = requests.post(f"{url}/api/v1/external/m/embed", json=body, headers=headers, timeout=30)
    return answer.status_code == 200 and answer.json()["endpoint"] == endpoint


def operate(urls: list[str], first: Upstream, second: Upstream) -> float:
    """A key, a trip and a reset of today's, seen by web processes of both versions; return the longest wait in s."""
    key, longest = operations.create_key("team-a", ["embed"], actor="ann"), 0.0
    ids = list(Endpoint.objects.filter(url=first.url).values_list("pk", flat=True))
    acts = (
        (lambda: None, first),
        (lambda: operations.trip_breaker(ids, actor="ann", reason="an upgrade"), second),
        (lambda: operations.reset_breaker(ids, actor="ann"), first),
    )
    for act, expected in acts:
        act()
        since = time.monotonic()
        for url in urls:
            wait_until(lambda url=url, expected=expected: answers_from(url, expected.url, key), 10)  # type: ignore[misc]
        longest = max(longest, time.monotonic() - since)
    return longest


def upgrade(before: Stack, after: Stack, upstreams: tuple[Upstream, Upstream], model: Path) -> dict[str, object]:
    """Go from one to the other under load; return what happened."""
    first, second = upstreams
    for arguments in (("migrate", "-v0", "--skip-checks"), ("sync_models", "--from", str(model))):
        done = before.manage(*arguments)
        assert done.returncode == 0, done.stderr
    _, old_url = before.web(**SCOPES)
    before.scheduler()
    before.worker()
    batches = dict([submit(old_url, "before")])
    with Load(f"{old_url}/api/v1/external/m/embed", clients=2, pause=0.02) as old_load:
        old_load.wait_for(20)
        known, started = migrations(), time.monotonic()
        done = after.manage("migrate", "-v0", "--skip-checks")
        assert done.returncode == 0, done.stderr
        took = time.monotonic() - started
        _, new_url = after.web(**SCOPES)
        after.scheduler()
        after.worker()
        with Load(f"{new_url}/api/v1/external/m/embed", clients=2, pause=0.02) as new_load:
            batches |= dict([submit(old_url, "from the old"), submit(new_url, "from the new")])
            waited = operate([old_url, new_url], first, second)
            completed(batches, first)
    before.stop()
    batches |= dict([submit(new_url, "after")])
    completed(batches, first)
    outcomes = {"old": dict(old_load.outcomes), "new": dict(new_load.outcomes)}
    assert all(set(found) == {"ok"} for found in outcomes.values()), outcomes
    return {
        "live_calls": outcomes,
        "texts": len(batches) * TEXTS,
        "migrations": migrations() - known,
        "migrate_seconds": round(took, 1),
        "longest_wait_for_an_operators_act_seconds": round(waited, 2),
        "records": CallRecord.objects.count(),
    }


def main(argv: list[str]) -> None:
    """Do it and print what happened."""
    parser = argparse.ArgumentParser(prog="python -m tests.side_by_side", description=__doc__)
    parser.add_argument("commit")
    commit = parser.parse_args(argv).commit
    with (
        checked_out(commit) as code,
        tempfile.TemporaryDirectory(prefix="citadel-upgrade-") as folder,
        Servers() as servers,
        Upstream() as first,
        Upstream() as second,
    ):
        with contextlib.closing(psycopg2.connect(servers.database_url("postgres"))) as server:
            server.autocommit = True
            server.cursor().execute("CREATE DATABASE citadel")
        folders = [Path(folder) / name for name in ("before", "after")]
        for place in folders:
            place.mkdir()
        model = Path(folder) / "models.yaml"
        model.write_text(MODEL.format(first=first.url, second=second.url))
        url = servers.database_url("citadel")
        before = Stack(database_url=url, redis_url=servers.redis_url, folder=folders[0], code=code)
        with stack_on(servers, folders[1], restored=True) as after:
            try:
                found = upgrade(before, after, (first, second), model)
            finally:
                before.stop()
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
