"""The demo model servers of quickstart: which model stands on which port, speaking what."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One server: it answers to one model, on one port of 127.0.0.1, in one protocol."""

    slug: str
    protocol: str
    port: int

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"


# In the order of their ports, from --models-port on. The second phi3 is a replica, in a process of its own.
FLEET = (
    ("mixtral", "ollama"),
    ("hermes", "ollama"),
    ("openchat", "openai"),
    ("phi3", "ollama"),
    ("yi34", "openai"),
    ("deepcoder", "tei"),
    ("imp", "tei"),
    ("deepseek", "openai"),
    ("general", "openai"),
)
REPLICAS = (("phi3", "ollama"),)


def seats(ports: Iterable[int]) -> tuple[tuple[Seat, ...], tuple[Seat, ...]]:
    """Give out ports: first to the nine models, then to the replicas. Needs len(FLEET) + len(REPLICAS) of them."""
    taken = iter(ports)

    def seated(entries: Iterable[tuple[str, str]]) -> tuple[Seat, ...]:
        return tuple(Seat(slug=slug, protocol=protocol, port=next(taken)) for slug, protocol in entries)

    return seated(FLEET), seated(REPLICAS)


def environment(everyone: Iterable[Seat]) -> dict[str, str]:
    """Return the variables that seed Citadel's configuration with these servers: see integrations.seeding."""
    variables: dict[str, str] = {}
    for seat in everyone:
        name = f"{seat.slug.upper()}_ENDPOINT"
        variables[name] = ",".join(filter(None, [variables.get(name), seat.url]))
        variables[f"{seat.slug.upper()}_PROTOCOL"] = seat.protocol
        variables[f"{seat.slug.upper()}_UPSTREAM_MODEL"] = seat.slug
    return variables


def parse(words: Iterable[str]) -> tuple[Seat, ...]:
    """Read seats as the command line has them: slug=protocol:port. Raises ValueError."""
    found = []
    for word in words:
        slug, _, rest = word.partition("=")
        protocol, _, port = rest.partition(":")
        if not slug or protocol not in ("ollama", "openai", "tei") or not port.isdigit():
            raise ValueError(f"“{word}” is not of the form phi3=ollama:11403")
        found.append(Seat(slug=slug, protocol=protocol, port=int(port)))
    return tuple(found)
