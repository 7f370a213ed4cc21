"""Clients' files: their bytes in Django's storage "client_files", what is known of them as rows.

A row comes before its bytes and goes after them, so whoever dies in between leaves nothing that nobody knows of:
`sweep` removes what was never finished and what was deleted.
"""

import contextlib
import logging
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.files.base import File
from django.core.files.storage import Storage, storages
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from batches import clock
from batches.models import FileBatch, StoredFile
from integrations.errors import CitadelError, FileInUse, FileNotFound, StorageUnavailable

log = logging.getLogger(__name__)

STORAGE: Final = "client_files"
BLOCK: Final = 256 * 2**10
# No upload takes so long: what is unfinished then belongs to a process that died. In seconds.
ABANDONED: Final = 86_400.0
SWEPT_AT_ONCE: Final = 50
RETRY_AFTER: Final = 5.0


def storage() -> Storage:
    """Return where the bytes are."""
    return storages[STORAGE]


def scratch() -> Path:
    """Return the private folder for files on their way; what dead processes of this host have left there goes."""
    folder = Path(settings.OPENAI_FILES_DIR) / "unfinished"
    # One by one: `parents` would make those above with the mode of the process.
    for each in (folder.parent, folder):
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in folder.iterdir():
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < time.time() - ABANDONED:
                left.unlink()
    return folder


class Draft(UploadedFile):  # type: ignore[type-arg]  # Django's own class takes none
    """A file that is being written on this host's disk; a storage on the same disk only moves it."""

    def __init__(self, name: str) -> None:
        self._disk = tempfile.NamedTemporaryFile(dir=scratch())  # noqa: SIM115 # handed around open, see close()
        super().__init__(self._disk, name, "application/jsonl", 0)
        self.lines = 0

    def temporary_file_path(self) -> str:
        """Return where it is, for a storage that can move it."""
        return self._disk.name

    def write_line(self, line: bytes) -> None:
        """Append a line that ends itself."""
        self.write(line)
        self.lines += 1

    def finish(self) -> None:
        """Have all of it on the disk, its size known."""
        self.flush()
        self.size = self.tell()
        self.seek(0)

    def close(self) -> None:
        """Remove it, unless a storage has moved it."""
        with contextlib.suppress(FileNotFoundError):
            self._disk.close()


class IntoDraft(FileUploadHandler):
    """Writes what is uploaded into a Draft from its first byte on."""

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        """Begin a file."""
        super().new_file(*args, **kwargs)
        self.draft = Draft(self.file_name or "file")

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        """Write a piece."""
        self.draft.write(raw_data)

    def file_complete(self, file_size: int) -> Draft:
        """Return it."""
        self.draft.finish()
        return self.draft

    def upload_interrupted(self) -> None:
        """Remove it."""
        if hasattr(self, "draft"):
            self.draft.close()


def begin(*, client: str, purpose: StoredFile.Purpose, filename: str) -> StoredFile:
    """Note a file that is about to be written."""
    file_id = f"file-{secrets.token_hex(12)}"
    return StoredFile.objects.create(
        file_id=file_id,
        client=client,
        purpose=purpose,
        filename=filename,
        stored_as=f"{file_id[5:7]}/{file_id}",
        created_at=clock.now(),
    )


def put(row: StoredFile, content: "File[bytes]") -> None:
    """Hand the bytes to the storage; nobody sees them yet. Raises StorageUnavailable."""
    row.size = content.size
    with _storage_errors():
        row.stored_as = storage().save(row.stored_as, content)


def publish(row: StoredFile, *, kept: float) -> None:
    """Show the file to its client, for `kept` seconds from now. Raises StorageUnavailable when it took too long."""
    row.state, row.expires_at = StoredFile.State.READY, clock.now() + timedelta(seconds=kept)
    written = StoredFile.objects.filter(pk=row.pk, state=StoredFile.State.WRITING)
    if not written.update(state=row.state, size=row.size, stored_as=row.stored_as, expires_at=row.expires_at):
        raise StorageUnavailable("It took too long to write this file.")


