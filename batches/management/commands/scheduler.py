"""Run the scheduler: release, rescue, expire, purge, prune, callbacks, canaries."""

import signal
from argparse import ArgumentParser
from types import FrameType
from typing import Any

from django.core.management.base import BaseCommand

from batches import file_clerk, scheduling
from integrations import limits, recorder, snapshot


class Command(BaseCommand):
    """Runs until SIGTERM or SIGINT. Two schedulers do no harm: they take turns."""

    # The checks load every view of the web process; `manage.py check` and the web server run them.
    requires_system_checks: tuple[str, ...] = ()
    help = (
        "Releases, rescues, expires and purges batches, reads and writes their files, prunes records, calls back and "
        "asks canaries."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--once", action="store_true", help="do everything that is due now, then end")

    def handle(self, *args: Any, **options: Any) -> None:
        scheduler = scheduling.Scheduler()
        if options["once"]:
            scheduler.tick()
            scheduling.deliver()
            scheduling.check_canaries()
            while file_clerk.do_one():
                pass
            scheduler.sign_off()
            limits.stop()
            recorder.stop()
            return

        def stop(signum: int, frame: FrameType | None) -> None:
            scheduler.stop()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        threads = scheduling.threads()
        snapshot.start_watcher()
        for thread in threads:
            thread.start()
        try:
            scheduler.run()
        finally:
            for thread in threads:
                thread.stop()
            limits.stop()
            recorder.stop()
            snapshot.stop_watcher()
