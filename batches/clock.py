"""The one clock of the queue: PostgreSQL's, so that hosts whose clocks differ agree on what is due."""

from datetime import datetime

from django.db import connection


def now() -> datetime:
    """Return the database's present time, also within a transaction that began earlier."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        (moment,) = cursor.fetchone()
    return moment  # type: ignore[no-any-return]  # a row of psycopg2 holds Any
