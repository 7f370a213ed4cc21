"""Small batches a second: RQ's Worker, which forks for each job, against the worker that does not.

    python -m tests.benchmarks.worker_class --batches 150

On a database and a Redis database of its own (DATABASE_URL and REDIS_URL name the servers), against a model server on
loopback that answers at once. Each batch has as many texts as a call may have, so no two share a call: what is
compared is what a job costs. The time runs from the first batch's start to the last one's end.
"""

import argparse
import os
import subprocess
import sys
from typing import Any

import django
import redis

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "citadel.settings")
django.setup()

import django_rq  # noqa: E402
from django.conf import settings  # noqa: E402
from django.db import connections  # noqa: E402
from rq import Worker  # noqa: E402
from rq.serializers import JSONSerializer  # noqa: E402

from batches import processing, submission  # noqa: E402
from batches.models import BatchJob  # noqa: E402
from batches.queues import BatchQueue  # noqa: E402
from integrations import loop, recorder  # noqa: E402
from tests.benchmarks.databases import MANAGE, ROOT, own_database  # noqa: E402
from tests.made_batches import a_submission  # noqa: E402
from tests.processes import serve_model  # noqa: E402
from tests.upstreams import Upstream  # noqa: E402

ITSELF = [sys.executable, "-m", "tests.benchmarks.worker_class"]
TEXTS = 10


class ForkingWorker(Worker):
    """RQ's own worker, whose work horse starts for each job what a warm worker has running."""

    def perform_job(self, *args: Any, **options: Any) -> bool:
        """Run one job in the work horse, and wait for the calls it began."""
        engine = processing.Engine(f"horse-{os.getpid()}")
        processing.install(engine)
        engine.start()
        done = super().perform_job(*args, **options)
        engine.drain(30)
        engine.shutdown(1)
        recorder.stop()
        loop.stop()
        return done


def main() -> None:
    """Make a database, and let a process on it compare the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=["all", "compare", "forking-worker"], default="all", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "forking-worker":
        run_forking_worker()
    elif options.part == "compare":
        compare(options.batches, options.rounds)
    else:
        with own_database() as env:
            subprocess.run([*ITSELF, "--part", "compare", *sys.argv[1:]], cwd=ROOT, env=env, check=True)


def compare(batches: int, rounds: int) -> None:
    """Let each class do the same work, in turns."""
    classes = {"SimpleWorker": [*MANAGE, "worker", "--burst"], "Worker": [*ITSELF, "--part", "forking-worker"]}
    rates: dict[str, list[float]] = {label: [] for label in classes}
    for _ in range(rounds):
        for label, command in classes.items():
            rates[label].append(measure(command, batches))
            print(f"{label}: {rates[label][-1]:.1f} batches/s", flush=True)
    medians = {label: sorted(found)[len(found) // 2] for label, found in rates.items()}
    print(f"medians: {medians}, ratio {medians['SimpleWorker'] / medians['Worker']:.1f}")


def measure(command: list[str], batches: int) -> float:
    """Submit the batches, let one worker do them all, and return how many it did a second."""
    redis.Redis.from_url(settings.REDIS_URL).flushdb()
    BatchJob.objects.all().delete()
    with Upstream() as upstream:
        model = serve_model(upstream, fields={"batch_size": TEXTS})
        for number in range(batches):
            texts = [f"batch {number}, text {n}" for n in range(TEXTS)]
            submission.submit(a_submission(texts, slug="m", batch_size=TEXTS))
        subprocess.run(command, cwd=ROOT, check=True, timeout=300, capture_output=True)
        model.delete()
    jobs = list(BatchJob.objects.filter(state="completed"))
    if len(jobs) != batches:
        raise SystemExit(f"only {len(jobs)} of {batches} batches completed")
    began, ended = min(j.started_at for j in jobs if j.started_at), max(j.finished_at for j in jobs if j.finished_at)
    return batches / (ended - began).total_seconds()


def run_forking_worker() -> None:
    """Do what the lists hold. Nothing connected may exist before the fork."""
    queues = [django_rq.get_queue(name) for name in ("batch_queue", "batch_helpers")]
    worker = ForkingWorker(queues, connection=queues[0].connection, queue_class=BatchQueue, serializer=JSONSerializer)
    connections.close_all()
    worker.work(burst=True, logging_level="WARNING")


if __name__ == "__main__":
    main()
