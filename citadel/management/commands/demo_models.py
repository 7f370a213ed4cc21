"""`manage.py demo_models`: model servers to try Citadel with. Real embeddings, on 127.0.0.1 only."""

import signal
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from citadel.quickstart import fleet, model_server


class Command(BaseCommand):
    """Serves MiniLM under the names of the nine models, or under those given."""

    help = (
        "Serve real embeddings (all-MiniLM-L6-v2, 384 dimensions) on 127.0.0.1, in the protocols of Ollama, of OpenAI "
        "and of text-embeddings-inference, until stopped. Without seats: the nine models and a replica of phi3."
    )
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("seats", nargs="*", metavar="NAME=PROTOCOL:PORT", help="for example phi3=ollama:11403")
        parser.add_argument("--port", type=int, default=11400, help="the first port where no seats are given")

    def handle(self, *, seats: list[str], port: int, **_options: Any) -> None:
        try:
            chosen = fleet.parse(seats) or sum(fleet.seats(range(port, port + 100)), ())
        except ValueError as error:
            raise CommandError(str(error)) from error
        # Blocked in every thread from the start, so that none of them but sigwait below is woken by a stop.
        stops = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, stops)
        try:
            with model_server.serving(chosen):
                for seat in chosen:
                    self.stdout.write(f"{seat.slug:<10} {seat.protocol:<7} {seat.url}")
                signal.sigwait(stops)
        except OSError as error:
            raise CommandError(f"A port is taken: {error}. Stop what holds it, or give others.") from error
