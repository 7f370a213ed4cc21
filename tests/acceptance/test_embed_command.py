"""`citadel-embed` and `manage.py embed` as people run them: real processes, stopped in the middle."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batches.models import BatchJob
from tests.made_api import serve
from tests.made_openai import a_key
from tests.processes import Stack, wait_until
from tests.running import ROOT
from tests.upstreams import Upstream, vector_of

CHUNK = 20


@pytest.fixture
def upstream(stack: Stack) -> Iterator[Upstream]:
    with Upstream() as upstream:
        serve("m", "bulk_only", upstream, batch_size=CHUNK)
        yield upstream


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C reaches what is started: a shell without a terminal has its background processes ignore it, and theirs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def env(stack: Stack, upstream: Upstream) -> dict[str, str]:
    """All that the command needs: no settings, no database."""
    key = a_key("batch")
    url = stack.web()[1]
    stack.scheduler()
    stack.worker()
    path = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**path, "CITADEL_URL": url, "CITADEL_API_KEY": key, "PYTHONPATH": str(ROOT)}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "citadel.embed_files", *map(str, arguments)]


def embed(folder: Path, env: dict[str, str], *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(*arguments), env=env, cwd=folder, capture_output=True, text=True, timeout=120)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def right(text: str) -> list[float]:
    return [float(x) for x in vector_of(text, 8)]


def near(lines: list[dict[str, Any]]) -> list[list[float]]:
    return [pytest.approx(line["embedding"], rel=1e-6) for line in lines]


def a_table(path: Path, texts: list[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *([n, text] for n, text in enumerate(texts))])
    return path


@pytest.mark.usefixtures("ctrl_c")
def test_files_become_vectors_in_their_order_also_when_the_command_is_stopped_in_the_middle(
    env: dict[str, str], upstream: Upstream, tmp_path: Path, stack: Stack
) -> None:
    upstream.poison("too long")
    a_table(tmp_path / "a.csv", ["one", "two\nlines", "too long"])
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "fünf"}) + "\n")
    arguments = ("--model", "m", "--text-column", "text")
    done = embed(tmp_path, env, "a.csv", "b.jsonl", "--out", "x.jsonl", *arguments)
    assert done.returncode == 1, done.stderr
    assert "1 texts have no vector" in done.stderr
    assert "texts/s" in done.stderr
    lines = read(tmp_path / "x.jsonl")
    assert [(line["file"], line["row"]) for line in lines] == [("a.csv", 1), ("a.csv", 2), ("a.csv", 3), ("b.jsonl", 1)]
    assert [right(t) for t in ("one", "two\nlines", "fünf")] == near([lines[0], lines[1], lines[3]])
    assert lines[2]["error"]["code"] == "text_rejected"
    refused = embed(tmp_path, env, "a.csv", "--out", "x.jsonl", *arguments)
    assert (refused.returncode, "--overwrite" in refused.stderr) == (1, True)

    # The retry is the command's own: what was refused is taken when it is asked again.
    upstream.clear()
    again = embed(tmp_path, env, "a.csv", "b.jsonl", "--out", "x.jsonl", "--overwrite", "--quiet", *arguments)
    assert (again.returncode, again.stderr) == (0, "")
    assert upstream.embedded["one"] == 1
    assert right("too long") == near(read(tmp_path / "x.jsonl"))[2]

    stopped_in_the_middle_it_goes_on_and_asks_for_nothing_twice(env, upstream, tmp_path)
    what_will_not_get_better_is_told_with_its_row(env, tmp_path)
    manage = [sys.executable, str(ROOT / "manage.py"), "embed", "b.jsonl", "--out", "y.jsonl", *arguments]
    plain = subprocess.run(manage, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert plain.returncode == 0, plain.stderr
    assert right("fünf") == near(read(tmp_path / "y.jsonl"))[0]


def stopped_in_the_middle_it_goes_on_and_asks_for_nothing_twice(
    env: dict[str, str], upstream: Upstream, folder: Path
) -> None:
    texts = [f"text {number}" for number in range(600)]
    a_table(folder / "many.csv", texts)
    upstream.delay = 0.25
    arguments = command("many.csv", "--model", "m", "--text-column", "text", "--out", "many.jsonl", "--part", "100")
    notes = folder / "many.jsonl.progress"
    for number, parts in ((signal.SIGINT, 1), (signal.SIGKILL, 3)):
        with subprocess.Popen(arguments, env=env, cwd=folder, stderr=subprocess.PIPE, text=True) as running:
            wait_until(lambda parts=parts: notes.exists() and len(notes.read_text().splitlines()) >= parts, 60)  # type: ignore[misc]
            running.send_signal(number)
            _, said = running.communicate(timeout=30)
        assert running.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), said
        assert ("The same command goes on" in said) == (number == signal.SIGINT)
        assert not (folder / "many.jsonl").exists()

    upstream.delay = 0
    done = subprocess.run(arguments, env=env, cwd=folder, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    lines = read(folder / "many.jsonl")
    assert [line["row"] for line in lines] == list(range(1, 601))
    assert [right(text) for text in texts] == near(lines)
    assert {upstream.texts[text] for text in texts} == {1}
    assert not list(folder.glob("many.jsonl.*"))


def what_will_not_get_better_is_told_with_its_row(env: dict[str, str], folder: Path) -> None:
    before = BatchJob.objects.count()
    a_table(folder / "long.csv", ["fine", "x" * 300_000])
    for arguments, words in (
        (("long.csv", "--model", "m"), "long.csv, row 2"),
        (("a.csv", "--model", "nobody"), "model_not_found"),
        (("a.csv", "--model", "m", "--api-key", "wrong"), "not_authenticated"),
        (("a.csv", "--model", "m", "--url", "http://127.0.0.1:9", "--patience", "1"), "does not answer"),
    ):
        done = embed(folder, env, *arguments, "--text-column", "text", "--out", "z.jsonl", "--quiet")
        assert done.returncode == 1
        assert words in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    assert BatchJob.objects.count() == before
