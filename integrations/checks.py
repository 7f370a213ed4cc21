"""System checks of the configuration: `manage.py check`.

The rows are judged by the same rules as every edit: they can be wrong all the same when they came by SQL or from an
older version. Where PostgreSQL does not answer, or has no tables yet, there is nothing to judge and nothing is said.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ValidationError
from django.db import DatabaseError, InterfaceError

from integrations import rules, seeding
from integrations.models import ApiKey, ModelConfig

_HINT = "Put it right in the admin, or with `manage.py sync_models --from FILE.yaml`."


@register(Tags.models)
def check_configuration(app_configs: Any, databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Judge every stored model: errors for what is refused on edit, warnings for what cannot work as it stands."""
    if databases is not None and "default" not in databases:
        return []
    try:
        models = list(ModelConfig.objects.prefetch_related("endpoints", "assignments", "fallbacks"))
        return [message for model in models for message in _judge(model)]
    except (DatabaseError, InterfaceError):
        return []


def _judge(model: ModelConfig) -> Iterator[CheckMessage]:
    yield from _messages(model, rules.errors_of, Error, "citadel.E001")
    yield from _messages(model, rules.warnings_of, Warning, "citadel.W001")


def _messages(
    model: ModelConfig, judge: Callable[[ModelConfig], rules.Errors], kind: type[Error] | type[Warning], check_id: str
) -> Iterator[CheckMessage]:
    for path, messages in judge(model).items():
        yield kind(f"{path}: {' '.join(messages)}", hint=_HINT, obj=model.slug, id=check_id)


@register(Tags.models)
def check_environment(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Judge what the environment says of the nine models and of anonymous clients."""
    unknown = sorted(set(settings.CITADEL_ANONYMOUS_SCOPES) - set(ApiKey.Scope.values))
    found: list[CheckMessage] = [
        Error(
            f"“{scope}” is no scope; known are: {', '.join(ApiKey.Scope.values)}.",
            obj="CITADEL_ANONYMOUS_SCOPES",
            id="citadel.E002",
        )
        for scope in unknown
    ]
    try:
        seeding.seeds()
    except ValidationError as error:
        found.extend(
            Error(f"{path}: {' '.join(messages)}", hint=_variable(path), obj="the environment", id="citadel.E003")
            for path, messages in error.message_dict.items()
        )
    return found


def _variable(path: str) -> str:
    """The environment variable behind a seed's field."""
    slug, _, field = path.partition(": ")
    ending = (
        "PROTOCOL" if field.endswith("protocol") else "ENDPOINT" if field.startswith("endpoints") else "UPSTREAM_MODEL"
    )
    return f"See {slug.upper()}_{ending}."
