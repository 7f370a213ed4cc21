"""Run the scheduler: release, rescue, expire, purge, prune."""

import signal
from argparse import ArgumentParser
from types import FrameType
from typing import Any

from django.core.management.base import BaseCommand

from batches import callbacks
from batches.scheduling import Scheduler
from integrations import snapshot


class Command(BaseCommand):
    """Runs until SIGTERM or SIGINT. Two schedulers do no harm: they take turns."""

    # The checks load every view of the web process; `manage.py check` and the web server run them.
    requires_system_checks: tuple[str, ...] = ()
    help = "Releases, rescues, expires and purges batches and prunes records, every SCHEDULER_INTERVAL seconds."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--once", action="store_true", help="do everything that is due now, then end")

    def handle(self, *args: Any, **options: Any) -> None:
        scheduler = Scheduler()
        if options["once"]:
            scheduler.tick()
            callbacks.deliver_due()
            scheduler.sign_off()
            return

        def stop(signum: int, frame: FrameType | None) -> None:
            scheduler.stop()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        courier = callbacks.Courier()
        snapshot.start_watcher()
        courier.start()
        try:
            scheduler.run()
        finally:
            courier.stop()
            snapshot.stop_watcher()
