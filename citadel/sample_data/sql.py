"""The statements that make the data, inside PostgreSQL: a million calls in under a minute.

Each takes what it needs by name. `%(ways)s` is a JSON list of the ways in which calls are made: model, pattern, mode,
endpoint, spare (another endpoint of the model, or ""), ms (a usual duration) and share (up to which of 1 it is taken).
"""

from typing import Final

from integrations.rollups import COLUMNS, KEY, summed

# So that they can be told from real ones, and removed.
PREFIX: Final = "sample-"

_WAYS = """
    ways AS (
        SELECT *, coalesce(lag(share) OVER (ORDER BY share), 0) AS above
        FROM jsonb_to_recordset(%(ways)s::jsonb) AS w (
            model text, pattern text, mode text, endpoint text, spare text, ms float8, share float8
        )
    )
"""

# Two in a hundred calls fail, two in a hundred are answered by the spare endpoint, one in 200 is ten times as slow.
CALLS: Final = f"""
    WITH {_WAYS}, drawn AS MATERIALIZED (
        SELECT g, random() AS which, random() AS luck, random() AS spread, random() AS more,
               now() - %(seconds)s * random() ^ 1.15 * interval '1 second' AS at
        FROM generate_series(1, %(count)s) AS g
    ), made AS (
        SELECT d.*, w.*,
               CASE WHEN luck < 0.002 THEN 'upstream_timeout' WHEN luck < 0.014 THEN 'upstream_failed'
                    WHEN luck < 0.017 THEN 'circuit_open' WHEN luck < 0.020 THEN 'text_rejected' ELSE 'ok' END AS code,
               w.ms * exp(1.6 * (spread - 0.5)) * CASE WHEN more < 0.005 THEN 10 ELSE 1 END AS took,
               luck > 0.98 AND w.spare <> '' AS failed_over
        FROM drawn d JOIN ways w ON d.which > w.above AND d.which <= w.share
    )
    INSERT INTO integrations_callrecord (started_at, request_id, client, model, pattern, mode, code, duration_ms,
                                         texts, endpoint, failover_from, attempts, batch_id)
    SELECT at, '{PREFIX}' || g, 'team-' || (1 + g %% 7), model, pattern, mode, code,
           CASE code WHEN 'circuit_open' THEN 0.4 WHEN 'upstream_timeout' THEN 30000 ELSE took END,
           CASE mode WHEN 'bulk' THEN 1 + g %% 100 WHEN 'queued' THEN 6 + g %% 50 ELSE 1 + g %% 5 END,
           CASE WHEN code = 'circuit_open' OR mode = 'queued' THEN '' WHEN failed_over THEN spare ELSE endpoint END,
           CASE WHEN failed_over THEN endpoint ELSE '' END,
           CASE
               WHEN code = 'circuit_open' OR mode = 'queued' THEN '[]'::jsonb
               WHEN failed_over THEN jsonb_build_array(
                   jsonb_build_object('endpoint', endpoint, 'outcome', 'upstream_failed',
                                      'ms', round(took::numeric / 4, 2), 'detail', 'connection refused'),
                   jsonb_build_object('endpoint', spare, 'outcome', code, 'ms', round(took::numeric * 3 / 4, 2)))
               ELSE jsonb_build_array(
                   jsonb_build_object('endpoint', endpoint, 'outcome', code, 'ms', round(took::numeric, 2)))
           END,
           CASE WHEN mode = 'live' THEN '' ELSE '{PREFIX}batch-' || (1 + g %% %(batches)s) END
    FROM made
"""

