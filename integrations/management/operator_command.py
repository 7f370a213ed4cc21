"""What the commands about models have in common."""

from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, InterfaceError


class OperatorCommand(BaseCommand):
    """Starts whatever the configuration is like, and says in a line that PostgreSQL cannot be used."""

    # The system checks would refuse to start over the very faults that these commands find and put right.
    requires_system_checks: tuple[str, ...] = ()

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run the command. Raises CommandError in place of the database's errors."""
        try:
            return super().execute(*args, **options)
        except (DatabaseError, InterfaceError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CommandError(f"{reason} (DATABASE_URL right? `manage.py migrate` run?)") from error


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
