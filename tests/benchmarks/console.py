"""Server time of the console's pages over a large database.

    python -m tests.benchmarks.console --calls 1000000 --batches 10000

On a database of its own, filled with sample data (DATABASE_URL names the server); `--here` takes the database of
DATABASE_URL as it is. Each page is asked for through Django with all of its middleware, as a superuser, in turns; the
median of the rounds counts, and the worst is beside it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.databases import MANAGE, ROOT, own_database

BOUND_MS = 300
CALLS, BATCHES = "/admin/integrations/callrecord/", "/admin/batches/batchjob/"


def main(argv: Sequence[str] | None = None) -> None:
    """Fill a database, and let a process on it ask for each page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--batches", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="a small database and two rounds")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--here", action="store_true", help="measure the database of DATABASE_URL")
    options = parser.parse_args(argv)
    if options.short:
        options.calls, options.batches, options.rounds = 5_000, 100, 2
    if options.here:
        measure(options.rounds, options.json)
        return
    with own_database() as env:
        for command in (
            ["sync_models"],
            ["load_sample_data", "--calls", str(options.calls), "--batches", str(options.batches)],
        ):
            subprocess.run([*MANAGE, *command], cwd=ROOT, env=env, check=True, capture_output=True)
        again = [sys.executable, "-m", "tests.benchmarks.console", "--here", "--rounds", str(options.rounds)]
        also = ["--json", str(options.json.resolve())] if options.json else []
        subprocess.run([*again, *also], cwd=ROOT, env=env, check=True)


def measure(rounds: int, to: Path | None) -> None:
    """Ask for each page and print what it took."""
    import django  # noqa: PLC0415 # the settings read DATABASE_URL, which the caller may just have set

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "citadel.settings")
    django.setup()
    from django.test import Client  # noqa: PLC0415

    client = Client(HTTP_HOST="localhost")
    client.force_login(superuser())
    pages = dict(addresses())
    taken: dict[str, list[float]] = {name: [] for name in pages}
    for address in pages.values():  # what a process does once, at its first page, is no page's
        client.get(address)
    for _ in range(rounds):
        for name, address in pages.items():
            started = time.perf_counter()
            answer = client.get(address)
            length = len(b"".join(answer.streaming_content) if answer.streaming else answer.content)
            taken[name].append((time.perf_counter() - started) * 1000)
            if answer.status_code != 200 or not length:
                raise SystemExit(f"{name}: {address} answered {answer.status_code}")
    report(taken, to)


def report(taken: dict[str, list[float]], to: Path | None) -> None:
    """Print a table, and write the same as JSON."""
    found = {name: {"median_ms": statistics.median(ms), "worst_ms": max(ms)} for name, ms in taken.items()}
    print(f"{'page':48} {'median ms':>10} {'worst ms':>10}")
    for name, row in found.items():
        over = "  over the bound" if row["median_ms"] > BOUND_MS else ""
        print(f"{name:48} {row['median_ms']:10.0f} {row['worst_ms']:10.0f}{over}")
    if to:
        to.write_text(json.dumps(found, indent=2) + "\n")


def superuser() -> Any:
    """Return somebody who may see every page."""
    from django.contrib.auth.models import User  # noqa: PLC0415

    found, _ = User.objects.get_or_create(username="benchmark", is_staff=True, is_superuser=True)
    return found


def addresses() -> list[tuple[str, str]]:
    """Return each page's name and address; those of single rows are those of the newest."""
    from batches.models import BatchJob  # noqa: PLC0415
    from integrations.models import AuditEntry, BreakerEvent, CallRecord, ModelConfig  # noqa: PLC0415

    call = CallRecord.objects.order_by("-started_at")[:1].get()
    in_batch = CallRecord.objects.exclude(batch_id="").order_by("-started_at")[:1].get()
    running = BatchJob.objects.filter(state="processing").first() or BatchJob.objects.latest("id")
    largest = BatchJob.objects.order_by("-total")[:1].get()
    model = ModelConfig.objects.get(slug="phi3")
    return [
        ("dashboard", "/admin/"),
        ("dashboard, its refresh", "/admin/live/"),
        ("charts of the hour", "/admin/charts/"),
        ("charts of the day", "/admin/charts/?range=day"),
        ("breakers", "/admin/breakers/"),
        ("breakers, their refresh", "/admin/breakers/live/"),
        *(
            ("a trip's question", f"/admin/breakers/trip/?endpoint={endpoint.pk}")
            for endpoint in model.endpoints.all()[:1]
        ),
        ("models", "/admin/integrations/modelconfig/"),
        ("a model", f"/admin/integrations/modelconfig/{model.pk}/change/"),
        ("calls, newest", CALLS),
        ("calls, an older page", f"{CALLS}?p=29"),
        ("calls by model", f"{CALLS}?model=phi3"),
        ("calls by pattern", f"{CALLS}?pattern=bulk_only"),
        ("calls by pattern and mode that never meet", f"{CALLS}?pattern=bulk_only&mode=live"),
        ("calls of a model in a mode it never has", f"{CALLS}?model=phi3&mode=bulk"),
        ("calls, failed", f"{CALLS}?outcome=failed"),
        ("calls, one code", f"{CALLS}?outcome=circuit_open"),
        ("calls, a code that never came", f"{CALLS}?outcome=not_acceptable"),
        ("calls, 1 s or more", f"{CALLS}?slow=1000"),
        ("calls, 20 s or more", f"{CALLS}?slow=20000"),
        ("calls, 20 s or more, bulk_only", f"{CALLS}?slow=20000&pattern=bulk_only"),
        ("calls, slow, failed, of one model", f"{CALLS}?slow=5000&outcome=failed&model=phi3"),
        ("calls of the last hour", f"{CALLS}?within=hour"),
        ("calls by request id", f"{CALLS}?q={call.request_id}"),
        ("calls by batch id", f"{CALLS}?q={in_batch.batch_id}"),
        ("calls, an id that is not there", f"{CALLS}?q=nobody"),
        ("a call", f"{CALLS}{call.pk}/change/"),
        ("rollups", "/admin/integrations/callstats/"),
        ("transitions", "/admin/integrations/breakerevent/"),
        ("a transition", f"/admin/integrations/breakerevent/{BreakerEvent.objects.latest('id').pk}/change/"),
        ("audit", "/admin/integrations/auditentry/"),
        ("an audit entry", f"/admin/integrations/auditentry/{AuditEntry.objects.latest('id').pk}/change/"),
        ("batches, newest", BATCHES),
        ("batches, an older page", f"{BATCHES}?p={min(100, BatchJob.objects.count() // 50 - 1)}"),
        ("batches by model", f"{BATCHES}?model=mixtral"),
        ("batches, completed", f"{BATCHES}?state=completed"),
        ("batches, processing", f"{BATCHES}?state=processing"),
        ("batches, more than a week old", f"{BATCHES}?age=older"),
        ("batches by id", f"{BATCHES}?q={running.batch_id}"),
        ("a running batch", f"{BATCHES}{running.pk}/change/"),
        ("the largest batch", f"{BATCHES}{largest.pk}/change/"),
        ("queue and workers", "/admin/batches/workerheartbeat/queue/"),
        ("RQ's dashboard", "/admin/django_rq/dashboard/"),
        ("API keys", "/admin/integrations/apikey/"),
        ("users", "/admin/auth/user/"),
    ]


if __name__ == "__main__":
    main()
