"""Who is asking, and what may they do: API keys as the configuration snapshot knows them."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from django.conf import settings

from integrations import snapshot
from integrations.errors import NotAuthenticated, NotPermitted
from integrations.patterns import Mode
from integrations.values import Key

# What a request needs once its pattern is chosen.
SCOPE_OF_MODE: Final = {Mode.LIVE: "embed", Mode.QUEUED: "batch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The owner of an API key; the name is "" for somebody who showed none."""

    name: str
    scopes: frozenset[str]
    # The key itself, with its limits; None for somebody who showed none.
    key: Key | None = field(default=None, compare=False)


def identify(authorization: str | None, x_api_key: str | None) -> Client:
    """Return the client behind the headers "Authorization: Bearer KEY" or "X-API-Key: KEY".

    Raises NotAuthenticated for an unknown, disabled or expired key (a wrong key is never taken for none), and for no
    key where CITADEL_ANONYMOUS_SCOPES is empty; NotReady while there is no configuration.
    """
    key = _bearer(authorization) if authorization else None
    if key is None:
        key = x_api_key
    if key is None:
        return _anonymous()
    # Looked up by its hash: how long that takes says nothing about the keys that exist.
    known = snapshot.current().keys.get(snapshot.hash_key(key))
    if known is None or (known.expires_at is not None and known.expires_at <= datetime.now(UTC)):
        raise NotAuthenticated("This API key is unknown or has expired.")
    return Client(name=known.client, scopes=known.scopes, key=known)


def require(client: Client, *scopes: str) -> None:
    """Do nothing if the client has one of `scopes`. Raises NotPermitted, or NotAuthenticated where no key was sent."""
    if not client.scopes.isdisjoint(scopes):
        return
    if not client.name:
        raise NotAuthenticated
    raise NotPermitted(f"This API key lacks the scope {' or '.join(scopes)}.")


def may_use(client: Client, model: str) -> bool:
    """Whether the client's key is good for this model."""
    return client.key is None or not client.key.models or model in client.key.models


def require_model(client: Client, model: str) -> None:
    """Do nothing if the client may use this model. Raises NotPermitted, whether there is such a model or not."""
    if not may_use(client, model):
        raise NotPermitted("This API key is not for this model.")


def _bearer(authorization: str) -> str | None:
    """The key of a Bearer header; another scheme, such as a proxy's Basic, is none of ours."""
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def _anonymous() -> Client:
    scopes = settings.CITADEL_ANONYMOUS_SCOPES
    if not scopes:
        raise NotAuthenticated
    return Client(name="", scopes=frozenset(scopes))