# The rows of one width from the calls of some time; each is what the recorder and the folding would have left.
ROLLUPS: Final = f"""
    WITH cells AS MATERIALIZED (
        SELECT date_trunc(%(unit)s, started_at) AS bucket, 'call' AS kind, model, pattern, mode, endpoint, code, texts,
               duration_ms AS ms, (failover_from <> '')::int AS failovers
        FROM integrations_callrecord
        WHERE starts_with(request_id, '{PREFIX}') AND started_at >= %(since)s AND started_at < %(until)s
        UNION ALL
        SELECT date_trunc(%(unit)s, started_at), 'attempt', model, pattern, mode, a.endpoint, a.outcome, 0, a.ms, 0
        FROM integrations_callrecord, jsonb_to_recordset(attempts) AS a (endpoint text, outcome text, ms float8)
        WHERE starts_with(request_id, '{PREFIX}') AND started_at >= %(since)s AND started_at < %(until)s
    ), places AS (
        SELECT bucket, kind, model, pattern, mode, endpoint, code, width_bucket(ms, %(bounds)s::float8[]) AS place,
               count(*) AS n, sum(texts) AS texts, sum(ms) AS ms, sum(failovers) AS failovers
        FROM cells GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    ), sums AS (
        SELECT bucket, kind, model, pattern, mode, endpoint, code, sum(n) AS n, sum(texts) AS texts, sum(ms) AS ms,
               sum(failovers) AS failovers, jsonb_object_agg(place, n) AS places, max(place) AS last
        FROM places GROUP BY 1, 2, 3, 4, 5, 6, 7
    )
    INSERT INTO integrations_callstats AS s (width, bucket, kind, model, pattern, mode, endpoint, code, count, texts,
                                             retries, failovers, total_ms, histogram)
    SELECT %(width)s, bucket, kind, model, pattern, mode, endpoint, code, n, texts, 0, failovers, ms,
           ARRAY(SELECT coalesce((places ->> p::text)::bigint, 0) FROM generate_series(0, last) AS p ORDER BY p)
    FROM sums
    ON CONFLICT DO NOTHING
"""

TOTALS: Final = f"""
    INSERT INTO integrations_callstats ({COLUMNS})
    SELECT 'total', %(ever)s, {KEY}, {summed()} FROM integrations_callstats GROUP BY {KEY}
"""

# Of every hundred the newest two are queued or in work, the others have ended.
BATCHES: Final = f"""
    WITH {_WAYS}, queues AS (
        SELECT model, pattern, row_number() OVER () AS n, count(*) OVER () AS of
        FROM (SELECT DISTINCT model, pattern FROM ways WHERE mode = 'queued') AS q
    ), made AS (
        SELECT g, q.model, q.pattern, 20 + (g * 7919) %% 480 AS total,
               now() - %(seconds)s * (1 - g::float8 / %(count)s) * interval '1 second' AS at,
               CASE WHEN g > %(count)s * 0.99 THEN 'queued' WHEN g > %(count)s * 0.98 THEN 'processing'
                    WHEN g %% 97 = 0 THEN 'failed' WHEN g %% 131 = 0 THEN 'cancelled' WHEN g %% 173 = 0 THEN 'expired'
                    ELSE 'completed' END AS state
        FROM generate_series(1, %(count)s) AS g JOIN queues q ON q.n = 1 + g %% q.of
    ), counted AS (
        SELECT *, CASE state WHEN 'completed' THEN total - CASE WHEN g %% 10 = 0 THEN 1 ELSE 0 END
                             WHEN 'processing' THEN total / 2 ELSE 0 END AS done,
               CASE state WHEN 'failed' THEN total WHEN 'completed' THEN CASE WHEN g %% 10 = 0 THEN 1 ELSE 0 END
                          ELSE 0 END AS lost
        FROM made
    )
    INSERT INTO batches_batchjob (batch_id, client, model, pattern, state, priority, input_type, client_metadata,
        request_id, body_digest, total, completed, failed, submitted_at, queued_at, released_at, available_at,
        started_at, finished_at, expires_at, estimated_completion, stored)
    SELECT '{PREFIX}batch-' || g, 'team-' || (1 + g %% 7), model, pattern, state, 5, '', '{{}}'::jsonb,
           '{PREFIX}' || g, '', total, done, lost, at, at, at, at,
           CASE WHEN state IN ('completed', 'failed', 'processing') THEN at + interval '5 seconds' END,
           CASE WHEN state NOT IN ('queued', 'processing') THEN at + total * interval '0.2 seconds' END,
           at + interval '1 day', at + total * interval '0.22 seconds', true
    FROM counted
    ON CONFLICT DO NOTHING
"""

