"""API keys and scopes in Django REST framework's terms; integrations.access decides."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from integrations.access import Client, identify, require
from integrations.errors import NotPermitted

if TYPE_CHECKING:
    # DRF imports this module while it makes its views.
    from rest_framework.views import APIView

Scopes = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Principal:
    """What DRF calls the user of a request: an API client, which is nobody's account."""

    name: str

    @property
    def is_authenticated(self) -> bool:
        """Whether a key was shown; an anonymous client may still have scopes."""
        return bool(self.name)


class ApiKeyAuthentication(BaseAuthentication):
    """`request.auth` becomes the Client, `request.user` its Principal. Raises NotAuthenticated."""

    def authenticate(self, request: Request) -> tuple[Principal, Client]:
        """Identify the client of this request."""
        client = identify(request.headers.get("Authorization"), request.headers.get("X-API-Key"))
        return Principal(client.name), client

    def authenticate_header(self, request: Request) -> str:
        """What a 401 names in WWW-Authenticate."""
        return "Bearer"


class HasScope(BasePermission):
    """Asks for the view's `required_scope`, or for `required_scopes[method]`: one scope, or a tuple of which one is
    enough. A view, or a method of one, that declares none is refused to everybody.
    """

    def has_permission(self, request: Request, view: "APIView") -> bool:
        """Return True, or raise NotAuthenticated or NotPermitted."""
        method = request.method or ""
        if method == "OPTIONS" or not hasattr(view, method.lower()):
            return True  # DRF answers 405 next
        scopes = _declared(view, "GET" if method == "HEAD" else method)
        if not scopes:
            raise NotPermitted("This address is open to no key.")
        require(client_of(request), *scopes)
        return True


def client_of(request: Request) -> Client:
    """Return the client that ApiKeyAuthentication found."""
    client = request.auth
    if not isinstance(client, Client):
        raise TypeError("this view does not use ApiKeyAuthentication")
    return client


def _declared(view: "APIView", method: str) -> tuple[str, ...]:
    by_method: Mapping[str, Scopes] = getattr(view, "required_scopes", {})
    declared: Scopes = by_method[method] if method in by_method else getattr(view, "required_scope", ())
    return (declared,) if isinstance(declared, str) else declared
