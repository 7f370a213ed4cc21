"""What surrounds every request that Django answers."""

from collections.abc import Awaitable, Callable
from contextvars import Token
from typing import cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from integrations import logs
from integrations.api import problems

HEADER = "X-Request-ID"

Answer = HttpResponseBase | Awaitable[HttpResponseBase]


class RequestIdMiddleware:
    """Gives each request an id (the client's, if it sent a valid one), for the answer's X-Request-ID and the logs."""

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Answer]) -> None:
        self.get_response = get_response
        self._asynchronous = iscoroutinefunction(get_response)
        if self._asynchronous:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Answer:
        """Answer, with the id set while the answer is made."""
        if self._asynchronous:
            return self._acall(request)
        chosen, token = _begin(request)
        try:
            response = cast("HttpResponseBase", self.get_response(request))
        finally:
            logs.request_id.reset(token)
        return _mark(response, chosen)

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        chosen, token = _begin(request)
        try:
            response = await cast("Awaitable[HttpResponseBase]", self.get_response(request))
        finally:
            logs.request_id.reset(token)
        return _mark(response, chosen)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer with a problem body what a plain Django view of the API raised; DRF's views never let it come here."""
        if problems.belongs_to_api(request):
            return problems.exception_handler(exception, {"request": request})
        return None


def _begin(request: HttpRequest) -> tuple[str, Token[str]]:
    # The door has chosen one already for what it passes on.
    scope = request.scope if isinstance(request, ASGIRequest) else {}
    chosen = scope.get("citadel.request_id") or logs.accept_request_id(request.headers.get(HEADER))
    return chosen, logs.request_id.set(chosen)


def _mark(response: HttpResponseBase, chosen: str) -> HttpResponseBase:
    response.headers[HEADER] = chosen
    return response
