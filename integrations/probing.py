"""Asking every endpoint for its health and one real embedding, outside of calls, breakers and records."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from integrations import gateway, loop, snapshot
from integrations.gateway import Probe
from integrations.models import Endpoint as EndpointRow
from integrations.models import ModelConfig
from integrations.values import Endpoint, Model

# Enough to be quick, few enough that a server with several models is not asked by all of them at once.
AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What one endpoint answered; `endpoint` is None for a model that has none."""

    model: str
    endpoint: Endpoint | None
    probe: Probe | None

    @property
    def ok(self) -> bool:
        """Healthy, and a vector came back."""
        return self.probe is not None and self.probe.ok and self.probe.health.ok

    @property
    def error(self) -> str:
        """Why not, in a sentence; empty if all is well."""
        if self.probe is None:
            return "no enabled endpoint"
        return self.probe.error or ("" if self.probe.health.ok else self.probe.health.detail)


def probe_all(models: Iterable[Model]) -> Sequence[Probed]:
    """Ask the endpoints of these models, a few at once; the answers come in the models' order."""
    return loop.run(_probe_all(list(models)))


def probe_rows(endpoint: EndpointRow, model: ModelConfig) -> Probed:
    """Ask one endpoint as these rows have it, stored or not."""
    value = snapshot.compose(model, endpoints=[endpoint])
    return loop.run(_probe_all([value]))[0]


async def _probe_all(models: Sequence[Model]) -> Sequence[Probed]:
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(model: Model, endpoint: Endpoint | None) -> Probed:
        if endpoint is None:
            return Probed(model=model.slug, endpoint=None, probe=None)
        async with turn:
            return Probed(model=model.slug, endpoint=endpoint, probe=await gateway.probe(endpoint, model))

    return await asyncio.gather(*(one(m, e) for m in models for e in m.endpoints or (None,)))
