"""A body of POST /v1/embeddings, checked, and the live call that it asks for.

This door is always live, whatever the number of inputs: who wants the queue sends a batch file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import orjson
from django.conf import settings

from integrations import access, protocols, snapshot
from integrations.embed_request import why_not_text
from integrations.errors import InvalidRequest, PatternConflict
from integrations.patterns import EmbedCall, EmbedRequest, Mode, Pattern
from integrations.values import Assignment, Model

TOKENS: Final = (
    "Token lists are not taken: ids of another tokenizer would give silently wrong vectors. Send strings "
    "(LangChain: check_embedding_ctx_length=False)."
)
# No vocabulary has as many.
_MAX_TOKEN_ID: Final = 2**31 - 1
_NOT_IDS: Final = "Must hold token ids: whole numbers from 0, at least one."
_MAX_NAMED: Final = 10
_MAX_DIMENSIONS: Final = 65_536

Errors = dict[str, list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a body asks for. `base64`: vectors as base64 of little-endian float32, as the stock client wants them."""

    model: str
    request: EmbedRequest
    base64: bool


def parse(body: bytes) -> Asked:
    """Return what a JSON body asks for. Raises InvalidRequest with `errors` per field."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(errors={"body": [f"Not valid JSON: {error.msg}."]}) from None
    return checked(data)


def checked(data: Any) -> Asked:
    """Return what the fields of a body ask for. Raises InvalidRequest with `errors` per field."""
    if type(data) is not dict:
        raise InvalidRequest(errors={"body": ["Send a JSON object."]})
    errors = _field_errors(data)
    if errors:
        raise InvalidRequest(errors=dict(islice(errors.items(), _MAX_NAMED)))
    given = data["input"]
    single = type(given) is str or type(given[0]) is int
    request = EmbedRequest(
        texts=(given,) if single else given,
        single=single,
        tokens=type(given) is list and type(given[0]) in (int, list),
        input_type=data.get("input_type") or "",
        dimensions=data.get("dimensions"),
    )
    return Asked(model=data["model"], request=request, base64=data.get("encoding_format") == "base64")


def prepare(body: bytes, *, client: access.Client, request_id: str) -> tuple[Asked, EmbedCall]:
    """Return the live call that a body asks for, its client allowed to make it.

    Raises NotPermitted, InvalidRequest, ModelNotFound, ModelDisabled, and PatternConflict for a model without a live
    pattern.
    """
    access.require(client, access.SCOPE_OF_MODE[Mode.LIVE])
    asked = parse(body)
    access.require_model(client, asked.model)
    model = snapshot.current().serving(asked.model, live=True)
    call = EmbedCall(
        request_id=request_id,
        client=client.name,
        model=model,
        assignment=_live_assignment(model),
        mode=Mode.LIVE,
        request=fitting(asked.request, model),
        received_at=datetime.now(UTC),
    )
    return asked, call


def _live_assignment(model: Model) -> Assignment:
    live = next((a for a in model.assignments if a.pattern != Pattern.BULK_ONLY), None)
    if live is None:
        raise PatternConflict(f"{model.slug} is queued only: upload a batch file and send it to POST /v1/batches.")
    return live


def fitting(request: EmbedRequest, model: Model) -> EmbedRequest:
    """Return the request as the model's servers can answer it: `dimensions` only where they must shorten vectors.

    Raises InvalidRequest where they cannot, or for token ids that are not known to be those of all of them.
    """
    if request.tokens and (why := _why_not_tokens(request, model)):
        raise InvalidRequest(errors={"input": [why]})
    wanted = request.dimensions
    if wanted is None:
        return request
    if wanted == model.dimensions:
        return replace(request, dimensions=None)
    if model.dimensions is not None and wanted > model.dimensions:
        raise _dimensions(f"{model.slug} has vectors of {model.dimensions} numbers.")
    if not all(protocols.get(endpoint.protocol).shortens for endpoint in model.endpoints):
        raise _dimensions(f"The servers of {model.slug} cannot shorten vectors: leave it out.")
    return request


def _why_not_tokens(request: EmbedRequest, model: Model) -> str:
    if not model.takes_token_ids:
        return TOKENS
    if not all(protocols.get(endpoint.protocol).takes_token_ids for endpoint in model.endpoints):
        return f"Not every server of {model.slug} speaks a protocol that has token ids. Send strings."
    if model.prefix(request.input_type):
        return f"{model.slug} puts a prefix before each {request.input_type}, which is text. Send strings."
    if model.fallbacks:
        return f"{model.slug} may fall back to a model with another tokenizer. Send strings."
    return ""


def _dimensions(why: str) -> InvalidRequest:
    return InvalidRequest(errors={"dimensions": [why]})


# --- Fields ----------------------------------------------------------------------------------------------------------


def _field_errors(data: Mapping[str, Any]) -> Errors:
    errors: Errors = {}
    for name in ("model", "input"):
        if name not in data:
            errors[name] = ["Is missing."]
    for name, value in data.items():
        if name == "input":
            errors |= input_errors(value)
        elif (check := _CHECKS.get(name)) is None:
            errors[name[:64].encode("utf-8", "replace").decode()] = ["Unknown field."]
        elif (value is not None or name == "model") and (why := check(value)):
            errors[name] = [why]
    return errors


def input_errors(given: Any) -> Errors:
    """Say what is wrong with an `input`, by field; nothing for a string or a list of strings that can be embedded."""
    limit = settings.MAX_TEXT_BYTES
    if type(given) is str:
        why = why_not_text(given, limit)
        return {"input": [why]} if why else {}
    if type(given) is not list:
        return {"input": ["Must be a string or a list of strings."]}
    if not given:
        return {"input": ["Must hold at least one text."]}
    if type(given[0]) is int:
        return {} if _are_token_ids(given) else {"input": [_NOT_IDS]}
    if len(given) > settings.OPENAI_MAX_INPUTS:
        return {"input": [f"At most {settings.OPENAI_MAX_INPUTS} texts; send more as a batch file."]}
    if type(given[0]) is list:
        bad = [index for index, ids in enumerate(given) if not _are_token_ids(ids)]
        return {f"input.{index}": [_NOT_IDS] for index in bad[:_MAX_NAMED]}
    wrong = ((index, why) for index, text in enumerate(given) if (why := why_not_text(text, limit)))
    return {f"input.{index}": [why] for index, why in islice(wrong, _MAX_NAMED)}


def _are_token_ids(given: Any) -> bool:
    return type(given) is list and bool(given) and all(type(n) is int and 0 <= n <= _MAX_TOKEN_ID for n in given)


def _why_not_model(value: Any) -> str:
    return "" if type(value) is str else "Must be a string."


def _why_not_format(value: Any) -> str:
    return "" if value in ("float", "base64") else "Must be float or base64."


def _why_not_dimensions(value: Any) -> str:
    fits = type(value) is int and 0 < value <= _MAX_DIMENSIONS
    return "" if fits else f"Must be a whole number from 1 to {_MAX_DIMENSIONS}."


def _why_not_input_type(value: Any) -> str:
    return "" if value in ("query", "passage") else "Must be query or passage."


_CHECKS: Final[Mapping[str, Callable[[Any], str]]] = {
    "model": _why_not_model,
    "encoding_format": _why_not_format,
    "dimensions": _why_not_dimensions,
    "input_type": _why_not_input_type,
    # Who is behind the client is the client's business: taken, and kept nowhere.
    "user": lambda value: "" if type(value) is str else "Must be a string.",
}
