"""From a file's jobs, which have ended, to the files that its client gets: vectors and errors, in the input's order.

The input is read again beside the stored vectors, a few chunks of each group at a time, so memory does not grow with
the file. Written twice, by whoever follows a process that died, the files of the first are never shown.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any, Final

import numpy as np
import orjson
from django.conf import settings

from batches import clock, file_lease, file_lines, file_store, results
from batches.file_lines import Group, Line, Wrong
from batches.file_store import Draft
from batches.models import BatchJob, FileBatch, StoredFile
from batches.results import Row
from integrations import errors
from integrations.api.problems import openai_body
from integrations.errors import CitadelError, FileNotFound
from integrations.openai_door.bodies import dumped, embedding_list

log = logging.getLogger(__name__)

_STATUS: Final = {kind.code: kind for kind in errors.tree()}
# What became of texts without an outcome, in OpenAI's words.
_WITHOUT_OUTCOME: Final = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "The batch was cancelled before this request had its turn."),
    "purged": ("batch_purged", "The results of this request are deleted."),
}


def give_out(batch: FileBatch) -> None:
    """Write the output of a claimed batch and end it. Raises Lost, StorageUnavailable."""
    jobs = {job.batch_id: job for job in BatchJob.objects.filter(file_batch=batch)}
    with ExitStack() as stack:
        vectors, failures = (stack.enter_context(Draft(name)) for name in ("output", "error"))
        try:
            if jobs:
                _write(batch, jobs, vectors, failures)
        except (FileNotFound, Wrong) as error:
            _give_up(batch, error)
            return
        written = [(field, _stored(batch, draft, field)) for field, draft in _files(vectors, failures) if draft.lines]
        with file_lease.settling(batch) as row:
            kept = row.output_expiry or settings.OPENAI_FILE_EXPIRY
            row.output_file_id = row.error_file_id = ""
            for field, stored in written:
                file_store.publish(stored, kept=kept)
                setattr(row, field, stored.file_id)
            row.completed, row.failed = vectors.lines, failures.lines
            _end(row, jobs.values())
    log.info("file batch ended", extra={"batch_id": batch.batch_id, "lines": vectors.lines + failures.lines})


def _files(vectors: Draft, failures: Draft) -> Sequence[tuple[str, Draft]]:
    return ("output_file_id", vectors), ("error_file_id", failures)


def _stored(batch: FileBatch, draft: Draft, field: str) -> StoredFile:
    kind = field.partition("_")[0]
    row = file_store.begin(
        client=batch.client,
        purpose=StoredFile.Purpose.BATCH_OUTPUT,
        filename=f"{batch.batch_id}_{kind}.jsonl",
    )
    draft.finish()
    file_store.put(row, draft)
    return row


def _end(row: FileBatch, jobs: Any) -> None:
    now = clock.now()
    if row.state == FileBatch.State.CANCELLING:
        row.state, row.cancelled_at = FileBatch.State.CANCELLED, now
    elif any(job.state == BatchJob.State.EXPIRED for job in jobs):
        row.state, row.expired_at = FileBatch.State.EXPIRED, now
    else:
        row.state, row.completed_at = FileBatch.State.COMPLETED, now
    row.save()


def _give_up(batch: FileBatch, error: CitadelError | Wrong) -> None:
    """The input is gone or another one: nobody knows any more whose the vectors are."""
    message = error.detail if isinstance(error, CitadelError) else error.message
    log.error("a batch's input file cannot be read again: %s", message, extra={"batch_id": batch.batch_id})
    wrong = Wrong(error.code, message, param="input_file_id")
    with file_lease.settling(batch) as row:
        row.errors = [wrong.document()]
        if row.state == FileBatch.State.CANCELLING:
            row.state, row.cancelled_at = FileBatch.State.CANCELLED, clock.now()
        else:
            row.state, row.failed_at = FileBatch.State.FAILED, clock.now()
        row.save()


def _write(batch: FileBatch, jobs: dict[str, BatchJob], vectors: Draft, failures: Draft) -> None:
    at_once = max(1, results.STREAM_CHUNKS // len(jobs))
    rows = {
        Group(each["model"], each["dimensions"], each["input_type"]): results.rows(jobs[each["job"]], chunks=at_once)
        for each in batch.groups
    }
    with file_store.opened(file_store.input_of(batch)) as stream:
        for line in file_lines.right(stream):
            found = _take(rows, line)
            failed = next((row for row in found if row["status"] != "completed"), None)
            if failed is None:
                vectors.write_line(_line(batch, line, response=_vectors(line, found)))
            else:
                failures.write_line(_failure(batch, line, failed))


def _take(rows: dict[Group, Iterator[Row]], line: Line) -> list[Row]:
    """What came of a line's texts. Raises Wrong when there are none: then the input is not what it was."""
    found = list(islice(rows.get(line.group, iter(())), len(line.texts)))
    if len(found) != len(line.texts):
        raise Wrong("input_changed", "The input file is not what it was when the batch began.", line=line.number)
    return found


def _vectors(line: Line, found: Sequence[Row]) -> dict[str, Any]:
    stacked = np.stack([row["embedding"] for row in found])
    return {"status_code": 200, "body": embedding_list(line.group.model, stacked, encode=line.base64)}


def _failure(batch: FileBatch, line: Line, row: Row) -> bytes:
    """A text's own error as the answer that POST /v1/embeddings gives for it; what never had its turn has none."""
    if row["status"] != "failed":
        code, message = _WITHOUT_OUTCOME.get(row["status"], ("not_processed", "This request was not processed."))
        return _line(batch, line, error={"code": code, "message": message})
    error = row["error"]
    kind = _STATUS.get(error["code"], CitadelError)
    status, _, body = openai_body(kind(error["detail"]))
    return _line(batch, line, response={"status_code": status, "body": orjson.loads(body)})


def _line(
    batch: FileBatch, line: Line, *, response: dict[str, Any] | None = None, error: dict[str, Any] | None = None
) -> bytes:
    request_id = f"{batch.batch_id}-{line.number}"
    answer = response and {"status_code": response["status_code"], "request_id": request_id, "body": response["body"]}
    document = {
        "id": request_id.replace("batch_", "batch_req_", 1),
        "custom_id": line.custom_id,
        "response": answer,
        "error": error,
    }
    return dumped(document) + b"\n"
