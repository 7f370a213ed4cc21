"""Schemathesis over the whole OpenAPI description, against real processes: no 5xx, no answer that is not described."""

import os
import re
import subprocess
import sys
from pathlib import Path

import requests

from integrations import operations, snapshot
from tests.made_api import serve
from tests.processes import Stack
from tests.upstreams import Upstream

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,ignored_auth"
# Real names among the made-up ones, so that half of the requests get past "no such model".
CONFIGURATION = """
[dictionaries.models]
values = ["live", "mixed", "bulk", "nobody"]

[parameters]
"path.model" = {dictionary = "models", probability = 0.9}
"""
EXAMPLES = 20  # an address and method; besides them about 60 each that cover the description
# The same cases in each run of CI; another seed by hand finds others.
SEED = os.environ.get("SCHEMATHESIS_SEED", "5")


def test_no_request_brings_a_5xx_or_an_undescribed_answer(stack: Stack, tmp_path: Path) -> None:
    with Upstream() as upstream:
        serve("live", "real_time", upstream)
        serve("mixed", "hybrid", upstream)
        serve("bulk", "bulk_only", upstream)
        key = operations.create_key("team-a", ["embed", "batch", "read", "operate"], actor="tests")
        snapshot.bump()
        stack.worker()
        stack.scheduler()
        web, url = stack.web(processes=2)
        (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
        done = _schemathesis(url, key, tmp_path)
        assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-2000:]}\n{web.tail(2000)}"
        selected, tested = re.findall(r"(?:Selected|Tested): +(\d+)", done.stdout)[:2]
        assert selected == tested, done.stdout
        headers = {"Authorization": f"Bearer {key}"}
        after = requests.post(f"{url}/api/v1/external/live/embed", json={"text": "a"}, headers=headers, timeout=30)
        assert after.status_code == 200, after.text


def _schemathesis(url: str, key: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(folder / "schemathesis.toml")]
    command += ["run", f"{url}/api/schema/?format=json", "-H", f"Authorization: Bearer {key}", "--checks", CHECKS]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--continue-on-failure"]
    command += ["--generation-database", "none", "--seed", SEED, "--no-shrink", "--warnings", "off"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500)
