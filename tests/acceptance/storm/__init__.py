"""The storm: Citadel's processes, Redis and PostgreSQL are killed at random moments, and nothing is lost.

    python -m tests.acceptance.storm --minutes 5 --seed 7

On servers of its own. For so many minutes clients submit batches (20,000 texts a minute) and make live calls, while
kill -9 meets workers, web, scheduler, Redis and PostgreSQL, in an order and at moments that the seed decides; a
supervisor starts again what was killed. Then everything is left in peace until the last batch has ended, and judged by
what PostgreSQL holds, by what a trigger in it has written down of every change, and by what the model server was asked.
"""
