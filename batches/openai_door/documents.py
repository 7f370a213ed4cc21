"""Files and batches in OpenAI's shapes."""

from datetime import datetime
from typing import Any

from batches import file_batches
from batches.models import FileBatch, StoredFile

Document = dict[str, Any]

_TIMES = (
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)


def file(row: StoredFile) -> Document:
    """Return a file."""
    return {
        "id": row.file_id,
        "object": "file",
        "bytes": row.size,
        "created_at": _seconds(row.created_at),
        "expires_at": _seconds(row.expires_at),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
    }


def deleted(file_id: str) -> Document:
    """Return what DELETE answers."""
    return {"id": file_id, "object": "file", "deleted": True}


def batch(row: FileBatch) -> Document:
    """Return a batch; what OpenAI has no word for is in `citadel`."""
    models = {group["model"] for group in row.groups}
    return {
        "id": row.batch_id,
        "object": "batch",
        "endpoint": row.endpoint,
        "model": models.pop() if len(models) == 1 else None,
        "errors": {"object": "list", "data": row.errors} if row.errors else None,
        "input_file_id": row.input_file_id,
        "completion_window": row.completion_window,
        "status": row.state,
        "output_file_id": row.output_file_id or None,
        "error_file_id": row.error_file_id or None,
        "created_at": _seconds(row.created_at),
        **{name: _seconds(getattr(row, name)) for name in _TIMES},
        "request_counts": file_batches.counts(row),
        "metadata": row.metadata,
        "citadel": {
            "batches": [group["job"] for group in row.groups],
            "texts": row.texts,
            "waits_for": row.waits_for or None,
        },
    }


def page(rows: list[Document], *, more: bool) -> Document:
    """Return a page of a list."""
    return {
        "object": "list",
        "data": rows,
        "first_id": rows[0]["id"] if rows else None,
        "last_id": rows[-1]["id"] if rows else None,
        "has_more": more,
    }


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
