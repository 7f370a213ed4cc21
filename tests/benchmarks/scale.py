"""One web process against two, on a server that answers at once: requests a second, and processor time for each.

    python -m tests.benchmarks scale

Where no core is free for the second process, requests a second say little: then its processor time for a request does.
"""

import os
from collections.abc import Sequence

from tests.benchmarks import live_rig as rig
from tests.benchmarks.live_rig import Figures, Site

MODEL = "m"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure one and two in turns."""
    options = rig.parser(__doc__).parse_args(argv)
    seconds, times = (0.7, 1) if options.short else (options.seconds, options.rounds)
    every = frozenset(os.sched_getaffinity(0))
    with rig.site() as site:
        site.model(MODEL, site.stub(dimensions=768))
        contenders = {}
        for workers in (1, 2):
            process, url = site.web(workers=workers, pin=every)
            contenders[f"{workers} web"] = lambda pid=process.pid, url=url: _measured(site, pid, url, seconds)
        found = rig.rounds(contenders, times=times)
    ratios = {
        "requests a second": found["2 web"]["per_second"] / found["1 web"]["per_second"],
        "processor time a request": found["2 web"]["cpu_us"] / found["1 web"]["cpu_us"],
    }
    rig.report(options, "scale", found, ratios)


def _measured(site: Site, pid: int, url: str, seconds: float) -> Figures:
    before, warm = rig.cpu(pid), seconds / 2
    address = f"{url}/api/v1/external/{MODEL}/embed"
    found = site.load(address, rig.citadel_bodies(), connections=64, seconds=seconds, warm=warm)
    used = rig.cpu(pid) - before
    return found | {"cpu_us": used / (found["per_second"] * (seconds + warm)) * 1e6 if found["per_second"] else 0.0}
