"""JSON as this API writes it."""

from collections.abc import Mapping
from typing import Any

from rest_framework.renderers import BaseRenderer

from integrations.api.bodies import dump


class OrjsonRenderer(BaseRenderer):
    """application/json by orjson: numpy arrays as they are, times in UTC with seconds and "Z"."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        """Return `data` as JSON; nothing for an answer without a body."""
        return b"" if data is None else dump(data)
