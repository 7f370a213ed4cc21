"""Fill an empty installation with made-up records, to see and to measure the console with."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from citadel.sample_data import loading
from integrations import snapshot
from integrations.management.operator_command import OperatorCommand


class Command(OperatorCommand):
    """Never touches real records: where there are any, it refuses."""

    help = "Makes call records with rollups, batches, transitions and audit entries of the configured models."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--calls", type=int, default=1_000_000, help="default: 1000000")
        parser.add_argument("--batches", type=int, default=10_000, help="default: 10000")
        parser.add_argument("--days", type=float, default=7.0, help="over so many days up to now; default: 7")

    def handle(self, *args: Any, **options: Any) -> None:
        """Load. Raises CommandError where that would mix with real records."""
        if loading.real_records():
            raise CommandError("This database has real calls or batches; sample data goes into an empty one only.")
        models = list(snapshot.load().models.values())
        if not models:
            raise CommandError("There is no model yet: run `manage.py sync_models` first.")
        if min(options["calls"], options["batches"], options["days"]) <= 0:
            raise CommandError("Give numbers over 0.")
        loading.load(
            models,
            calls=options["calls"],
            batches=options["batches"],
            days=options["days"],
            say=self.stdout.write,
        )
