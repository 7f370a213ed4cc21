"""The exact cache: a text that a model has embedded before is not embedded again. Off unless a model says otherwise.

A vector is found by a digest of everything that decides it: model, embedding space, what its servers are called and
speak, prefix, cutting, normalising, length, the model's cache epoch (an operator's purge raises it), and the text. What
is stored carries the whole digest and is believed only if it is the one that was asked for, so that nobody gets another
text's vector, whatever a slot holds.

Redis has CACHE_MAX_TEXTS slots; a digest has one of them, and the later text takes it from the earlier one. So the
cache is bounded without anything that counts. In front of it each process remembers the last CACHE_LOCAL_TEXTS vectors.

Redis may cost a call CACHE_TIMEOUT (5 ms) and no more: an answer that is late, or does not come, is a miss, and Redis
is then left alone until it has answered a question that nobody waits for.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import numpy as np
import orjson
from django.conf import settings

from integrations import cache_store, recorder
from integrations.calls import CacheUse, Call
from integrations.patterns import EmbedCall, Embeddings, Vectors
from integrations.values import Model

Ask = Callable[[Sequence[str]], Awaitable[Embeddings]]

DIGEST: Final = 32
# What stands for the endpoint in the record of a call that no server answered.
ENDPOINT: Final = "cache"


@dataclass(frozen=True, slots=True)
class Entry:
    """A vector that is known: 1-dimensional float32, and who made it."""

    vector: Vectors
    endpoint: str
    upstream_model: str


class Front:
    """What one process remembers, the last used CACHE_LOCAL_TEXTS; for one thread."""

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, tuple[float, Entry]] = OrderedDict()

    def get(self, digest: bytes) -> Entry | None:
        """Return what is remembered, and not older than CACHE_TTL."""
        found = self._entries.get(digest)
        if found is None:
            return None
        if found[0] < time.monotonic():
            del self._entries[digest]
            return None
        self._entries.move_to_end(digest)
        return found[1]

    def put(self, digest: bytes, entry: Entry) -> None:
        """Remember it, and forget what was used longest ago."""
        self._entries[digest] = (time.monotonic() + settings.CACHE_TTL, entry)
        self._entries.move_to_end(digest)
        while len(self._entries) > settings.CACHE_LOCAL_TEXTS:
            self._entries.popitem(last=False)


_front = Front()


async def answer(call: EmbedCall, ask: Ask) -> Embeddings:
    """Answer a live call from the cache as far as it goes; `ask` is asked for the rest. Raises what `ask` raises."""
    started = time.perf_counter()
    texts = call.request.texts
    digests = _digests(call)
    found = await _known(digests)
    # The same text twice in one request is asked for once.
    missing = {digest: text for digest, text in zip(digests, texts, strict=True) if digest not in found}
    if missing:
        fresh = await ask(list(missing.values()))
        if found and fresh.vectors.shape[1] != len(next(iter(found.values())).vector):
            # The server has changed in a way that the configuration does not tell: what was kept fits no more.
            found, missing = {}, dict(zip(digests, texts, strict=True))
            fresh = await ask(list(missing.values()))
        _remember(call.model, list(missing), fresh)
        answered = _merged(found, digests, list(missing), fresh)
    else:
        answered = _from_cache(found, digests, (time.perf_counter() - started) * 1000)
        _record(call, answered)
    hits = sum(digest in found for digest in digests)
    slug, pattern = call.model.slug, call.assignment.pattern
    recorder.cache_use(CacheUse(at=datetime.now(UTC), model=slug, pattern=pattern, hits=hits, misses=len(texts) - hits))
    return answered


def forget() -> None:
    """Forget what this process remembers; what Redis holds stays."""
    global _front
    _front = Front()


async def close() -> None:
    """Close the running loop's connections to Redis."""
    await cache_store.close()


def space(model: Model, *, input_type: str, dimensions: int | None) -> bytes:
    """Return everything beside the text that decides a vector, as bytes that differ wherever it does."""
    servers = sorted({(endpoint.protocol, endpoint.upstream_model) for endpoint in model.endpoints})
    decides = [
        model.slug,
        model.cache_epoch,
        model.embedding_space,
        model.upstream_model,
        servers,
        model.prefix(input_type),
        model.truncate,
        model.normalise,
        model.dimensions,
        dimensions,
    ]
    return orjson.dumps(decides)


