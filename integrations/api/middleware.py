"""What surrounds every request that Django answers."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from integrations import logs
from integrations.api import problems

HEADER = "X-Request-ID"

Answer = HttpResponseBase | Awaitable[HttpResponseBase]


class Around(ABC):
    """A middleware for threads and event loops alike: `during` surrounds the making of the answer, `after` ends it."""

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Answer]) -> None:
        self.get_response = get_response
        self._asynchronous = iscoroutinefunction(get_response)
        if self._asynchronous:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Answer:
        """Answer."""
        if self._asynchronous:
            return self._acall(request)
        with self.during(request):
            response = cast("HttpResponseBase", self.get_response(request))
        return self.after(request, response)

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        with self.during(request):
            response = await cast("Awaitable[HttpResponseBase]", self.get_response(request))
        return self.after(request, response)

    @abstractmethod
    def during(self, request: HttpRequest) -> AbstractContextManager[None]:
        """Return what holds while the answer is made."""

    @abstractmethod
    def after(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """Return the answer that goes out."""


class RequestIdMiddleware(Around):
    """Gives each request an id (the client's, if it sent a valid one), for the answer's X-Request-ID and the logs."""

    @contextmanager
    def during(self, request: HttpRequest) -> Iterator[None]:
        """Set the id, in the logs, too."""
        # The door has chosen one already for what it passes on.
        scope = request.scope if isinstance(request, ASGIRequest) else {}
        chosen = scope.get("citadel.request_id") or logs.accept_request_id(request.headers.get(HEADER))
        request.citadel_id = chosen  # type: ignore[attr-defined]  # for `after`
        token = logs.request_id.set(chosen)
        try:
            yield
        finally:
            logs.request_id.reset(token)

    def after(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """Send the id back."""
        response.headers[HEADER] = request.citadel_id  # type: ignore[attr-defined]  # set above
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer with a problem body what a plain Django view of the API raised; DRF's views never let it come here."""
        if problems.belongs_to_api(request):
            return problems.exception_handler(exception, {"request": request})
        return None
