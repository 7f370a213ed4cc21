"""One storm of a minute, as `python -m tests.acceptance.storm` lets it rage, with a seed that nobody has chosen."""

import os
import subprocess
import sys

import pytest

from tests.running import ROOT


def test_a_minute_of_kills_at_random_moments_loses_no_text_and_stores_none_twice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [sys.executable, "-m", "tests.acceptance.storm", "--minutes", "1"]
    # What this run points its own processes at is not the storm's: it has servers of its own, and kills them.
    env = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}

    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)

    with capsys.disabled():
        print(f"\n{done.stdout}", flush=True)
    assert done.returncode == 0, done.stdout + done.stderr
