"""From a file's lines to batches in the queue: all of them in one transaction, or a batch that has failed.

The file is read once to find out what is wrong with it, and once more for each of its groups, so that no part of it
need be kept in memory. Nothing is queued of a file with a wrong line: its client mends it and sends it again.
"""

import logging
import time
from datetime import UTC, datetime

from batches import bounds, clock, file_lease, file_lines, file_store, submission
from batches.file_lines import Group, Scan, Wrong
from batches.models import BatchJob, FileBatch, StoredFile
from integrations import access, limits, snapshot
from integrations.access import Client
from integrations.errors import (
    CitadelError,
    FileNotFound,
    InvalidRequest,
    NotPermitted,
    PatternConflict,
    QueueFull,
    RateLimited,
)
from integrations.openai_door import requests
from integrations.patterns import EmbedCall, EmbedRequest, Mode

log = logging.getLogger(__name__)


class NotYet(Exception):
    """The queue has no room, or the key has used up its limit: the file waits."""

    def __init__(self, error: CitadelError) -> None:
        super().__init__(error.detail)
        self.seconds = error.retry_after or 1.0


def take_in(batch: FileBatch) -> None:
    """Read a claimed file that is validating, and queue its texts. Raises NotYet, and Lost when it is not ours."""
    try:
        stored = file_store.input_of(batch)
        calls, scan = _read(batch, stored)
        if scan.errors:
            fail(batch, scan.errors)
        else:
            _admit(batch, calls, scan)
            _queue(batch, stored, calls, scan)
    except FileNotFound as error:
        fail(batch, [Wrong(error.code, error.detail, param="input_file_id")])
    except Wrong as wrong:
        fail(batch, [wrong])


def _read(batch: FileBatch, stored: StoredFile) -> tuple[dict[Group, EmbedCall], Scan]:
    calls: dict[Group, EmbedCall] = {}
    client = _client(batch)

    def judge(group: Group) -> None:
        try:
            calls[group] = _call(batch, client, group)
        except CitadelError as error:
            raise Wrong(error.code, _words(error), param=_param(error)) from None

    with file_store.opened(stored) as stream:
        return calls, file_lines.scan(stream, judge)


def _call(batch: FileBatch, client: Client, group: Group) -> EmbedCall:
    """What the queue must know of a group's texts. Raises as POST …/embed does."""
    access.require_model(client, group.model)
    model = snapshot.current().serving(group.model, live=False)
    assignment = model.queue_assignment
    if assignment is None:
        raise PatternConflict(f"{group.model} answers live only.")
    request = EmbedRequest(texts=(), single=False, batch=True, input_type=group.input_type, dimensions=group.dimensions)
    return EmbedCall(
        request_id=batch.request_id,
        client=batch.client,
        model=model,
        assignment=assignment,
        mode=Mode.QUEUED,
        request=requests.fitting(request, model),
        received_at=datetime.now(UTC),
    )


def _client(batch: FileBatch) -> Client:
    """Whoever made the batch, as the configuration knows them now. Raises Wrong when the key is gone."""
    if not batch.key_prefix:
        return Client(name=batch.client, scopes=frozenset())
    key = next((key for key in snapshot.current().keys.values() if key.prefix == batch.key_prefix), None)
    if key is None:
        raise Wrong(NotPermitted.code, "The API key of this batch is revoked.")
    return Client(name=key.client, scopes=key.scopes, key=key)


def _admit(batch: FileBatch, calls: dict[Group, EmbedCall], scan: Scan) -> None:
    """See that the queue has room, then count the texts. Raises NotYet, and Wrong for what will never be let in."""
    models = {call.model.slug: call.model for call in calls.values()}
    for slug, texts in scan.by_model().items():
        most = models[slug].max_waiting_texts
        if texts > most:
            raise Wrong(QueueFull.code, f"{slug} takes at most {most} waiting texts.")
        try:
            bounds.check_room(slug, limit=most, adding=texts)
        except QueueFull as error:
            raise NotYet(error) from error
    try:
        limits.admit_now(_client(batch), scan.texts, requests=0)
    except RateLimited as error:
        if error.retry_after is None:  # more than the key may ever have in one window
            raise Wrong(error.code, error.detail) from None
        raise NotYet(error) from error


def _queue(batch: FileBatch, stored: StoredFile, calls: dict[Group, EmbedCall], scan: Scan) -> None:
    began = time.perf_counter()
    try:
        with file_lease.settling(batch) as row:
            jobs = {group: _insert(row, stored, group, call) for group, call in calls.items()}
            # Last, and in one order for all: each takes its model's lock until the commit.
            for group in sorted(jobs, key=lambda group: (group.model, jobs[group].pk)):
                submission.settle(jobs[group], calls[group])
            row.state, row.in_progress_at = FileBatch.State.IN_PROGRESS, clock.now()
            row.total, row.texts = scan.lines, scan.texts
            row.groups = [{**group._asdict(), "job": jobs[group].batch_id} for group in scan.groups]
            row.save()
    except QueueFull as error:
        raise NotYet(error) from error
    for group, job in jobs.items():
        submission.record(calls[group], job, code="ok", seconds=time.perf_counter() - began)
    log.info("file batch queued", extra={"batch_id": batch.batch_id, "lines": scan.lines, "groups": len(jobs)})


def _insert(batch: FileBatch, stored: StoredFile, group: Group, call: EmbedCall) -> BatchJob:
    with file_store.opened(stored) as stream:
        return submission.insert_texts(call, file_lines.texts_of(stream, group), parent=batch)


def fail(batch: FileBatch, errors: list[Wrong]) -> None:
    """End a claimed batch with what is wrong with its file. Raises Lost."""
    with file_lease.settling(batch) as row:
        row.state, row.failed_at = FileBatch.State.FAILED, clock.now()
        row.errors = [wrong.document() for wrong in errors]
        row.save()
    log.info("file batch failed", extra={"batch_id": batch.batch_id, "code": errors[0].code})


def _words(error: CitadelError) -> str:
    return next(iter(error.errors.values()))[0] if error.errors else error.detail


def _param(error: CitadelError) -> str | None:
    if isinstance(error, InvalidRequest) and error.errors:
        return f"body.{next(iter(error.errors))}"
    return "body.model"
