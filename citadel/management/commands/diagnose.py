"""Say how this Citadel stands: settings, database, Redis, configuration, processes, breakers, model servers."""

import json
import logging
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from citadel.diagnosis import Diagnosis, diagnose
from integrations.management.operator_command import table

_LISTS = {
    "processes": ("name", "kind", "host", "pid", "alive", "seen_seconds_ago", "batch_id"),
    "breakers": ("model", "endpoint", "status", "failure_count", "reason", "by", "until"),
    "endpoints": ("model", "endpoint", "protocol", "ok", "dimensions", "ms", "error"),
}


class Command(BaseCommand):
    """Print what was found, the problems last; the exit status is 1 if there are any."""

    help = "Asks every part of this Citadel how it is. Secrets are not shown."
    requires_system_checks: tuple[str, ...] = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--verbose", action="store_true", help="show every setting too")
        parser.add_argument("--debug", action="store_true", help="show tracebacks and debug logs of what failed")
        parser.add_argument("--json", action="store_true", help="as JSON, everything included")

    def handle(self, *args: Any, **options: Any) -> None:
        logging.getLogger().setLevel(logging.DEBUG if options["debug"] else logging.ERROR)
        found = diagnose()
        if options["json"]:
            self.stdout.write(json.dumps({**found.parts, "problems": found.problems}, indent=2, default=str))
        else:
            self.stdout.write("\n".join(_text(found, settings=options["verbose"])))
        if options["debug"]:
            self.stderr.write("\n".join(found.traces))
        if found.problems:
            raise CommandError(f"{len(found.problems)} problems were found.")


def _text(found: Diagnosis, *, settings: bool) -> Iterator[str]:
    for name, part in found.parts.items():
        if name == "settings" and not settings:
            continue
        yield f"{name.capitalize()}:"
        yield from (f"  {line}" for line in _lines(name, part))
    yield "Problems:"
    yield from (f"  {problem}" for problem in found.problems or ["none"])


def _lines(name: str, part: Any) -> list[str]:
    if isinstance(part, Mapping):
        width = max((len(key) for key in part), default=0)
        return [f"{key.ljust(width)}  {_cell(value)}" for key, value in part.items()]
    columns = _LISTS[name]
    return table([columns, *([_cell(row[c]) for c in columns] for row in part)]) if part else ["none"]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return "; ".join(f"{k}: {_cell(v)}" for k, v in value.items() if v) or "-"
    if isinstance(value, list):
        return ", ".join(str(v) for v in value) or "-"
    return "-" if value is None or value == "" else str(value)
