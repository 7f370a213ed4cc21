"""Print the models as the YAML that `sync_models --from` reads back."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from integrations.configuration import describe, write
from integrations.management.operator_command import OperatorCommand
from integrations.models import ModelConfig


class Command(OperatorCommand):
    """Print models, their endpoints and patterns as YAML. It holds no key and no secret."""

    help = "Prints models as YAML; `sync_models --from` makes the same of it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("models", nargs="*", metavar="MODEL", help="only these; all of them by default")

    def handle(self, *args: Any, **options: Any) -> None:
        slugs = options["models"]
        models = ModelConfig.objects.filter(slug__in=slugs) if slugs else ModelConfig.objects.all()
        unknown = sorted(set(slugs) - {m.slug for m in models})
        if unknown:
            raise CommandError(f"No model is called {', '.join(unknown)}.")
        self.stdout.write(write(describe(m) for m in models), ending="")