def add(content: "File[bytes]", *, client: str, filename: str, kept: float) -> StoredFile:
    """Store what a client has uploaded. Raises StorageUnavailable."""
    row = begin(client=client, purpose=StoredFile.Purpose.BATCH, filename=filename)
    try:
        put(row, content)
    except CitadelError:
        drop(row)
        raise
    publish(row, kept=kept)
    return row


def drop(row: StoredFile) -> None:
    """Show the file to nobody any more; `sweep` removes it."""
    StoredFile.objects.filter(pk=row.pk).update(state=StoredFile.State.DELETED)


def visible(client: str) -> "QuerySet[StoredFile]":
    """Return the files that this client may see."""
    return StoredFile.objects.filter(client=client, state=StoredFile.State.READY, expires_at__gt=clock.now())


def find(client: str, file_id: str) -> StoredFile:
    """Return a client's file. Raises FileNotFound."""
    row = visible(client).filter(file_id=file_id).first()
    if row is None:
        raise FileNotFound
    return row


def input_of(batch: FileBatch) -> StoredFile:
    """Return the file of a batch, whether or not it is due to be deleted. Raises FileNotFound."""
    row = StoredFile.objects.filter(file_id=batch.input_file_id, state=StoredFile.State.READY).first()
    if row is None:
        raise FileNotFound("The input file is gone.")
    return row


def delete(client: str, file_id: str) -> None:
    """Delete a client's file. Raises FileNotFound, and FileInUse while a batch reads it."""
    with transaction.atomic():
        # Held against a batch that is just made of this file.
        row = visible(client).select_for_update().filter(file_id=file_id).first()
        if row is None:
            raise FileNotFound
        reader = _readers(row.file_id).first()
        if reader is not None:
            raise FileInUse(f"{reader.batch_id} is {reader.state} and reads this file.")
        drop(row)
    _remove(row)


def _readers(file_id: Any) -> "QuerySet[FileBatch]":
    return FileBatch.objects.filter(input_file_id=file_id, state__in=FileBatch.ACTIVE)


def expire_due(now: datetime) -> int:
    """Take from sight the files whose time is over, but those that a batch reads."""
    due = StoredFile.objects.filter(state=StoredFile.State.READY, expires_at__lte=now)
    return due.exclude(Exists(_readers(OuterRef("file_id")))).update(state=StoredFile.State.DELETED)


def sweep(now: datetime) -> bool:
    """Remove some of the files that were deleted or never finished; return whether there may be more."""
    abandoned = Q(state=StoredFile.State.WRITING, created_at__lt=now - timedelta(seconds=ABANDONED))
    rows = list(
        StoredFile.objects.filter(Q(state=StoredFile.State.DELETED) | abandoned).order_by("created_at")[:SWEPT_AT_ONCE]
    )
    return sum(_remove(row) for row in rows) == SWEPT_AT_ONCE


def _remove(row: StoredFile) -> bool:
    try:
        storage().delete(row.stored_as)
    except Exception:
        log.exception("file not removed from the storage", extra={"file_id": row.file_id})
        return False
    row.delete()
    return True


def opened(row: StoredFile) -> "File[bytes]":
    """Open a file, to be read from the beginning and closed. Raises FileNotFound and StorageUnavailable."""
    with _storage_errors():
        return storage().open(row.stored_as, "rb")


def blocks(content: "File[bytes]") -> Iterator[bytes]:
    """Yield the bytes of an open file, and close it."""
    with content:
        while block := content.read(BLOCK):
            yield block


async def ablocks(content: "File[bytes]") -> AsyncIterator[bytes]:
    """`blocks` for an ASGI server: Django would collect a synchronous iterator whole before the first byte went out."""
    try:
        while block := await sync_to_async(content.read)(BLOCK):
            yield block
    finally:
        await sync_to_async(content.close)()


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFound("The storage does not have this file any more.") from error
    except Exception as error:  # each storage has its own
        log.exception("the storage of clients' files failed")
        raise StorageUnavailable(retry_after=RETRY_AFTER) from error
