"""The languages that model servers speak. `get(name)` gives one; docs/protocols.md says how to add another."""

from integrations.protocols.base import Health, HttpRequest, HttpResponse, Protocol
from integrations.protocols.ollama import Ollama
from integrations.protocols.openai import OpenAI
from integrations.protocols.tei import TEI
from integrations.protocols.vectors import Vectors

_PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (Ollama(), OpenAI(), TEI())}

NAMES = tuple(_PROTOCOLS)

__all__ = ["NAMES", "Health", "HttpRequest", "HttpResponse", "Protocol", "Vectors", "get"]


def get(name: str) -> Protocol:
    """Return the protocol. KeyError for any other name: the rules of the configuration let none through."""
    return _PROTOCOLS[name]
