"""HTTP to the Citadel under test. Nothing raises: an exchange that fails is an answer that says why."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import requests
from requests.adapters import HTTPAdapter

API = "/api/v1/external"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One exchange: `body` is the JSON, `error` is empty or "code: detail", `ms` the whole exchange as seen here."""

    status: int
    body: Any
    ms: float
    error: str = ""

    @property
    def json(self) -> Mapping[str, Any]:
        """The body, {} where it is no JSON object."""
        return self.body if isinstance(self.body, dict) else {}


class Citadel:
    """The server under test; safe for `connections` threads at once. Times in seconds."""

    def __init__(self, url: str, *, api_key: str = "", connections: int = 4, timeout: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._session = requests.Session()
        # A proxy of the environment would stand between the figures and the server.
        self._session.trust_env = False
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=connections))
        if api_key:
            self._session.headers["Authorization"] = f"Bearer {api_key}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def status(self) -> Answer:
        """Which patterns and models there are."""
        return self._ask("GET", f"{API}/patterns/status", expected=200)

    def embed(self, model: str, body: Mapping[str, Any], *, expected: int) -> Answer:
        """Send an embedding request; `expected` is 200 for a live answer, 202 for a queued one."""
        return self._ask("POST", f"{API}/{model}/embed", expected=expected, body=body)

    def batch(self, batch_id: str) -> Answer:
        """How a batch stands."""
        return self._ask("GET", f"{API}/batch/{batch_id}", expected=200)

    def results(self, batch_id: str) -> Answer:
        """The first page of a batch's results."""
        return self._ask("GET", f"{API}/batch/{batch_id}/results", expected=200)

    def drill(self, model: str) -> Answer:
        """Let the server drill a model's failover."""
        body = {"model": model, "simulate_failure": True}
        return self._ask("POST", f"{API}/test/failover", expected=200, body=body)

    def _ask(self, method: str, path: str, *, expected: int, body: Mapping[str, Any] | None = None) -> Answer:
        started = time.perf_counter()
        try:
            response = self._session.request(method, self.url + path, json=body, timeout=self._timeout)
            ms = (time.perf_counter() - started) * 1000
            return _answer(response, expected, ms)
        except requests.RequestException as error:
            ms = (time.perf_counter() - started) * 1000
            return Answer(status=0, body=None, ms=ms, error=f"no_answer: {_reason(error)}")


def _answer(response: requests.Response, expected: int, ms: float) -> Answer:
    try:
        body = response.json()
    except requests.JSONDecodeError:
        body = None
    error = "" if response.status_code == expected else _problem(response.status_code, body)
    if not error and body is None:
        error = f"malformed: status {expected}, but no JSON"
    return Answer(status=response.status_code, body=body, ms=ms, error=error)


def _problem(status: int, body: Any) -> str:
    if isinstance(body, dict) and "code" in body:
        return f"{body['code']}: {body.get('detail', '')}"
    return f"status {status}"


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "the time limit passed"
    return "the connection was refused or broke" if isinstance(error, requests.ConnectionError) else str(error)


def is_vector(value: Any) -> bool:
    """Whether a value of a body is a vector: a list of finite numbers, at least one."""
    numbers = isinstance(value, list) and bool(value) and all(type(v) in (int, float) for v in value)
    return numbers and all(map(math.isfinite, value))
