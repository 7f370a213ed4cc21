"""A file of 50,000 lines through OpenAI's own client: how long each step takes, and the most memory of each process.

    python -m tests.benchmarks.openai_batch

The server is tests.benchmarks.embedding_stub: 100 texts in 50 ms, 8 calls at once. PostgreSQL and Redis are the
bench's own. `texts_s` is over all, from the upload's first byte to the batch's last state; the steps are by the
batch's own times, but for those that are shorter than a second, as this process saw them (it looks every 50 ms).
"""

import argparse
import io
import json
import time
from collections.abc import Iterator, Sequence

import psutil
from openai import OpenAI

from tests.benchmarks import rig

from batches.models import FileBatch  # isort: skip
from tests.made_openai import a_key, clients  # isort: skip
from tests.processes import Process, Stack, serve_model  # isort: skip

# A sentence or two, as the texts of a search index are.
TEXT = "number {number}: a text of about two hundred characters, " * 4


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and report."""
    options = parsed(argv)
    with rig.own_stack(RESULT_RETENTION="86400") as (stack, _):
        rig.report(options, "openai_batch", measure(stack, options))


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = rig.parser(__doc__)
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--ms", type=float, default=50.0, help="what the stub takes for 100 texts")
    parser.add_argument("--at-once", type=int, default=8, help="calls that the stub works on at once")
    parser.add_argument("--encoding", choices=("base64", "float"), default="base64", help="what the lines ask for")
    options = parser.parse_args(argv)
    if options.short:
        options.lines = 2_000
    return options


def measure(stack: Stack, options: argparse.Namespace) -> dict[str, object]:
    """One file, from its upload to the last byte of its output."""
    stub = rig.a_stub(stack, dimensions=options.dimensions, ms=options.ms, slots=options.at_once)
    serve_model(stub.url, protocol="openai")
    key = a_key()
    web, url = stack.web()
    scheduler, worker = stack.scheduler(), stack.worker(BULK_CALLS_IN_FLIGHT=str(options.at_once))
    content = b"".join(lines(options))
    with clients(url, key) as made:
        figures = one_batch(made.plain, content, options)
    peaks = {"web": peak_of_web(web), "worker": rig.peak_mb(worker.pid), "scheduler": rig.peak_mb(scheduler.pid)}
    return {"lines": options.lines, "input_mb": len(content) / 2**20, **figures, "peak_mb": peaks}


def one_batch(client: OpenAI, content: bytes, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of each step."""
    began = time.perf_counter()
    file = client.files.create(file=("in.jsonl", io.BytesIO(content)), purpose="batch")
    uploaded = time.perf_counter()
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
    seen: dict[str, float] = {}
    row = FileBatch.objects.filter(batch_id=batch.id)
    while (state := row.values_list("state", flat=True).get()) not in ("completed", "failed", "expired"):
        seen.setdefault(state, time.perf_counter())
        time.sleep(0.05)
    ended = time.perf_counter()
    done = client.batches.retrieve(batch.id)
    if done.request_counts is None or done.request_counts.completed != options.lines or not done.output_file_id:
        raise SystemExit(f"not completed: {done}")
    size = 0
    with client.files.with_streaming_response.content(done.output_file_id) as answer:
        for block in answer.iter_bytes(2**20):
            size += len(block)
    loaded = time.perf_counter()
    worked = seen.get("finalizing", ended) - seen["in_progress"]
    return {
        "upload_s": uploaded - began,
        "validate_s": seen["in_progress"] - uploaded,
        "embed_s": worked,
        "write_s": ended - seen.get("finalizing", ended),
        "download_s": loaded - ended,
        "output_mb": size / 2**20,
        "embed_texts_s": options.lines / worked,
        "texts_s": options.lines / (ended - began),
    }


def lines(options: argparse.Namespace) -> Iterator[bytes]:
    """The file."""
    for number in range(options.lines):
        body = {"model": "m", "input": TEXT.format(number=number), "encoding_format": options.encoding}
        line = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/embeddings", "body": body}
        yield json.dumps(line).encode() + b"\n"


def peak_of_web(web: Process) -> float:
    """The most memory of a process that answers requests, in MB; the one above it only starts these."""
    return max(rig.peak_mb(child.pid) for child in psutil.Process(web.pid).children())


if __name__ == "__main__":
    main()
