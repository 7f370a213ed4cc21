"""What the calls to one model suffer while another model's server accepts every call and answers none.

    python -m tests.benchmarks hung_upstream [--ms 20] [--per-second 200]

One web process. So many calls a second go to the model that is measured; beside it as many go to another one, whose
server hangs, or is sound. At the beginning of each turn the hung one's breaker is closed: until it opens, its calls
fill their places. Against the measured model alone, the work of twice as many calls is counted, too; against a sound
server beside it, what hanging adds.
"""

import sys
from collections.abc import Callable, Sequence

import requests

from tests.benchmarks import live_rig as rig
from tests.benchmarks.live_rig import Figures, Site

from django.conf import settings  # isort: skip

from integrations import operations  # isort: skip
from integrations.models import Endpoint, PatternAssignment  # isort: skip
from tests.running import wait_until  # isort: skip
from tests.upstreams import Upstream  # isort: skip

# Times of the hung model: a breaker opens within a turn, after its threshold of attempts that timed out together.
TIMES = {"deadline": 4.0, "attempt_timeout": 2.0, "retry_attempts": 0, "breaker_reset_timeout": 60.0}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the sound model alone, beside another sound one, and beside the hung one, in turns."""
    parser = rig.parser(__doc__)
    parser.add_argument("--ms", type=float, default=20.0)
    parser.add_argument("--per-second", type=int, default=200)
    options = parser.parse_args(argv)
    seconds, times = (3.0, 1) if options.short else (max(options.seconds, 6.0), options.rounds)
    with rig.site() as site, Upstream("openai") as hung:
        hung.hang()
        for slug, url in (
            ("measured", site.stub(ms=options.ms)),
            ("sound", site.stub(ms=options.ms)),
            ("hung", hung.url),
        ):
            site.model(slug, url)
        PatternAssignment.objects.filter(model__slug="hung").update(**TIMES)
        _, url = site.web()
        measured = Beside(site, url, hung, per_second=options.per_second, seconds=seconds)
        turns: dict[str, Callable[[], Figures]] = {
            "alone": lambda: measured.beside(None),
            "beside a sound server": lambda: measured.beside("sound"),
            "beside a hung server": lambda: measured.beside("hung"),
        }
        found = rig.rounds(turns, times=times)
    of_hung = found["beside a hung server"]
    ratios = {
        "p99 beside a hung server / beside a sound one": of_hung["p99_ms"] / found["beside a sound server"]["p99_ms"],
        "p99 beside a hung server / alone": of_hung["p99_ms"] / found["alone"]["p99_ms"],
    }
    rig.report(options, "hung_upstream", found, ratios)


class Beside:
    """One turn: calls to the measured model, and as many to another one."""

    def __init__(self, site: Site, url: str, hung: Upstream, *, per_second: int, seconds: float) -> None:
        self._site, self._url, self._hung = site, url, hung
        self._per_second, self._seconds = per_second, seconds

    def beside(self, other: str | None) -> Figures:
        """The figures of the measured model's calls, with those of the hung server where it was the other."""
        if other == "hung":
            self._close_breaker()
        others = self._load(other) if other else None
        figures = self._load("measured")()
        if others is not None:
            others()
        return figures | (self._of_hung() if other == "hung" else {})

    def _load(self, slug: str) -> Callable[[], Figures]:
        # A connection begins a call a second, when its last one has ended: those that hang are not called upon again.
        return self._site.loading(
            f"{self._url}/api/v1/external/{slug}/embed",
            rig.citadel_bodies(),
            connections=self._per_second,
            seconds=self._seconds,
            warm=1.5,
            every=1.0,
        )

    def _close_breaker(self) -> None:
        operations.reset_breaker(
            Endpoint.objects.filter(model__slug="hung").values_list("pk", flat=True), actor="bench"
        )
        wait_until(lambda: self._breaker() == "closed", 10)
        self._hung.reset_counters()

    def _of_hung(self) -> Figures:
        if self._hung.peak > settings.ENDPOINT_MAX_IN_FLIGHT or self._breaker() != "open":
            raise SystemExit(f"{self._hung.peak} calls in flight, breaker {self._breaker()}: it was not held back")
        return {"hung_in_flight": self._hung.peak, "hung_calls": self._hung.calls}

    def _breaker(self) -> str:
        answer = requests.get(
            f"{self._url}/api/v1/external/patterns/status",
            headers={"Authorization": f"Bearer {self._site.key}"},
            timeout=10,
        ).json()
        return str(answer["circuit_breakers"]["hung"]["status"])


if __name__ == "__main__":
    main(sys.argv[1:])
