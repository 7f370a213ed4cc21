"""One exchange with one endpoint: texts out, vectors in; no retry, no breaker."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import numpy as np

from integrations import protocols
from integrations.errors import CitadelError, InvalidRequest, UpstreamFailed, UpstreamMalformed, UpstreamTimeout
from integrations.protocols.base import Answer, Health, HttpResponse, Protocol
from integrations.values import Endpoint, Model

Send = Callable[..., Awaitable[HttpResponse]]
# Parts of one call under way at once, when the call has more texts than the endpoint takes.
PARTS_AT_ONCE = 4
HEALTH_TIMEOUT = 5.0


async def embed(
    send: Send,
    endpoint: Endpoint,
    *,
    model: Model,
    texts: Sequence[str],
    connect_timeout: float,
    timeout: float,
    dimensions: int | None = None,
    size: int | None = None,
    at_once: int = PARTS_AT_ONCE,
) -> Answer:
    """Return (texts, dimensions) float32 within `timeout` seconds, in as many parts as the endpoint's max_batch needs.

    dimensions: ask for vectors of this length, shorter than the model's own. size: texts in one part, where that is
    less than the endpoint takes; at_once: parts under way.
    Raises UpstreamFailed, UpstreamMalformed, UpstreamTimeout, UpstreamBusy, TextRejected, and InvalidRequest when the
    server does not give vectors of the length that was asked for.
    """
    protocol = protocols.get(endpoint.protocol)
    size = min(size or most(endpoint), most(endpoint))
    ends = time.monotonic() + timeout

    async def one(part: Sequence[str]) -> Answer:
        left = ends - time.monotonic()
        if left <= 0:
            raise UpstreamTimeout
        request = protocol.build_request(
            endpoint.url,
            model=endpoint.upstream_model,
            texts=part,
            truncate=model.truncate == "end",
            normalise=model.normalise,
            headers=credentials(endpoint),
            dimensions=dimensions,
        )
        response = await send(
            request, connect_timeout=min(connect_timeout, left), timeout=left, ca_file=endpoint.ca_file
        )
        if dimensions is not None:
            return _shortened(protocol, response, expected=len(part), dimensions=dimensions, normalise=model.normalise)
        return protocol.parse_answer(
            response, expected=len(part), dimensions=model.dimensions, normalise=model.normalise
        )

    if len(texts) <= size:
        return await one(texts)
    return _joined(await _all(at_once, [partial(one, texts[i : i + size]) for i in range(0, len(texts), size)]))


def most(endpoint: Endpoint) -> int:
    """Return how many texts the endpoint takes in one call."""
    return endpoint.max_batch or protocols.get(endpoint.protocol).default_max_batch


async def health(send: Send, endpoint: Endpoint) -> Health:
    """Ask the server how it is; an answer that does not come is an answer."""
    protocol = protocols.get(endpoint.protocol)
    answer = Health(ok=False, detail="not asked")
    for request in protocol.health_requests(endpoint.url, headers=credentials(endpoint)):
        try:
            response = await send(
                request, connect_timeout=HEALTH_TIMEOUT, timeout=HEALTH_TIMEOUT, ca_file=endpoint.ca_file
            )
        except CitadelError as error:
            return Health(ok=False, detail=error.detail)
        answer = protocol.parse_health(response)
        if response.status != 404:
            break
    return answer


def credentials(endpoint: Endpoint) -> Mapping[str, str]:
    """Return the endpoint's own header: its value is read anew from the environment each time, and kept nowhere."""
    value = os.environ.get(endpoint.auth_env, "") if endpoint.auth_env else ""
    return {endpoint.auth_header or "Authorization": value} if value else {}


def _shortened(
    protocol: Protocol, response: HttpResponse, *, expected: int, dimensions: int, normalise: bool
) -> Answer:
    """Understand the answer to a call for shorter vectors.

    Many servers ignore the word, others refuse it: that is the request's fault, and no client shall open a breaker by
    asking for it.
    """
    try:
        answer = protocol.parse_answer(response, expected=expected, dimensions=None, normalise=normalise)
    except UpstreamFailed:
        if response.status not in (400, 422):
            raise
        raise _cannot_shorten(dimensions) from None
    if answer.vectors.shape[1] != dimensions:
        raise _cannot_shorten(dimensions)
    return answer


def _cannot_shorten(dimensions: int) -> InvalidRequest:
    return InvalidRequest(errors={"dimensions": [f"The model server does not give vectors of {dimensions} numbers."]})


def _joined(parts: Sequence[Answer]) -> Answer:
    if len({part.vectors.shape[1] for part in parts}) > 1:
        raise UpstreamMalformed("The vectors of one call differ in length.")
    return Answer(
        vectors=np.concatenate([part.vectors for part in parts]),
        prompt_tokens=sum(part.prompt_tokens for part in parts),
    )


async def _all(at_once: int, parts: Sequence[Callable[[], Awaitable[Answer]]]) -> list[Answer]:
    """Make the calls, `at_once` at a time; the first error ends the rest and is raised as it is."""
    places = asyncio.Semaphore(at_once)

    async def placed(part: Callable[[], Awaitable[Answer]]) -> Answer:
        async with places:
            return await part()

    tasks = [asyncio.ensure_future(placed(part)) for part in parts]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
