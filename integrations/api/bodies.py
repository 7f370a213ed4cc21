"""The bodies that /embed answers with, field by field in the contract's order; the door and EmbedView share them."""

from datetime import timedelta
from typing import Any, Final

import numpy as np
import orjson

from integrations.patterns import Accepted, EmbedCall, Embeddings, Pattern

# Times as 2025-07-15T14:30:00Z, vectors straight from numpy.
WIRE: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z | orjson.OPT_OMIT_MICROSECONDS


def dump(value: object) -> bytes:
    """Return `value` as JSON for the wire. Datetimes must be aware and in UTC, arrays contiguous."""
    return orjson.dumps(value, option=WIRE)


def live_body(call: EmbedCall, embeddings: Embeddings) -> bytes:
    """Return the JSON of a live answer: "embedding" for a request that came as `text`, else "embeddings"."""
    single = call.request.single
    vectors = np.ascontiguousarray(embeddings.vectors)
    body: dict[str, Any] = {
        "embedding" if single else "embeddings": vectors[0] if single else vectors,
        "model": call.model.slug,
        "pattern": call.assignment.pattern,
    }
    if call.assignment.pattern == Pattern.HYBRID:
        body["processing_mode"] = "real_time"
    body["processing_time_ms"] = round(embeddings.duration_ms, 1)
    body["endpoint"] = embeddings.endpoint
    body["metadata"] = _live_metadata(call, embeddings)
    return dump(body)


def _live_metadata(call: EmbedCall, embeddings: Embeddings) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "pattern_type": call.assignment.pattern,
        # Not given: what happened to the request says what it was.
        "urgent": True if call.request.urgent is None else call.request.urgent,
        "processed_at": call.received_at + timedelta(milliseconds=embeddings.duration_ms),
        "request_id": call.request_id,
        "attempts": len(embeddings.attempts),
        "dimensions": embeddings.vectors.shape[1],
        "upstream_model": embeddings.upstream_model,
        "cached": embeddings.cached,
    }
    if embeddings.failover_from:
        metadata["failover_from"] = embeddings.failover_from
    return metadata


def queued_body(call: EmbedCall, accepted: Accepted) -> bytes:
    """Return the JSON of a queued answer, as the spec has it for hybrid or for bulk_only."""
    return dump(_hybrid_queued(call, accepted) if call.assignment.pattern == Pattern.HYBRID else _bulk(call, accepted))


def _hybrid_queued(call: EmbedCall, accepted: Accepted) -> dict[str, Any]:
    return {
        "status": "queued",
        "model": call.model.slug,
        "pattern": call.assignment.pattern,
        "processing_mode": "bulk",
        "batch_id": accepted.batch_id,
        "estimated_completion": accepted.estimated_completion,
        "queue_position": accepted.queue_position,
        "items_count": accepted.items_count,
        "metadata": {
            "pattern_type": call.assignment.pattern,
            "urgent": bool(call.request.urgent),
            "queued_at": accepted.queued_at,
            "request_id": call.request_id,
        },
    }


def _bulk(call: EmbedCall, accepted: Accepted) -> dict[str, Any]:
    return {
        "status": "queued",
        "model": call.model.slug,
        "pattern": call.assignment.pattern,
        "batch_id": accepted.batch_id,
        "items_count": accepted.items_count,
        "estimated_completion": accepted.estimated_completion,
        "queue_position": accepted.queue_position,
        "metadata": {
            "pattern_type": call.assignment.pattern,
            "batch_size": accepted.items_count,
            "queued_at": accepted.queued_at,
            "request_id": call.request_id,
        },
    }
