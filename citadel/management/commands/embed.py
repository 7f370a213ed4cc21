"""Embed files of texts through a running Citadel: `citadel-embed`, for who has manage.py at hand."""

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from citadel.embed_files import command


class Command(BaseCommand):
    """A client: it asks the server's URL, no database."""

    help = command.DESCRIPTION
    requires_system_checks: tuple[str, ...] = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        command.add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        if status := command.execute(options):
            sys.exit(status)
