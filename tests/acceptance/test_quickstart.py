"""`manage.py quickstart`, as a person uses it: one command, real processes, Ctrl-C."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from citadel.quickstart import kept, places, ports, processes

ROOT = Path(__file__).resolve().parents[2]
# What the tests' own run has set, and what would turn quickstart away from its embedded servers.
OWN = ("DATABASE_URL", "REDIS_URL", "PGPASSWORD", "TEST_DATABASE_NAME")


class Quickstart:
    """One state folder, and quickstart running in it or not."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.port = ports.free(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.output = ""
        self._process: subprocess.Popen[str] | None = None
        self._models_port = ports.free(10, together=True)[0]

    def start(self, until: str = "Ctrl-C stops everything") -> None:
        """Start it and wait until it has said so."""
        words = ["--state", str(self.state), "--port", str(self.port), "--models-port", str(self._models_port)]
        log = self.state.with_suffix(".log")
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "manage.py", "quickstart", *words],
                cwd=ROOT,
                env=environment(),
                stdout=output,
                stderr=output,
                start_new_session=True,
                text=True,
            )
        eventually(lambda: self._said(until, log), within=120)
        self.output = log.read_text()

    def _said(self, words: str, log: Path) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, log.read_text()
        return words in log.read_text()

    def interrupt(self, number: int = signal.SIGINT) -> float:
        """Press Ctrl-C: the terminal sends SIGINT to the whole foreground group. Return the seconds it took."""
        assert self._process is not None
        began = time.monotonic()
        os.killpg(self._process.pid, number)
        assert self._process.wait(30) == 0, self.output
        return time.monotonic() - began

    def kill(self) -> None:
        """kill -9, and supervisord with it, so that nobody can tidy up."""
        assert self._process is not None
        for supervisord in processes.read_records(self.state / "run", "supervisord"):
            supervisord.send(signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def abandon(self) -> None:
        """End all of it after a test that failed in the middle."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        left = self.running() if (self.state / "mark").exists() else []
        processes.end(left, within=0, first=signal.SIGKILL)

    def running(self) -> list[processes.Identity]:
        """Every process of this state."""
        found = [*processes.read_records(self.state / "run"), *processes.marked(f"{kept.mark(self.state)}/")]
        return list(dict.fromkeys(found))

    def record(self, name: str) -> processes.Identity:
        """The process of this name that runs now."""
        (found,) = processes.read_records(self.state / "run", name)
        return found

    def shown(self, name: str) -> str:
        """A line of what it printed."""
        found = re.search(rf"^  {name} +(.+)$", self.output, re.MULTILINE)
        assert found, self.output
        return found[1]

    def post(self, model: str, **body: Any) -> Any:
        answer = requests.post(f"{self.url}/api/v1/external/{model}/embed", json=body, timeout=30)
        assert answer.ok, answer.text
        return answer.json()

    def batch(self, batch_id: str) -> Any:
        return requests.get(f"{self.url}/api/v1/external/batch/{batch_id}", timeout=30).json()


@pytest.fixture
def quickstart() -> Iterator[Quickstart]:
    made = Quickstart(Path(tempfile.mkdtemp(prefix="citadel-qs-")) / "state")
    yield made
    made.abandon()
    places.settle(made.state).remove()
    shutil.rmtree(made.state.parent, ignore_errors=True)


def environment(**changes: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in OWN} | changes


def eventually(condition: Callable[[], bool], *, within: float) -> None:
    ends = time.monotonic() + within
    while not condition():
        assert time.monotonic() < ends, f"not within {within} s"
        time.sleep(0.1)


def refused(*words: str, **env: str) -> str:
    """Run quickstart, which must fail without starting anything; return what it says."""
    state = Path(tempfile.mkdtemp(prefix="citadel-qs-"))
    try:
        command = [sys.executable, "manage.py", "quickstart", "--state", str(state), *words]
        done = subprocess.run(
            command, cwd=ROOT, env=environment(**env), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1, done.stdout
        assert not list((state / "run").glob("*.json"))
        return done.stderr
    finally:
        places.settle(state).remove()


def log_in(quickstart: Quickstart) -> requests.Response:
    name, _, password = quickstart.shown("Log in as").partition(" / ")
    with requests.Session() as browser:
        address = f"{quickstart.url}/admin/login/?next=/admin/"
        browser.get(address, timeout=30)
        form = {"username": name, "password": password, "csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        return browser.post(address, data=form, timeout=30)


def listening_addresses(identity: processes.Identity) -> set[str]:
    connections = psutil.Process(identity.pid).net_connections(kind="inet")
    return {found.laddr.ip for found in connections if found.status == psutil.CONN_LISTEN}


def test_one_command_runs_all_of_citadel_and_ctrl_c_stops_it(quickstart: Quickstart) -> None:
    quickstart.start()

    answer = quickstart.post("phi3", text="test embedding", urgent=True)
    assert (answer["pattern"], len(answer["embedding"])) == ("real_time", 384)
    accepted = quickstart.post("mixtral", texts=["text1", "text2", "text3"], batch=True)
    eventually(lambda: quickstart.batch(accepted["batch_id"])["status"] == "completed", within=40)

    assert "Log out" in log_in(quickstart).text
    # OpenAI's client always sends a key, so it is given one.
    shown = dict(word.split("=", 1) for word in quickstart.shown("OpenAI").split())
    headers = {"Authorization": f"Bearer {shown['OPENAI_API_KEY']}"}
    assert len(requests.get(f"{shown['OPENAI_BASE_URL']}/models", headers=headers, timeout=30).json()["data"]) == 9
    redis_cli = quickstart.shown("Queue")
    assert subprocess.run(redis_cli, shell=True, capture_output=True, text=True, check=True).stdout.strip() == "0"
    shell = quickstart.shown("manage.py").replace("manage.py diagnose", f"{ROOT}/manage.py check_models")
    checked = subprocess.run(shell, shell=True, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr

    everything = quickstart.running()
    assert set().union(*map(listening_addresses, everything)) == {"127.0.0.1"}
    assert (
        listening_addresses(quickstart.record("postgres")) == listening_addresses(quickstart.record("redis")) == set()
    )
    for name in ("operator-password", "api-key", "secret-key", "env", "programs/web.json"):
        assert (quickstart.state / name).stat().st_mode & 0o077 == 0

    assert quickstart.interrupt() < 10
    assert not any(process.alive() for process in everything)


def test_what_dies_comes_back_and_a_start_after_kill_9_goes_on(quickstart: Quickstart) -> None:
    quickstart.start()
    # The first answers from its second server while this one is away.
    for name in ("models", "worker-1", "redis", "postgres", "web"):
        killed = quickstart.record(name)
        killed.send(signal.SIGKILL)
        eventually(lambda name=name, killed=killed: _another(quickstart, name, killed), within=30)
    eventually(lambda: _answers(quickstart), within=60)
    accepted = quickstart.post("yi34", texts=["one", "two"], batch=True)

    quickstart.kill()
    password = quickstart.shown("Log in as")
    quickstart.start()
    assert quickstart.shown("Log in as") == password
    eventually(lambda: quickstart.batch(accepted["batch_id"])["status"] == "completed", within=40)
    assert quickstart.interrupt() < 10
    assert quickstart.running() == []


def _another(quickstart: Quickstart, name: str, killed: processes.Identity) -> bool:
    return any(found != killed for found in processes.read_records(quickstart.state / "run", name))


def _answers(quickstart: Quickstart) -> bool:
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"{quickstart.url}/health/ready?need=queue", timeout=5).ok
    return False


def test_sigterm_in_the_middle_of_the_start_leaves_nothing(quickstart: Quickstart) -> None:
    quickstart.start(until="Bringing the database up to date")
    assert quickstart.running()
    assert quickstart.interrupt(signal.SIGTERM) < 10
    assert quickstart.running() == []


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert f"port {port} (web; --port gives another)" in refused("--port", str(port))


@pytest.mark.parametrize(
    ("variable", "address"),
    [("DATABASE_URL", "postgresql://postgres@127.0.0.1:{port}/citadel"), ("REDIS_URL", "redis://127.0.0.1:{port}/0")],
)
def test_a_server_that_is_named_but_does_not_answer_is_not_replaced(variable: str, address: str) -> None:
    said = refused(**{variable: address.format(port=ports.free(1)[0])})
    assert variable in said
    assert "answer" in said


def test_the_check_passes_on_this_machine_and_leaves_nothing() -> None:
    before = set(Path(tempfile.gettempdir()).glob("citadel-check-*"))
    done = subprocess.run(
        [sys.executable, "manage.py", "quickstart", "--check"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Integration Pattern Test Results" in done.stdout
    assert set(Path(tempfile.gettempdir()).glob("citadel-check-*")) == before
