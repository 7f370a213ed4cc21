"""One storm, told as a table; the exit status says whether it was survived."""

import argparse
import logging
import os
import secrets
import sys
import tempfile
from pathlib import Path

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "citadel.settings")
django.setup()

from tests.acceptance.storm import verdict, weather  # noqa: E402
from tests.acceptance.storm.crew import WORKERS  # noqa: E402
from tests.acceptance.storm.table import rows  # noqa: E402


def main(arguments: list[str]) -> int:
    """Return 0 when nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.storm", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="by default a random one, which is printed")
    parser.add_argument("--logs", type=Path, default=None, help="an empty folder in which the processes' logs stay")
    options = parser.parse_args(arguments)
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    print(f"seed {seed}, {options.minutes:g} min", flush=True)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        facts = weather.run(minutes=options.minutes, seed=seed, folder=options.logs or Path(folder))
    limit = verdict.bound(facts, weather.CHUNK, len(WORKERS))
    for label, value in rows(facts, limit=limit):
        print(f"{label:<48} {value}")
    broken = verdict.faults(facts, limit=limit)
    for fault in broken:
        print(f"BROKEN: {fault}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
