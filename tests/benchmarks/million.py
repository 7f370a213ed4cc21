"""A batch of a million texts from one streamed upload to one streamed download, and the memory that it takes.

    python -m tests.benchmarks million --texts 1000000

Over HTTP, as a client does: NDJSON up, a worker embeds, NDJSON down. For each process the most memory that it ever had;
of PostgreSQL's processes what is theirs alone, without the buffers that they share.
"""

import argparse
import http.client
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import psutil

from tests.benchmarks import rig  # first: it sets Django up

from batches.models import BatchJob  # isort: skip
from tests.benchmarks.bare_client import texts  # isort: skip
from tests.processes import Stack, serve_model  # isort: skip
from tests.running import wait_until  # isort: skip

LINES = 1_000
NDJSON = "application/x-ndjson"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and report."""
    options = parsed(argv)
    with rig.own_stack() as (stack, servers):
        rig.report(options, "million", measure(stack, options, database=rig.postgres_pid(servers)))


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = rig.parser(__doc__)
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=64)
    options = parser.parse_args(argv)
    if options.short:
        options.texts = 3_000
    return options


def measure(stack: Stack, options: argparse.Namespace, *, database: int | None = None) -> dict[str, object]:
    """Take one batch from end to end."""
    stack.common["CITADEL_ANONYMOUS_SCOPES"] = "embed,batch,read"
    stub = rig.a_stub(stack, dimensions=options.dimensions, ms=1, slots=8)
    serve_model(stub.url, protocol="openai", fields={"processing_interval": 1.0})
    web, url = stack.web()
    worker, scheduler = stack.worker(BULK_CALLS_IN_FLIGHT="8"), stack.scheduler()
    with _watched(database) as postgres:
        began = time.monotonic()
        batch_id = _upload(url, options.texts)
        uploaded = time.monotonic()
        wait_until(lambda: BatchJob.objects.get(batch_id=batch_id).state not in BatchJob.ACTIVE, 3600, every=0.5)
        ended = time.monotonic()
        rows, size = _download(url, batch_id)
        downloaded = time.monotonic()
    job = BatchJob.objects.get(batch_id=batch_id)
    if not job.completed == rows == options.texts:
        raise SystemExit(f"{options.texts} texts, {job.completed} vectors, {rows} lines: {job.state}")
    named = {"web": web, "worker": worker, "scheduler": scheduler}
    return {
        "texts": options.texts,
        "upload": {"seconds": uploaded - began, "texts_s": options.texts / (uploaded - began)},
        "work after the upload": {"seconds": ended - uploaded},
        "download": {"seconds": downloaded - ended, "mb": size / 2**20},
        "peak_mb": {name: max(map(rig.peak_mb, _family(process.pid))) for name, process in named.items()} | postgres,
    }


def _upload(url: str, count: int) -> str:
    headers = {"Content-Type": NDJSON}
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)) as connection:
        connection.request("POST", "/api/v1/external/m/embed", _lines(count), headers, encode_chunked=True)
        answer = connection.getresponse()
        body = orjson.loads(answer.read())
    if answer.status != 202:
        raise SystemExit(f"the upload was answered {answer.status}: {body}")
    return str(body["batch_id"])


def _lines(count: int) -> Iterator[bytes]:
    for first in range(0, count, LINES):
        yield b"".join(b'{"text":"%s"}\n' % text.encode() for text in texts(min(LINES, count - first), first=first))


def _download(url: str, batch_id: str) -> tuple[int, int]:
    """Read the results as they come, and keep nothing; return how many lines and bytes there were."""
    lines = size = 0
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)) as connection:
        connection.request("GET", f"/api/v1/external/batch/{batch_id}/results", headers={"Accept": NDJSON})
        answer = connection.getresponse()
        if answer.status != 200:
            raise SystemExit(f"the download was answered {answer.status}: {answer.read(300)!r}")
        while piece := answer.read(2**20):
            lines, size = lines + piece.count(b"\n"), size + len(piece)
    return lines, size


def _family(pid: int) -> list[int]:
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


@contextmanager
def _watched(postgres: int | None) -> Iterator[dict[str, float]]:
    """Look twice a second what PostgreSQL's largest process has for itself alone."""
    most: dict[str, float] = {}
    ended = threading.Event()

    def look() -> None:
        while postgres and not ended.wait(0.5):
            with suppress(psutil.Error, OSError):
                own = max(map(_own_mb, _family(postgres)))
                most["one of postgres"] = max(own, most.get("one of postgres", 0.0))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def _own_mb(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()
