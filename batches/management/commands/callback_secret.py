"""Say with which secret a client checks the signature of its callbacks."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from batches import callbacks


class Command(BaseCommand):
    """Prints the secret, and nothing else; the client enters it where it receives callbacks."""

    requires_system_checks: tuple[str, ...] = ()
    help = "Prints a client's secret for callbacks (Standard Webhooks), made of CALLBACK_SECRET and its name."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("client", help="the name of the client, as its API keys have it")

    def handle(self, *args: Any, **options: Any) -> None:
        found = callbacks.secrets_of(options["client"])
        if not found:
            raise CommandError("CALLBACK_SECRET is not set.")
        self.stdout.write(found[0])
