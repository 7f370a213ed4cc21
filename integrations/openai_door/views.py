"""POST /v1/embeddings for servers that have no door in front of them, and GET /v1/models for all."""

from django.conf import settings
from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from integrations import limits, live, logs, snapshot
from integrations.access import may_use, require_model
from integrations.api.authentication import client_of
from integrations.api.views import AnyAccept
from integrations.errors import RequestTooLarge, UnsupportedMediaType
from integrations.openai_door import bodies, requests, schema


class EmbeddingsView(APIView):
    """Embeds, always live."""

    required_scope = "embed"
    content_negotiation_class = AnyAccept

    @schema.embeddings
    def post(self, request: Request) -> HttpResponse:
        """Check, call, answer."""
        http = request._request  # DRF's own stream is None for a body without Content-Length
        if http.content_type != "application/json":
            raise UnsupportedMediaType("Send application/json.")
        body = http.read(settings.MAX_JSON_BODY_BYTES + 1)
        if len(body) > settings.MAX_JSON_BODY_BYTES:
            raise RequestTooLarge(f"At most {settings.MAX_JSON_BODY_BYTES} bytes.")
        client = client_of(request)
        asked, call = requests.prepare(body, client=client, request_id=logs.request_id.get())
        limits.admit_now(client, len(call.request.texts))
        return HttpResponse(bodies.embeddings_body(asked, live.real_time(call)), content_type="application/json")


class ModelsView(APIView):
    """The models that there are."""

    required_scope = "read"
    content_negotiation_class = AnyAccept

    @schema.models
    def get(self, request: Request) -> Response:
        """Answer all of them, in the configuration's order."""
        client = client_of(request)
        known = [model for model in snapshot.current().models.values() if may_use(client, model.slug)]
        return Response({"object": "list", "data": [bodies.model_body(model) for model in known]})


class ModelView(APIView):
    """One model."""

    required_scope = "read"
    content_negotiation_class = AnyAccept

    @schema.model
    def get(self, request: Request, model: str) -> Response:
        """Answer it."""
        require_model(client_of(request), model)
        return Response(bodies.model_body(snapshot.current().model(model)))