# 100 texts a chunk; a vector has four numbers, so that the data stays small.
CHUNKS: Final = f"""
    INSERT INTO batches_batchchunk (batch_id, number, first, size, state, attempts, available_at, lease_owner, texts,
                                    vectors, dimensions, errors, endpoint, upstream_model, finished_at)
    SELECT b.id, n, n * 100, size,
           CASE WHEN b.state IN ('cancelled', 'expired') THEN 'dropped' WHEN done THEN 'done' ELSE 'waiting' END,
           done::int, b.available_at, '',
           (SELECT jsonb_agg('a text of sample data, number ' || (n * 100 + i)) FROM generate_series(0, size - 1) AS i),
           CASE WHEN done AND b.state <> 'failed' THEN decode(repeat('0000803f', size * 4), 'hex') END,
           CASE WHEN done AND b.state <> 'failed' THEN 4 END,
           CASE WHEN done AND b.state = 'failed' THEN
                    (SELECT jsonb_object_agg(i, '{{"code": "upstream_failed", "detail": "connection refused"}}'::jsonb)
                     FROM generate_series(0, size - 1) AS i)
                WHEN done AND b.failed > 0 AND n = 0 THEN
                    '{{"0": {{"code": "text_rejected", "detail": "too long for the context"}}}}'::jsonb
                ELSE '{{}}'::jsonb END,
           '', '', CASE WHEN done THEN b.finished_at END
    FROM (
        SELECT b.*, n, least(100, b.total - n * 100) AS size,
               b.state IN ('completed', 'failed') OR b.state = 'processing' AND n * 100 + 100 <= b.completed AS done
        FROM batches_batchjob b, generate_series(0, (b.total - 1) / 100) AS n
        WHERE starts_with(b.batch_id, '{PREFIX}')
    ) AS b
    ON CONFLICT DO NOTHING
"""

# What is done of a batch in work is what its chunks say.
COUNTS: Final = f"""
    UPDATE batches_batchjob b SET completed = c.done
    FROM (SELECT batch_id, coalesce(sum(size) FILTER (WHERE state = 'done'), 0) AS done
          FROM batches_batchchunk GROUP BY batch_id) AS c
    WHERE c.batch_id = b.id AND b.state = 'processing' AND starts_with(b.batch_id, '{PREFIX}')
"""

EVENTS: Final = f"""
    WITH {_WAYS}, servers AS (
        SELECT model, endpoint, row_number() OVER () AS n, count(*) OVER () AS of
        FROM (SELECT DISTINCT model, endpoint FROM ways WHERE endpoint <> '') AS s
    )
    INSERT INTO integrations_breakerevent (at, model, url, from_state, to_state, reason, actor)
    SELECT now() - (%(count)s - g) * %(seconds)s / %(count)s * interval '1 second', model, endpoint,
           (ARRAY['closed', 'open', 'half_open', 'closed', 'forced_open'])[1 + g %% 5],
           (ARRAY['open', 'half_open', 'closed', 'forced_open', 'closed'])[1 + g %% 5],
           (ARRAY['upstream_timeout: The server did not answer in 10 s.', 'trial', 'trial succeeded', 'new driver', ''])
               [1 + g %% 5],
           CASE WHEN g %% 5 >= 3 THEN '{PREFIX}operator' ELSE '' END
    FROM generate_series(1, %(count)s) AS g JOIN servers s ON s.n = 1 + (g / 5) %% s.of
"""

AUDIT: Final = f"""
    WITH {_WAYS}, named AS (
        SELECT model, row_number() OVER () AS n, count(*) OVER () AS of FROM (SELECT DISTINCT model FROM ways) AS m
    )
    INSERT INTO integrations_auditentry (at, actor, action, model, target, before, after, reason)
    SELECT now() - (%(count)s - g) * %(seconds)s / %(count)s * interval '1 second', '{PREFIX}operator',
           CASE g %% 2 WHEN 0 THEN 'drain_model' ELSE 'undrain_model' END, model, model,
           jsonb_build_object('draining', g %% 2 = 1, 'drain_reason', CASE g %% 2 WHEN 1 THEN 'new driver' ELSE '' END),
           jsonb_build_object('draining', g %% 2 = 0, 'drain_reason', CASE g %% 2 WHEN 0 THEN 'new driver' ELSE '' END),
           CASE g %% 2 WHEN 0 THEN 'new driver' ELSE '' END
    FROM generate_series(1, %(count)s) AS g JOIN named m ON m.n = 1 + (g / 2) %% m.of
"""

REMOVE: Final = (
    f"DELETE FROM integrations_callrecord WHERE starts_with(request_id, '{PREFIX}')",
    "DELETE FROM integrations_callstats",
    "DELETE FROM batches_batchchunk c USING batches_batchjob b "
    f"WHERE b.id = c.batch_id AND starts_with(b.batch_id, '{PREFIX}')",
    f"DELETE FROM batches_batchjob WHERE starts_with(batch_id, '{PREFIX}')",
    f"DELETE FROM integrations_breakerevent WHERE actor = '{PREFIX}operator' OR endpoint_id IS NULL AND actor = ''",
    f"DELETE FROM integrations_auditentry WHERE actor = '{PREFIX}operator'",
)
TABLES: Final = (
    "integrations_callrecord",
    "integrations_callstats",
    "batches_batchjob",
    "batches_batchchunk",
    "batches_endedsums",
    "integrations_breakerevent",
    "integrations_auditentry",
)
