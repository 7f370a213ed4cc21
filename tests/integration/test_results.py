"""Pages and streams of results over chunks of any shape."""

import tracemalloc

import numpy as np
import orjson
import pytest

from batches import results
from batches.models import BatchChunk, BatchJob
from tests.made_batches import State, a_batch, a_chunk, finish

pytestmark = pytest.mark.django_db


def a_job(*sizes: int) -> BatchJob:
    job = a_batch(total=sum(sizes))
    first = 0
    for number, size in enumerate(sizes):
        chunk = a_chunk(job, number=number, first=first, texts=[f"t{first + i}" for i in range(size)])
        finish(chunk)
        first += size
    job.refresh_from_db()
    return job


def test_any_page_of_uneven_chunks_is_the_same_slice_of_the_whole() -> None:
    job = a_job(3, 1, 5, 2)
    whole = [orjson.loads(line) for line in b"".join(results.lines(job)).splitlines()]
    assert [row["index"] for row in whole] == list(range(11))
    for offset in range(12):
        for limit in (1, 2, 4, 20):
            page = results.page(job, offset=offset, limit=limit)
            printed = [orjson.loads(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)) for row in page.rows]
            assert printed == whole[offset : offset + limit]
            assert page.next == (offset + limit if offset + limit < 11 else None)


def test_a_page_reads_only_the_chunks_that_it_shows() -> None:
    job = a_job(*[2] * 30)
    # What lies outside of the page is not fit to be read.
    BatchChunk.objects.filter(batch=job).exclude(number__in=(10, 11)).update(vectors=b"x", dimensions=9)
    assert [row["index"] for row in results.page(job, offset=21, limit=3).rows] == [21, 22, 23]
    with pytest.raises(ValueError, match="buffer size"):
        results.page(job, offset=21, limit=4)


def test_vectors_come_back_bit_by_bit() -> None:
    job = a_batch(total=2)
    stored = np.array([[1 / 3, -0.0, 1e-45, 3.4e38], [1e-7, 16777217, 0.1, -2.5]], dtype="<f4")
    chunk = a_chunk(job, number=0, first=0, texts=["a", "b"])
    finish(chunk)
    BatchChunk.objects.filter(pk=chunk.pk).update(vectors=stored.tobytes())
    lines = b"".join(results.lines(BatchJob.objects.get())).splitlines()
    printed = np.array([orjson.loads(line)["embedding"] for line in lines], dtype="<f4")
    assert printed.tobytes() == stored.tobytes()


def test_a_chunk_without_any_vector_shows_its_errors() -> None:
    job = a_batch(total=2, state=State.FAILED, failed=2)
    errors = {str(i): {"code": "upstream_failed", "detail": "refused"} for i in range(2)}
    a_chunk(job, number=0, first=0, texts=["a", "b"], state=BatchChunk.State.DONE, pending=[], errors=errors)
    assert [row["error"]["code"] for row in results.page(job, offset=0, limit=9).rows] == ["upstream_failed"] * 2


def test_a_stream_takes_no_memory_of_its_own_size() -> None:
    job = a_batch(total=16_000)
    vectors = np.random.default_rng(1).random((100, 384), dtype="f4").tobytes()
    BatchChunk.objects.bulk_create(
        BatchChunk(
            batch=job,
            number=n,
            first=100 * n,
            size=100,
            texts=["t"] * 100,
            available_at=job.available_at,
            state=BatchChunk.State.DONE,
            vectors=vectors,
            dimensions=384,
        )
        for n in range(160)
    )
    tracemalloc.start()
    try:
        sent = sum(map(len, results.lines(job)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * 2**20 < 60_000_000 < sent
