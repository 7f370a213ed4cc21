"""Make the database's models as the environment, or a YAML file, says."""

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from integrations import operations, rules, seeding
from integrations.configuration import ModelDocument, read
from integrations.management.operator_command import OperatorCommand
from integrations.models import ModelConfig
from integrations.operations import ModelChange


class Command(OperatorCommand):
    """Create the nine models where they are missing; --reset and --from make models equal to what they should be."""

    help = (
        "Without options: creates those of the nine models that are missing, as the environment describes them, "
        "and changes nothing else. docs/configuration.md describes the file of --from."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        source = parser.add_mutually_exclusive_group()
        source.add_argument("--reset", action="store_true", help="make the nine models as the environment says")
        source.add_argument("--from", dest="file", metavar="FILE.yaml", help="make the file's models as the file says")
        parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        source = options["file"] or "environment"
        try:
            documents = _documents(options["file"], reset=options["reset"])
            changes = operations.sync(documents, actor="manage.py sync_models", dry_run=options["dry_run"])
        except ValidationError as error:
            raise CommandError(_refusal(source, error)) from error
        self._tell(changes, dry_run=options["dry_run"])
        for model in ModelConfig.objects.all():
            for path, messages in rules.warnings_of(model).items():
                self.stderr.write(f"warning: {model.slug}: {path}: {' '.join(messages)}")

    def _tell(self, changes: Sequence[ModelChange], *, dry_run: bool) -> None:
        for change in changes:
            self.stdout.write("\n".join(_lines(change)))
        if dry_run:
            self.stdout.write(f"Would change {len(changes)} of the models; nothing was changed.")
        else:
            self.stdout.write(f"Changed {len(changes)} of {ModelConfig.objects.count()} models.")


def _documents(file: str | None, *, reset: bool) -> Sequence[ModelDocument]:
    if file is None:
        return seeding.seeds() if reset else seeding.missing()
    try:
        return read(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file}: {error}") from error


def _refusal(source: str, error: ValidationError) -> str:
    lines = [f"  {source}: {path}: {' '.join(messages)}" for path, messages in error.message_dict.items()]
    return "\n".join(["nothing was changed:", *lines])


def _lines(change: ModelChange) -> list[str]:
    """The diff of one model, a line for each key that differs."""
    before = change.before
    if before is None:
        return [f"+ {change.slug}: {_short(change.after)}"]
    keys = [*change.after, *(k for k in before if k not in change.after)]
    return [
        f"~ {change.slug}: {key}: {_short(before.get(key))} -> {_short(change.after.get(key))}"
        for key in keys
        if before.get(key) != change.after.get(key)
    ]


def _short(value: Any) -> str:
    """A value on one line; what stands as by default says so."""
    return "(default)" if value is None else json.dumps(value, ensure_ascii=False)
