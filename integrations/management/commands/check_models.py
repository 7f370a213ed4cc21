"""Ask every endpoint for its health and one real embedding."""

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError

from integrations import snapshot
from integrations.errors import ModelNotFound
from integrations.management.operator_command import OperatorCommand, table
from integrations.probing import Probed, probe_all
from integrations.values import Model

_HEADINGS = ("model", "endpoint", "protocol", "health", "dimensions", "ms", "error")


class Command(OperatorCommand):
    """Print a table of all endpoints and what they answered; the exit status is 1 if any is not well."""

    help = "Asks every enabled endpoint of every enabled model for its health and one real embedding."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--model", action="append", help="only this one, also when it is switched off; repeatable")

    def handle(self, *args: Any, **options: Any) -> None:
        answers = probe_all(_models(options["model"]))
        for line in table([_HEADINGS, *(_row(a) for a in answers)]):
            self.stdout.write(line)
        failed = sum(not a.ok for a in answers)
        if failed:
            raise CommandError(f"{failed} of {len(answers)} endpoints are not well.")


def _models(slugs: Sequence[str] | None) -> list[Model]:
    known = snapshot.load()
    try:
        return [known.model(slug) for slug in slugs or ()] or [m for m in known.models.values() if m.enabled]
    except ModelNotFound as error:
        raise CommandError(error.detail) from error


def _row(answer: Probed) -> tuple[str, ...]:
    endpoint, probe = answer.endpoint, answer.probe
    if endpoint is None or probe is None:
        return (answer.model, "-", "-", "-", "-", "-", answer.error)
    return (
        answer.model,
        endpoint.url,
        endpoint.protocol,
        "ok" if probe.health.ok else "failed",
        str(probe.dimensions or "-"),
        f"{probe.ms:.1f}" if probe.ms is not None else "-",
        answer.error,
    )
