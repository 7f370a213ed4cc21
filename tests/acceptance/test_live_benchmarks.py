"""The benchmarks of live calls run, in their short form and without peers. Nothing is said about their figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import Stack
from tests.running import ROOT

BENCHES = ("live_zero", "live_85ms", "live_real", "mixed", "scale")


@pytest.mark.parametrize("bench", BENCHES)
def test_a_benchmark_runs_in_its_short_form(stack: Stack, tmp_path: Path, bench: str) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.benchmarks", bench, "--short", "--json", str(file)]
    env = stack.env(CITADEL_BENCH_HERE="1")
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    figures = json.loads(file.read_text())
    assert figures["bench"] == bench
    assert figures["short"]
    assert all(row.get("per_second", 1) > 0 and not row.get("errors") for row in figures["rows"].values()), figures
    assert figures["ratios"]
