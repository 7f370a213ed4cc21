"""One exchange with one endpoint: texts out, vectors in; no retry, no breaker."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import numpy as np

from integrations import protocols
from integrations.errors import CitadelError, UpstreamMalformed, UpstreamTimeout
from integrations.patterns import Vectors
from integrations.protocols.base import Health, HttpResponse
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
    prefix: str,
    connect_timeout: float,
    timeout: float,
) -> Vectors:
    """Return (texts, dimensions) float32 within `timeout` seconds, in as many parts as the endpoint's max_batch needs.

    Raises UpstreamFailed, UpstreamMalformed, UpstreamTimeout, UpstreamBusy, TextRejected.
    """
    protocol = protocols.get(endpoint.protocol)
    size = endpoint.max_batch or protocol.default_max_batch
    whole = [prefix + text for text in texts] if prefix else texts
    ends = time.monotonic() + timeout

    async def one(part: Sequence[str]) -> Vectors:
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
        )
        response = await send(
            request, connect_timeout=min(connect_timeout, left), timeout=left, ca_file=endpoint.ca_file
        )
        return protocol.parse_response(
            response, expected=len(part), dimensions=model.dimensions, normalise=model.normalise
        )

    if len(whole) <= size:
        return await one(whole)
    return _joined(await _all([partial(one, whole[i : i + size]) for i in range(0, len(whole), size)]))


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


def _joined(parts: Sequence[Vectors]) -> Vectors:
    if len({part.shape[1] for part in parts}) > 1:
        raise UpstreamMalformed("The vectors of one call differ in length.")
    return np.concatenate(parts)


async def _all(parts: Sequence[Callable[[], Awaitable[Vectors]]]) -> list[Vectors]:
    """Make the calls, PARTS_AT_ONCE at a time; the first error ends the rest and is raised as it is."""
    places = asyncio.Semaphore(PARTS_AT_ONCE)

    async def placed(part: Callable[[], Awaitable[Vectors]]) -> Vectors:
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
