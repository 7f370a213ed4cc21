"""Texts a second that a worker gets out of a real model server, against the most that the server gives to anybody.

    python -m tests.benchmarks bulk_real --texts 20000

The server (MiniLM, `manage.py demo_models`) has one core and no batching of its own. First a bare client finds the size
of a call with which it is quickest; then client and worker take turns, both with calls of that size.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial

from tests.benchmarks import rig  # first: it sets Django up

from tests.benchmarks import bulk  # isort: skip
from tests.processes import Stack, serve_model  # isort: skip
from tests.running import answers, free_port, wait_until  # isort: skip

SIZES = (16, 32, 64, 100)
MODEL = "test-model"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and report."""
    options = parsed(argv)
    with rig.own_stack() as (stack, servers):
        rig.report(options, "bulk_real", compare(stack, options, database=rig.postgres_pid(servers)))


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = rig.parser(__doc__)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trial", type=int, default=1_500, help="texts with which the size of a call is found")
    options = parser.parse_args(argv)
    if options.short:
        options.texts, options.rounds, options.trial = 100, 1, 0
    # What bulk's own contenders need.
    options.protocol, options.encoding, options.at_once = "openai", "base64", 2
    return options


def compare(stack: Stack, options: argparse.Namespace, *, database: int | None = None) -> dict[str, object]:
    """The client and the worker in turns, on the same server."""
    url = _server(stack)
    sizes = {size: _rate(url, options, size) for size in SIZES} if options.trial else {SIZES[-1]: 0.0}
    size = max(sizes, key=lambda found: sizes[found])
    # Nobody who asks a server with one core gains by more calls than keep it from waiting.
    serve_model(url, protocol="openai", fields={"batch_size": size})
    worker = stack.worker(BULK_CALLS_IN_FLIGHT=str(options.at_once))
    contenders = {
        "bare": partial(bulk.bare, url, options, model=MODEL, size=size),
        "worker": partial(bulk.bulk, [worker], options.texts, database=database, size=size),
    }
    medians = rig.rounds(contenders, times=options.rounds)
    return {
        **medians,
        "ratio": medians["worker"]["texts_s"] / medians["bare"]["texts_s"],
        "texts": options.texts,
        "size": size,
        "texts_s by size": {str(of): rate for of, rate in sizes.items()},
        "peak_mb": rig.peak_mb(worker.pid),
    }


def _server(stack: Stack) -> str:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})  # what is started now has this core, and the others are left to us
    try:
        stack.start("model", [sys.executable, "manage.py", "demo_models", f"test-model=openai:{port}"])
    finally:
        os.sched_setaffinity(0, usable)
    wait_until(lambda: answers(f"{url}/health"), 60)
    return url


def _rate(url: str, options: argparse.Namespace, size: int) -> float:
    trial = argparse.Namespace(**{**vars(options), "texts": options.trial})
    found = bulk.bare(url, trial, model=MODEL, size=size)["texts_s"]
    print(f"calls of {size} texts: {found:.0f} texts/s", flush=True)
    return found


if __name__ == "__main__":
    main()
