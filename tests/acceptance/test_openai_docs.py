"""Every example of docs/openai.md runs as it stands, from top to bottom, against real processes."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

from tests.made_api import serve
from tests.made_openai import a_key
from tests.processes import Stack
from tests.upstreams import Upstream

PAGE = (Path(settings.BASE_DIR) / "docs/openai.md").read_text()
EXAMPLES = re.findall(r"^```(python|bash)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def address(stack: Stack) -> Iterator[tuple[str, str]]:
    """The base URL of a whole Citadel that serves the models of the page, and a key."""
    with Upstream() as upstream:
        serve("phi3", "real_time", upstream)
        serve("mixtral", "bulk_only", upstream)
        key = a_key()
        stack.scheduler()
        stack.worker()
        yield stack.web()[1], key


def test_every_example_of_the_page_runs(address: tuple[str, str], tmp_path: Path) -> None:
    url, key = address
    env = {**os.environ, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": key, "CITADEL_URL": url}
    env |= {
        "CITADEL_API_KEY": key,
        "PYTHONPATH": str(settings.BASE_DIR),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    ran = 0
    for language, example in EXAMPLES:
        if example.startswith("export "):
            continue  # the environment, which is here already
        command = [sys.executable, "-c", example] if language == "python" else ["bash", "-ec", example]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{example}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran >= 4
