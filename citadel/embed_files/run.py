"""Send parts, a few ahead of the one that is waited for; write each as it ends, in order.

The door for NDJSON, not that for files: a part is one request without an upload before it, its Idempotency-Key makes
sending it again free of harm, and its results come in order while nothing need be stored as a file on the server.
"""

import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from citadel.embed_files import inputs
from citadel.embed_files.inputs import BrokenOff, Part, Unusable
from citadel.embed_files.output import Output
from citadel.embed_files.server import Document, Server

# Parts with the server at once: while one is read, the next are in work.
AHEAD: Final = 4
POLL: Final = 0.5
_ACTIVE: Final = ("queued", "processing")
# A batch that somebody has cancelled or deleted keeps its key; so many further ones are tried.
_DRAWS: Final = 5
# How often results are asked for that break off before their end.
_READS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to do."""

    files: Sequence[Path]
    column: str
    model: str
    input_type: str = ""
    priority: str = ""
    retries: int = 1
    part_texts: int = inputs.PART_TEXTS

    def query(self) -> Mapping[str, str]:
        """Return the fields of the request that its lines have no place for."""
        given = {"input_type": self.input_type, "priority": self.priority}
        return {name: value for name, value in given.items() if value}


@dataclass(slots=True, kw_only=True)
class _Sent:
    key: str
    batch_id: str
    places: Sequence[tuple[str, int]]  # file and row of each text
    done: int = 0
    retries: int = 0


def run(job: Job, server: Server, output: Output, *, quiet: bool = False) -> int:
    """Embed every text and write every line; return how many texts have an error instead. Raises Unusable."""
    total = sum(1 for _ in inputs.rows(job.files, job.column))
    if not total:
        raise Unusable("There is no text in these files.")
    with tqdm(total=total, unit=" texts", disable=quiet, smoothing=0.1) as bar:
        _Run(job, server, output, bar).all_parts()
    return output.finish()


class _Run:
    def __init__(self, job: Job, server: Server, output: Output, bar: "tqdm[Any]") -> None:
        self._job, self._server, self._output, self._bar = job, server, output, bar
        self._sent: deque[_Sent] = deque()
        self._written = 0

    def all_parts(self) -> None:
        for part in inputs.parts(self._job.files, self._job.column, size=self._job.part_texts):
            key = part.key(self._job.model, self._job.input_type, self._job.priority)
            if not self._sent and self._output.passed(key):
                self._written += len(part.rows)
                self._bar.initial = self._bar.n = self._written  # not this run's work: no part of its rate
                continue
            self._sent.append(self._submit(part, key))
            if len(self._sent) == AHEAD:
                self._finish_first()
        while self._sent:
            self._finish_first()

    def _submit(self, part: Part, key: str) -> _Sent:
        for draw in range(_DRAWS):
            try:
                batch_id = self._server.submit(
                    self._job.model, part.body(), key=f"{key}-{draw}" if draw else key, query=self._job.query()
                )
            except Unusable as error:
                raise Unusable(_with_rows(str(error), part)) from error
            found = self._server.batch(batch_id)
            if found["status"] != "cancelled" and not found["purged_at"]:
                places = [(row.file, row.number) for row in part.rows]
                return _Sent(key=key, batch_id=batch_id, places=places)
        raise Unusable("The batches of these texts are cancelled again and again.")

    def _finish_first(self) -> None:
        sent = self._sent.popleft()
        while not self._has_ended(sent):
            self._show(sent)
            time.sleep(POLL)
        self._write(sent)
        self._written += len(sent.places)
        self._show()

    def _write(self, sent: _Sent) -> None:
        for left in reversed(range(_READS)):
            try:
                self._output.write(sent.key, self._lines(sent))
                break
            except BrokenOff:
                if not left:
                    raise
                time.sleep(POLL)

    def _has_ended(self, sent: _Sent) -> bool:
        found = self._server.batch(sent.batch_id)
        sent.done = found["counts"]["completed"] + found["counts"]["failed"]
        if found["status"] in _ACTIVE:
            return False
        if sent.retries < self._job.retries and _may_retry(found):
            sent.retries += 1
            self._server.retry(sent.batch_id)
            return False
        return True

    def _show(self, *waited_for: _Sent) -> None:
        """Move the bar: what is written, and what the server says of the parts that are with it."""
        for sent in self._sent:
            counts = self._server.batch(sent.batch_id)["counts"]
            sent.done = counts["completed"] + counts["failed"]
        done = self._written + sum(sent.done for sent in (*waited_for, *self._sent))
        self._bar.update(max(0, done - self._bar.n))

    def _lines(self, sent: _Sent) -> Iterator[dict[str, Any]]:
        count = 0
        for (file, number), result in zip(sent.places, self._server.results(sent.batch_id), strict=False):
            count += 1
            line: dict[str, Any] = {"file": file, "row": number}
            if "embedding" in result:
                yield line | {"embedding": result["embedding"]}
            else:
                error = result.get("error") or {"code": result["status"], "detail": "It was not embedded."}
                yield line | {"error": error}
        if count != len(sent.places):
            raise BrokenOff(f"{sent.batch_id} has {count} results for {len(sent.places)} texts.")


def _may_retry(found: Document) -> bool:
    counts = found["counts"]
    ended = found["status"] in ("completed", "failed", "expired")
    return ended and not found["purged_at"] and counts["completed"] < counts["total"]


def _with_rows(words: str, part: Part) -> str:
    """The server's words, its “lines.17” as the file's own row."""

    def place(match: "re.Match[str]") -> str:
        row = part.rows[int(match[1]) - 1]
        return f"{row.file}, row {row.number}"

    return re.sub(r"lines\.([0-9]+)", place, words)
