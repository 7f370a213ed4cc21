"""32 clients of a real model server without batching, one text each: straight, through nginx, through Citadel.

    python -m tests.benchmarks live_real --words 8,30,100

The server (MiniLM, `manage.py demo_models`) has one core; everything else shares the others.
"""

import sys
from collections.abc import Sequence
from functools import partial

from tests.benchmarks import live_rig as rig
from tests.benchmarks.live_rig import Figures, Site
from tests.running import free_port

MODEL = "m"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the three in turns, for each length of the texts."""
    parser = rig.parser(__doc__)
    parser.add_argument("--words", default="8,30,100")
    options = parser.parse_args(argv)
    rows: dict[str, Figures] = {}
    ratios: dict[str, float] = {}
    with rig.site() as site:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        site.start([sys.executable, "manage.py", "demo_models", f"{MODEL}=openai:{port}"], url=f"{url}/health")
        site.model(MODEL, url)
        _, citadel = site.web(pin=site.cores.rest)
        proxy = "" if options.short else site.nginx(url)[1]
        for words in [8] if options.short else [int(w) for w in options.words.split(",")]:
            found = _measure(site, options, words, direct=url, citadel=citadel, proxy=proxy)
            rows |= {f"{words} words, {name}": row for name, row in found.items()}
            for figure in ("per_second", "p95_ms"):
                ratios[f"{words} words, {figure}"] = found["citadel"][figure] / found["direct"][figure]
    rig.report(options, "live_real", rows, ratios)


def _measure(
    site: Site, options: "rig.argparse.Namespace", words: int, *, direct: str, citadel: str, proxy: str
) -> dict[str, Figures]:
    seconds, times, warm = (1.0, 1, 0.5) if options.short else (options.seconds, options.rounds, 4.0)
    load = partial(site.load, connections=32, seconds=seconds, warm=warm)
    bodies = rig.openai_bodies(MODEL, words)
    contenders = {"direct": lambda: load(f"{direct}/v1/embeddings", bodies)}
    if proxy:
        contenders["nginx"] = lambda: load(f"{proxy}/v1/embeddings", bodies)
    own = rig.citadel_bodies(words)
    contenders["citadel"] = lambda: load(f"{citadel}/api/v1/external/{MODEL}/embed", own)
    return rig.rounds(contenders, times=times)
