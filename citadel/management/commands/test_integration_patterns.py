"""Send real requests through every pattern of a running Citadel and report what came back."""

import json
import os
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from tqdm import tqdm

from citadel.pattern_test import circuit, run
from citadel.pattern_test.client import Citadel
from citadel.pattern_test.report import Report
from citadel.pattern_test.rows import SECTIONS, Counts, Row, rows_of
from citadel.pattern_test.run import Settings


class Command(BaseCommand):
    """Print the report; the exit status is 0 only if every line of it passed."""

    help = "Tests the patterns of a running Citadel with real requests. It needs no database, only the server's URL."
    requires_system_checks: tuple[str, ...] = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        chosen = parser.add_argument_group("what is tested (all of it by default)")
        chosen.add_argument("--all-patterns", action="store_true", help="all patterns and models")
        chosen.add_argument("--pattern", action="append", choices=SECTIONS, help="only this one; repeatable")
        chosen.add_argument("--model", action="append", help="only this one; repeatable")
        chosen.add_argument("--requests", type=_positive, metavar="N", help="live requests a row (50; hybrid 25 + 25)")
        chosen.add_argument("--batches", type=_positive, metavar="N", default=5, help="batches of a bulk model (5)")
        server = parser.add_argument_group("the server")
        server.add_argument("--url", default=os.environ.get("CITADEL_URL", "http://127.0.0.1:8000"))
        server.add_argument(
            "--api-key",
            default=os.environ.get("CITADEL_API_KEY", ""),
            help="with the scopes embed, batch, read and operate; better given as CITADEL_API_KEY",
        )
        server.add_argument("--wait", type=float, default=600.0, help="seconds that a batch may take (600)")
        shown = parser.add_argument_group("the report")
        shown.add_argument("--verbose", action="store_true", help="p50 and p95 of each row, the steps of each drill")
        shown.add_argument("--json", action="store_true", help="as JSON")
        shown.add_argument(
            "--min-success", type=float, default=100.0, metavar="PERCENT", help="of a row, to pass (100)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        with Citadel(options["url"], api_key=options["api_key"]) as citadel:
            rows = _rows(citadel, options)
            report = _tested(citadel, rows, options)
        if options["json"]:
            self.stdout.write(json.dumps(report.json(), indent=2, ensure_ascii=False))
        else:
            self.stdout.write(report.text(verbose=options["verbose"]))
        if not report.passed:
            raise CommandError("The pattern test did not pass.")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"“{text}” is not a number from 1")
    return int(text)


def _rows(citadel: Citadel, options: dict[str, Any]) -> Sequence[Row]:
    answer = citadel.status()
    if answer.error:
        raise CommandError(f"{citadel.url} does not say which patterns there are: {answer.error}")
    requests = options["requests"]
    counts = Counts(live=requests or 50, hybrid=max(1, requests // 2) if requests else 25, batches=options["batches"])
    everything = options["all_patterns"]
    only_patterns = () if everything else options["pattern"] or ()
    only_models = options["model"] or ()
    rows = rows_of(answer.json.get("patterns", {}), counts=counts, only_patterns=only_patterns, only_models=only_models)
    unknown = sorted(set(only_models) - {row.model for row in rows})
    if unknown or not rows:
        raise CommandError(f"Nothing to test: {', '.join(unknown) or 'no model'} is in none of these patterns.")
    return rows


def _tested(citadel: Citadel, rows: Sequence[Row], options: dict[str, Any]) -> Report:
    models = list(dict.fromkeys(row.model for row in rows))
    started = time.monotonic()
    # On a terminal only, and not on stdout: a report that is piped must hold nothing but the report.
    with tqdm(total=sum(r.total for r in rows) + len(models), file=sys.stderr, disable=None, leave=False) as bar:
        outcome = run.run(citadel, rows, settings=Settings(wait=options["wait"]), progress=bar.update)
        drills = circuit.drill_all(citadel, models, progress=bar.update)
    return Report(
        url=citadel.url,
        outcome=outcome,
        drills=drills,
        min_success=options["min_success"],
        seconds=time.monotonic() - started,
    )
