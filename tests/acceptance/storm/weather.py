"""Which kill comes when, and one whole storm."""

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from integrations.models import Endpoint, ModelConfig
from tests import ledger
from tests.acceptance.storm import database, verdict
from tests.acceptance.storm.clients import Submitter, plan
from tests.acceptance.storm.crew import SERVICES, WORKERS, Crew
from tests.acceptance.storm.verdict import Facts, Kill
from tests.load import Load
from tests.made_api import serve
from tests.processes import Stack, stack_on
from tests.running import answers, wait_until
from tests.servers import Servers
from tests.upstreams import Upstream

CHUNK = 50
# A call lasts so long, in seconds: three workers that nobody kills would do about twice as much as is submitted.
DELAY = 0.75
TEXTS_A_MINUTE = 20_000
# Two kills are so far apart, in seconds.
GAP = (1.5, 4.0)
# One round of kills, in random order: a worker four times, all workers at once, and each of the others.
ROUND = (*("worker",) * 4, "workers", "web", "scheduler", *SERVICES)
# What is submitted in the storm's last part could not be hit any more.
SUBMITTING = 0.85
PEACE = 120.0
# A kill of workers waits at most so long, in seconds, until some have work.
PATIENCE = 10.0
SCOPES = {"CITADEL_ANONYMOUS_SCOPES": "embed,batch,read"}


def kinds(rng: random.Random) -> Iterator[str]:
    """What is killed next, for ever: round after round."""
    while True:
        yield from rng.sample(ROUND, len(ROUND))


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """What one storm is made of."""

    crew: Crew
    rng: random.Random
    upstream: Upstream  # of queued work alone: its calls in flight are the workers'
    database_url: str

    def rage(self, seconds: float) -> list[Kill]:
        """Kill for so long, and start again what was killed; return the kills.

        On a slow machine workers take long to come back, and few of their kills meet a running chunk: then some more of
        these follow, for as long again at the most.
        """
        ends, kills, order = time.monotonic() + seconds, list[Kill](), kinds(self.rng)
        while (pause := time.monotonic() + self.rng.uniform(*GAP)) < ends + seconds:
            late = pause > ends
            if late and sum(kill.met for kill in kills) >= verdict.FEWEST_HITS + 2:
                break
            self._tend_until(pause)
            kills += self._strike("worker" if late else next(order))
        return kills

    def _tend_until(self, moment: float) -> None:
        while time.monotonic() < moment:
            self.crew.tend()
            time.sleep(0.01)

    def _strike(self, kind: str) -> list[Kill]:
        if kind in SERVICES:
            return [Kill(kind=kind, at=time.time())] if self.crew.kill_service(kind) else []
        roles, busy = [kind], list[str]()
        if kind.startswith("worker"):
            busy = self._await_busy(all_of_them=kind == "workers")
            roles = list(WORKERS) if kind == "workers" else [self.rng.choice(busy or WORKERS)]
        names, at = {role: self.crew.kill(role) for role in roles}, time.time()
        return [
            Kill(kind=kind, at=at, owner=name if role in WORKERS else "", met=role in busy)
            for role, name in names.items()
            if name
        ]

    def _await_busy(self, *, all_of_them: bool) -> list[str]:
        """Wait for a moment at which the model server is asked, and return which workers hold chunks then.

        At any other moment few kills would hit a running chunk: on a slow machine, starting takes longer than working.
        """
        began = time.monotonic()
        while (waited := time.monotonic() - began) < PATIENCE:
            busy = self._busy() if self.upstream.in_flight else []
            if len(busy) == len(WORKERS) or (busy and (not all_of_them or waited > PATIENCE / 2)):
                return busy
            self._tend_until(time.monotonic() + 0.05)
        return []

    def _busy(self) -> list[str]:
        if self.crew.services["postgres"].fell is not None:
            return []
        owners = database.owners(self.database_url)
        return [role for role in WORKERS if (process := self.crew.members[role].process) and process.name in owners]


def run(*, minutes: float, seed: int, folder: Path) -> Facts:
    """Let it storm, on servers of its own; the processes' logs go to `folder`."""
    rng, seconds = random.Random(seed), minutes * 60
    work = plan(rng, round(TEXTS_A_MINUTE * minutes), seconds=SUBMITTING * seconds)
    with ExitStack() as stays:
        servers = stays.enter_context(Servers())
        stack = stays.enter_context(stack_on(servers, folder))
        upstream, live_upstream = stays.enter_context(Upstream(delay=DELAY)), stays.enter_context(Upstream())
        crew = _prepare(stack, servers, rng, upstream=upstream, live=live_upstream)
        began = time.time()
        live = stays.enter_context(Load(f"{crew.url}/api/v1/external/live/embed", clients=2, pause=0.05))
        submitter = stays.enter_context(Submitter(crew.url, work))
        kills = Storm(crew=crew, rng=rng, upstream=upstream, database_url=stack.database_url).rage(seconds)
        crew.settle()
        calm = time.monotonic() + PEACE
        while time.monotonic() < calm and not (submitter.wait(0.2) and database.all_ended(stack.database_url)):
            crew.tend()
        with database.connected(stack.database_url) as cursor:
            moves = ledger.read(cursor)
        return Facts(
            seed=seed,
            seconds=time.time() - began,
            work=work,
            accepted=submitter.accepted,
            submissions=submitter.outcomes,
            live=live.outcomes,
            kills=kills,
            outages=crew.outages,
            ended=crew.ended,
            asked=upstream.texts,
            moves=moves,
            stored=verdict.stored(),
        )


def _prepare(stack: Stack, servers: Servers, rng: random.Random, *, upstream: Upstream, live: Upstream) -> Crew:
    serve("m", "bulk_only", upstream, batch_size=CHUNK, processing_interval=0.5, attempt_timeout=30.0, deadline=30.0)
    # Else a worker would find out that this server takes any number of calls, and have the whole queue in its hands.
    Endpoint.objects.update(max_in_flight=settings.BULK_CALLS_IN_FLIGHT)
    serve("live", "real_time", live)
    assert ModelConfig.objects.count() == 2
    with database.connected(stack.database_url) as cursor:
        ledger.open_ledger(cursor)
    stack.common.update(SCOPES)
    crew = Crew(stack, servers, rng)
    crew.settle()
    wait_until(lambda: answers(f"{crew.url}/health/live"), 60)
    return crew
