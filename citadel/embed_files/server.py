"""The server as these commands see it: what may pass is tried again, for as long as the caller is patient."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, Self

import orjson
import requests

from citadel.embed_files.inputs import BrokenOff, Unusable

API: Final = "/api/v1/external"
NDJSON: Final = "application/x-ndjson"
TIMEOUT: Final = 120.0
_PASSING: Final = (429, 500, 502, 503, 504)
_LONGEST_PAUSE: Final = 30.0

Document = Mapping[str, Any]


class Server:
    """Use it as a context manager. `patience` in seconds: how long one request may fail before it is given up."""

    def __init__(self, url: str, *, api_key: str = "", patience: float = 600.0) -> None:
        self._url = url.rstrip("/")
        self._patience = patience
        self._session = requests.Session()
        if api_key:
            self._session.headers["Authorization"] = f"Bearer {api_key}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def submit(self, model: str, body: bytes, *, key: str, query: Mapping[str, str]) -> str:
        """Queue the lines of `body`; return the batch's id: the first one's, where this key came before."""
        headers = {"Content-Type": NDJSON, "Idempotency-Key": key}
        answer = self._ask("POST", f"/{model}/embed", data=body, headers=headers, params=query)
        return str(answer.json()["batch_id"])

    def batch(self, batch_id: str) -> Document:
        """Return how a batch stands."""
        found: Document = self._ask("GET", f"/batch/{batch_id}").json()
        return found

    def retry(self, batch_id: str) -> None:
        """Have the texts without a vector tried again."""
        self._ask("POST", f"/batch/{batch_id}/retry")

    def results(self, batch_id: str) -> Iterator[dict[str, Any]]:
        """Yield every text's result in order. Raises BrokenOff when the stream ends before its end."""
        answer = self._ask("GET", f"/batch/{batch_id}/results", headers={"Accept": NDJSON}, stream=True)
        try:
            with answer:
                for line in answer.iter_lines(chunk_size=2**16):
                    yield orjson.loads(line)
        except (requests.RequestException, orjson.JSONDecodeError) as error:
            raise BrokenOff(f"The results of {batch_id} broke off: {error}") from error

    def _ask(self, method: str, path: str, **options: Any) -> requests.Response:
        """Return a good answer. Raises Unusable for one that will not get better, or not in time."""
        ends, pause = time.monotonic() + self._patience, 0.5
        call = partial(self._session.request, method, self._url + API + path, timeout=TIMEOUT, **options)
        while True:
            answer, wait = _tried(call)
            if isinstance(answer, requests.Response):
                return answer
            wait = None if wait is None else max(wait, pause)
            if wait is None or time.monotonic() + wait > ends:
                raise Unusable(answer)
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _tried(call: Callable[[], requests.Response]) -> tuple[requests.Response | str, float | None]:
    """A good answer; or what is wrong, and after how many seconds to ask again (None: never)."""
    try:
        answer = call()
    except (requests.ConnectionError, requests.Timeout) as error:
        return f"The server does not answer: {error}", 0.0
    except requests.RequestException as error:
        return str(error), None
    if answer.ok:
        return answer, None
    wait = float(answer.headers.get("Retry-After", 0)) if answer.status_code in _PASSING else None
    return _problem(answer), wait


def _problem(answer: requests.Response) -> str:
    try:
        body = answer.json()
        return f"{body['code']}: {body['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"The server answered {answer.status_code}."
