"""POST /api/v1/external/test/failover."""

from dataclasses import asdict
from typing import Any, ClassVar, Final

import orjson
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from integrations import drill, logs, snapshot
from integrations.api import schema
from integrations.api.authentication import client_of
from integrations.drill import QueueTakeover
from integrations.errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType

_LONGEST_BODY: Final = 64 * 2**10


class DrillView(APIView):
    """Tries a model's failover, or with simulate_failure false only asks its endpoints."""

    # Given by the composition root: the queue is not this app's.
    queue_takeover: QueueTakeover | None = None

    required_scopes: ClassVar = {"POST": "operate"}

    @schema.drill
    def post(self, request: Request) -> Response:
        """Run the drill and answer with its report; a drill that found something wrong is still a 200."""
        if request._request.content_type != "application/json":
            raise UnsupportedMediaType("Send application/json.")
        slug, simulate_failure = _parsed(request._request.read(_LONGEST_BODY + 1))
        if self.queue_takeover is None:
            raise TypeError("the composition root gave no queue_takeover")
        report = drill.run(
            snapshot.current().serving(slug, live=False),
            simulate_failure=simulate_failure,
            request_id=logs.request_id.get(),
            client=client_of(request).name,
            queue_takeover=self.queue_takeover,
        )
        return Response(asdict(report) | {"request_id": logs.request_id.get()})


def _parsed(body: bytes) -> tuple[str, bool]:
    """The model's name and simulate_failure. Raises InvalidRequest, RequestTooLarge."""
    if len(body) > _LONGEST_BODY:
        raise RequestTooLarge
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(errors={"body": [f"Not valid JSON: {error.msg}."]}) from None
    if type(data) is not dict:
        raise InvalidRequest(errors={"body": ["Send a JSON object."]})
    if errors := _errors(data):
        raise InvalidRequest(errors=errors)
    return data["model"], data.get("simulate_failure", True)


def _errors(data: dict[str, Any]) -> dict[str, list[str]]:
    errors = {name: ["Unknown field."] for name in sorted(data.keys() - {"model", "simulate_failure"})[:10]}
    if not isinstance(data.get("model"), str):
        errors["model"] = ["Name the model."]
    if not isinstance(data.get("simulate_failure", True), bool):
        errors["simulate_failure"] = ["Must be true or false."]
    return errors
