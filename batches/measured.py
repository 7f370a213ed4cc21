"""How fast the queue lately worked, and by how much its promises were off.

Both are read off the batches that ended last, so many at most: more of them would cost more and say less of how it is
now. Times are PostgreSQL's.
"""

from datetime import datetime
from typing import Any, Final

from django.db import connection

# The batches whose counts all come from the run that `started_at` began: no retried ones. PostgreSQL takes two columns
# for equal in one of 200 rows, and would rather sort a day's batches than go back over the last ones; of a function's
# result it knows nothing.
_FIRST_RUN: Final = "started_at IS NOT NULL AND coalesce(queued_at = submitted_at, false)"

# Texts, and the time in which there was work: batches in work side by side count their time once.
_WORK: Final = """
    WITH work AS (
        (SELECT completed + failed AS texts, started_at AS began, finished_at AS ended
         FROM batches_batchjob
         WHERE {ended} AND finished_at > %(since)s AND {first_run}
         ORDER BY finished_at DESC LIMIT %(most)s)
        UNION ALL
        (SELECT completed + failed, started_at, %(now)s
         FROM batches_batchjob
         WHERE {active} AND state = 'processing' AND {first_run}
         LIMIT %(most)s)
    ), known AS (
        SELECT *, max(ended) OVER (ORDER BY began ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS until
        FROM work WHERE texts > 0
    )
    SELECT sum(texts), sum(greatest(ended - greatest(began, until), interval '0')) FROM known
"""
_OF_ALL: Final = _WORK.format(ended="state IN ('completed', 'failed')", active="true", first_run=_FIRST_RUN)
_OF_MODEL: Final = _WORK.format(ended="model = %(model)s", active="model = %(model)s", first_run=_FIRST_RUN)

_ERROR: Final = """
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY error) FROM (
        SELECT abs(extract(epoch FROM finished_at - estimated_completion)::float8) AS error
        FROM batches_batchjob
        WHERE finished_at > %(since)s AND state = 'completed' AND estimated_completion IS NOT NULL
        ORDER BY finished_at DESC LIMIT %(most)s
    ) AS last
"""


def texts_per_second(*, since: datetime, now: datetime, most: int, model: str | None = None) -> float | None:
    """Return the texts a second of the last `most` batches that ended after `since`, and of as many in work at `now`.

    Of one model; without it of all, and then only of batches that ended with outcomes. None without a measurement.
    """
    values: dict[str, Any] = {"since": since, "now": now, "most": most, "model": model}
    with connection.cursor() as cursor:
        cursor.execute(_OF_ALL if model is None else _OF_MODEL, values)
        texts, busy = cursor.fetchone()
    return texts / busy.total_seconds() if busy else None


def estimate_error(*, since: datetime, most: int) -> float | None:
    """Return the median of |finished - promised| in seconds, of the last `most` completed after `since`; or None."""
    with connection.cursor() as cursor:
        cursor.execute(_ERROR, {"since": since, "most": most})
        (median,) = cursor.fetchone()
    return median  # type: ignore[no-any-return]  # a row of psycopg2 holds Any
