"""What every process that makes calls keeps running beside them: configuration, breakers, gauges, records."""

from integrations import breakers, gateway, gauges, limits, pressure, recorder, snapshot


def start(*, keep_snapshot: bool = False) -> None:
    """Load and watch the configuration, share breakers, publish calls under way and how they fare.

    Waits for PostgreSQL a few seconds.
    keep_snapshot: keep each version in a file, for a start while PostgreSQL is away.
    """
    snapshot.start_watcher(keep_file=keep_snapshot)
    breakers.start()
    gauges.publish(gateway.in_flight)
    pressure.start()


def stop() -> None:
    """Stop all of it; what is still to be told or written goes out first."""
    snapshot.stop_watcher()
    limits.stop()
    breakers.stop()
    gauges.stop()
    pressure.stop()
    recorder.stop()
