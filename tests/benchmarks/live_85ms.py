"""Many callers of a server that takes 85 ms for a call, however many there are: against nginx as a bare proxy.

    python -m tests.benchmarks live_85ms

A proxy of aiohttp alone is measured too: what the language and its libraries cost. What is measured has one core; the
server and the 200 connections' client share the others.
"""

from collections.abc import Sequence
from functools import partial

from tests.benchmarks import live_rig as rig

MODEL = "m"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the server itself, nginx and Citadel in turns."""
    options = rig.parser(__doc__).parse_args(argv)
    seconds, times, warm = (0.7, 1, 0.3) if options.short else (options.seconds, options.rounds, 4.0)
    with rig.site() as site:
        stub = site.stub(dimensions=768, ms=85)
        site.model(MODEL, stub, max_in_flight=1000)
        _, url = site.web()
        load = partial(site.load, connections=200, seconds=seconds, warm=warm)
        bodies = rig.openai_bodies(MODEL)
        contenders = {"direct": lambda: load(f"{stub}/v1/embeddings", bodies)}
        if not options.short:
            _, proxy = site.nginx(stub)
            contenders["nginx"] = lambda: load(f"{proxy}/v1/embeddings", bodies)
            _, bare = site.bare_proxy(stub)
            contenders["bare aiohttp"] = lambda: load(f"{bare}/v1/embeddings", bodies)
        contenders["citadel"] = lambda: load(f"{url}/api/v1/external/{MODEL}/embed", rig.citadel_bodies())
        found = rig.rounds(contenders, times=times)
    against = found.get("nginx", found["direct"])
    ratios = {
        "requests a second": found["citadel"]["per_second"] / against["per_second"],
        "p99": found["citadel"]["p99_ms"] / against["p99_ms"],
    }
    if "bare aiohttp" in found:
        ratios["requests a second, to bare aiohttp"] = (
            found["citadel"]["per_second"] / found["bare aiohttp"]["per_second"]
        )
    rig.report(options, "live_85ms", found, ratios)
