"""Texts a second that a worker embeds and stores, against a bare client that throws the vectors away.

    python -m tests.benchmarks.bulk --texts 100000

The server is tests.benchmarks.embedding_stub: 100 texts in 50 ms, 8 calls at once. PostgreSQL and Redis are the
bench's own, so that their share can be told. A worker's time runs from its first claim to the batch's end.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

from tests.benchmarks import rig

from batches import queues, releasing, submission  # isort: skip
from batches.models import BatchJob  # isort: skip
from tests.benchmarks.bare_client import texts  # isort: skip
from tests.benchmarks.embedding_stub import CALL  # isort: skip
from tests.made_batches import a_submission  # isort: skip
from tests.processes import Process, Stack, serve_model  # isort: skip
from tests.running import ROOT, wait_until  # isort: skip

PATHS = {"openai": "/v1/embeddings", "ollama": "/api/embed"}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and report."""
    options = parsed(argv)
    rig.report(options, "bulk", measure(options))


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = rig.parser(__doc__)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--protocol", choices=PATHS, default="openai")
    parser.add_argument("--encoding", default="base64", help="what the bare client asks of OpenAI's protocol")
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--ms", type=float, default=50.0, help="what the stub takes for 100 texts")
    parser.add_argument("--at-once", type=int, default=8, help="calls that the stub works on at once")
    options = parser.parse_args(argv)
    if options.short:
        options.texts, options.rounds = 2_000, 1
    return options


def measure(options: argparse.Namespace) -> dict[str, object]:
    """On servers of the bench's own."""
    with rig.own_stack() as (stack, servers):
        return compare(stack, options, database=rig.postgres_pid(servers))


def compare(stack: Stack, options: argparse.Namespace, *, database: int | None = None) -> dict[str, object]:
    """The bare client and the workers in turns, on the same stub. `database`: PostgreSQL's first process."""
    places = str(-(-options.at_once // options.workers))
    stub = rig.a_stub(stack, dimensions=options.dimensions, ms=options.ms, slots=options.at_once)
    serve_model(stub.url, protocol=options.protocol)
    workers = [stack.worker(BULK_CALLS_IN_FLIGHT=places) for _ in range(options.workers)]
    contenders = {
        "bare": partial(bare, stub.url, options),
        "worker": partial(bulk, workers, options.texts, database=database),
    }
    medians = rig.rounds(contenders, times=options.rounds)
    return {
        **medians,
        "ratio": medians["worker"]["texts_s"] / medians["bare"]["texts_s"],
        "texts": options.texts,
        "workers": options.workers,
        "peak_mb": [rig.peak_mb(worker.pid) for worker in workers],
    }


def bare(url: str, options: argparse.Namespace, *, model: str = "stub", size: int = CALL) -> dict[str, float]:
    """The bare client's rate, in a process of its own."""
    encoding = options.encoding if options.protocol == "openai" else ""
    words = ["--texts", options.texts, "--at-once", options.at_once, "--encoding", encoding]
    words += ["--model", model, "--size", size]
    command = [sys.executable, "-m", "tests.benchmarks.bare_client", "--url", url + PATHS[options.protocol], *words]
    done = subprocess.run([str(word) for word in command], cwd=ROOT, check=True, capture_output=True, timeout=600)
    return {"texts_s": options.texts / json.loads(done.stdout)["seconds"]}


def bulk(workers: Sequence[Process], count: int, *, database: int | None = None, size: int = CALL) -> dict[str, float]:
    """The workers' rate on one batch, and what the batch costs them and PostgreSQL in microseconds of a core a text."""
    accepted = submission.submit_lines(a_submission([], slug="m", batch_size=size), _lines(count))
    cpu = rig.Used(*(worker.pid for worker in workers))
    cpu_database = rig.Used(*([database] if database else []))
    releasing.release_batch(accepted.batch_id)
    queues.enqueue(accepted.batch_id)
    wait_until(lambda: BatchJob.objects.get(batch_id=accepted.batch_id).state not in BatchJob.ACTIVE, 900, every=0.1)
    job = BatchJob.objects.get(batch_id=accepted.batch_id)
    if job.completed != count or job.started_at is None or job.finished_at is None:
        raise SystemExit(f"only {job.completed} of {count} texts have a vector: {job.state}")
    figures = {
        "texts_s": count / (job.finished_at - job.started_at).total_seconds(),
        "worker_us": cpu.seconds() / count * 1e6,
        "database_us": cpu_database.seconds() / count * 1e6,
    }
    job.delete()
    return figures


def _lines(count: int) -> list[bytes]:
    return [b'{"text":"%s"}\n' % text.encode() for text in texts(count)]


if __name__ == "__main__":
    main()
