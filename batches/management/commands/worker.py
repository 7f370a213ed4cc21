"""Run one worker."""

import faulthandler
import logging
import os
import secrets
import socket
import time
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import InterfaceError, OperationalError, connection

from batches import jobs, processing, rescue
from batches.processing import Engine
from batches.queues import Station
from integrations import loop, process

log = logging.getLogger(__name__)

# What a stop may take beyond WORKER_STOP_TIMEOUT: handing back, the last records, signing off. A process that hangs
# then (on a Redis that falls silent, say) says where, and ends: its leases run out by themselves.
GRACE = 4.0


class Command(BaseCommand):
    """Runs until SIGTERM or SIGINT."""

    # The checks load every view of the web process; `manage.py check` and the web server run them.
    requires_system_checks: tuple[str, ...] = ()
    help = "Takes batches from batch_queue and batch_helpers and keeps their model servers busy. Start any number."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--name", default="", help="unique among all workers; default: host, pid and a random part")
        parser.add_argument("--burst", action="store_true", help="end when nothing is left to do now")

    def handle(self, *args: Any, **options: Any) -> None:
        name = options["name"] or f"{socket.gethostname()[:70]}-{os.getpid()}-{secrets.token_hex(2)}"
        engine = Engine(name)
        processing.install(engine)
        station = Station(name, after_job=jobs.after, on_stop=lambda: _on_stop(engine))
        station.install_signal_handlers()
        process.start()
        try:
            if _start(engine):
                log.info("worker started", extra={"worker": name})
                _run_burst(engine, station) if options["burst"] else station.run()
                engine.shutdown(settings.WORKER_STOP_TIMEOUT)
        finally:
            process.stop()
            loop.stop()
        log.info("worker stopped", extra={"worker": name})


def _on_stop(engine: Engine) -> None:
    engine.request_stop()
    faulthandler.dump_traceback_later(settings.WORKER_STOP_TIMEOUT + GRACE, exit=True)


def _start(engine: Engine) -> bool:
    """Start the engine as soon as PostgreSQL answers; False when the worker is stopped before."""
    while not engine.stopping:
        try:
            engine.start()
        except (OperationalError, InterfaceError) as error:
            log.warning("worker waits: PostgreSQL does not answer", extra={"error": str(error)})
            connection.close()
            time.sleep(1)
        else:
            return True
    return False


def _run_burst(engine: Engine, station: Station) -> None:
    while not engine.stopping:
        station.run(burst=True)
        engine.drain(settings.BULK_TIMEOUT)
        if not rescue.dispatch():
            return
