"""What the scheduler's process does in threads of its own: whoever waits for a network must hold up no rescue."""

import logging
import threading
from collections.abc import Callable

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection

log = logging.getLogger(__name__)


class Repeating:
    """Does one thing every SCHEDULER_INTERVAL, at once again where it returns True, whatever it raises."""

    def __init__(self, name: str, do: Callable[[], bool], *, patience: float) -> None:
        self._name, self._do, self._patience = name, do, patience
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after what is under way, which gets `patience` seconds."""
        self._stop.set()
        self._thread.join(self._patience)

    def _run(self) -> None:
        pause = 0.0
        while not self._stop.wait(pause):
            pause = settings.SCHEDULER_INTERVAL
            try:
                if self._do():
                    pause = 0.0
            except (DatabaseError, InterfaceError) as error:
                log.debug("%s: PostgreSQL does not answer (%s)", self._name, type(error).__name__)
                connection.close()
            except Exception:
                if not self._stop.is_set():  # an ending process cancels what is under way
                    log.exception("%s failed", self._name)
        connection.close()