def _digests(call: EmbedCall) -> list[bytes]:
    request = call.request
    begun = hashlib.blake2b(digest_size=DIGEST)
    begun.update(space(call.model, input_type=request.input_type, dimensions=request.dimensions) + b"\0")
    digests = []
    for text in request.texts:
        own = begun.copy()
        own.update(text.encode())
        digests.append(own.digest())
    return digests


async def _known(digests: Sequence[bytes]) -> dict[bytes, Entry]:
    found = {digest: entry for digest in digests if (entry := _front.get(digest))}
    missing = [digest for digest in dict.fromkeys(digests) if digest not in found]
    if missing:
        for digest, stored in zip(missing, await cache_store.get([_slot(d) for d in missing]), strict=True):
            if stored and (entry := unpacked(digest, stored)):
                found[digest] = entry
                _front.put(digest, entry)
    # Of two lengths one is of before a change of the server.
    return found if len({len(entry.vector) for entry in found.values()}) < 2 else {}


def _from_cache(found: Mapping[bytes, Entry], digests: Sequence[bytes], ms: float) -> Embeddings:
    first = found[digests[0]]
    return Embeddings(
        vectors=np.stack([found[digest].vector for digest in digests]),
        endpoint=first.endpoint,
        upstream_model=first.upstream_model,
        attempts=(),
        duration_ms=ms,
        cached=True,
    )


def _merged(
    found: Mapping[bytes, Entry], digests: Sequence[bytes], missing: Sequence[bytes], fresh: Embeddings
) -> Embeddings:
    """Put each vector at its text's place. Those that were kept fit: their length is part of what the server gives."""
    rows = {digest: fresh.vectors[n] for n, digest in enumerate(missing)}
    return replace(fresh, vectors=np.stack([rows[d] if d in rows else found[d].vector for d in digests]))


def _remember(model: Model, digests: Sequence[bytes], fresh: Embeddings) -> None:
    # A fallback's vectors are another model's, and are nobody's to keep under this one's name.
    if not any((e.url, e.upstream_model) == (fresh.endpoint, fresh.upstream_model) for e in model.endpoints):
        return
    slots = {}
    for digest, vector in zip(digests, fresh.vectors, strict=True):
        # A copy: a row of a large answer would keep the whole of it.
        entry = Entry(vector.astype(np.float32, copy=True), fresh.endpoint, fresh.upstream_model)
        _front.put(digest, entry)
        slots[_slot(digest)] = packed(digest, entry)
    cache_store.put(slots, seconds=settings.CACHE_TTL)


def _slot(digest: bytes) -> str:
    return f"citadel:cache:{int.from_bytes(digest[:8]) % settings.CACHE_MAX_TEXTS}"


def packed(digest: bytes, entry: Entry) -> bytes:
    """Return what a slot holds: the digest, a length, who made it (JSON), the vector (little-endian float32)."""
    made_by = orjson.dumps([entry.endpoint, entry.upstream_model])
    return digest + len(made_by).to_bytes(4) + made_by + entry.vector.astype("<f4", copy=False).tobytes()


def unpacked(digest: bytes, stored: bytes) -> Entry | None:
    """Return what `packed` has made of a vector of this digest; None for anything else."""
    if stored[:DIGEST] != digest:
        return None
    size = int.from_bytes(stored[DIGEST : DIGEST + 4])
    begins = DIGEST + 4 + size
    vector = stored[begins:]
    if not vector or len(vector) % 4:
        return None
    endpoint, upstream_model = orjson.loads(stored[DIGEST + 4 : begins])
    return Entry(np.frombuffer(vector, "<f4").astype(np.float32, copy=False), endpoint, upstream_model)


def _record(call: EmbedCall, answered: Embeddings) -> None:
    """Record a call that reached no server; one that did is recorded by the gateway."""
    recorder.record(
        Call(
            started_at=call.received_at,
            request_id=call.request_id,
            client=call.client,
            model=call.model.slug,
            pattern=call.assignment.pattern,
            mode=call.mode.value,
            code="ok",
            duration_ms=answered.duration_ms,
            texts=len(answered.vectors),
            endpoint=ENDPOINT,
        )
    )
