"""The clock steps back by an hour, for PostgreSQL, Redis and every process of Citadel, in the middle of work.

libfaketime gives them their clock; it is read from a file, so that it can step while they run.
"""

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pytest_django import DjangoDbBlocker

from batches import clock, submission
from tests.acceptance.test_worker_kills import (
    AT_STAKE,
    CHUNK,
    IN_FLIGHT,
    TEXTS,
    asked_twice,
    assert_each_text_has_its_own_vector,
    chunks_done,
    submit,
    wait_for_end,
)
from tests.made_batches import a_submission
from tests.processes import serve_model, stack_on, wait_until
from tests.servers import Servers
from tests.upstreams import Upstream


class Clock:
    """What libfaketime adds to the time; whoever runs with `env` reads it anew within a second."""

    def __init__(self, folder: Path) -> None:
        found = importlib.util.find_spec("libfaketime")
        assert found is not None
        assert found.origin is not None
        # Copied: another account, PostgreSQL's, must be able to read it.
        library = folder / "libfaketime.so"
        shutil.copy(Path(found.origin).parent / "vendor/libfaketime/src/libfaketime.so.1", library)
        self._file = folder / "offset"
        self.set_back(0)
        folder.chmod(0o755)
        library.chmod(0o755)
        self._file.chmod(0o644)
        self.env = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set_back(self, seconds: int) -> None:
        """Step."""
        self._file.write_text(f"-{seconds}")


@contextmanager
def own_clock() -> Iterator[Clock]:
    with tempfile.TemporaryDirectory() as folder:
        yield Clock(Path(folder))


def test_a_clock_that_steps_back_an_hour_holds_up_no_work(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> None:
    with ExitStack() as stays:
        time_of_all = stays.enter_context(own_clock())
        servers = stays.enter_context(Servers(env=time_of_all.env))
        stays.enter_context(django_db_blocker.unblock())
        stack = stays.enter_context(stack_on(servers, tmp_path))
        upstream, sick = stays.enter_context(Upstream(delay=0.15)), stays.enter_context(Upstream())
        stack.common.update(time_of_all.env)
        serve_model(upstream, max_in_flight=IN_FLIGHT, fields={"batch_size": CHUNK})
        serve_model(upstream, slug="held", fields={"processing_interval": 5.0})
        serve_model(sick, slug="sick", fields={"breaker_threshold": 1, "breaker_reset_timeout": 6.0})
        scheduler, first, second = stack.scheduler(), stack.worker(), stack.worker()
        sick.status(500)
        running, waiting = submit(TEXTS), submit(TEXTS[:5], slug="sick")
        wait_until(lambda: sick.calls > 0 and upstream.peak > IN_FLIGHT and chunks_done(running) >= 8, 30)
        held = submission.submit(a_submission(TEXTS[:5], slug="held", processing_interval=5.0)).batch_id
        before = clock.now()

        first.kill()
        time_of_all.set_back(3600)
        wait_until(lambda: clock.now() < before, 10)
        sick.clear()

        for batch_id, texts in ((running, TEXTS), (held, TEXTS[:5]), (waiting, TEXTS[:5])):
            wait_for_end(batch_id, scheduler, second, seconds=90)
            assert_each_text_has_its_own_vector(batch_id, texts, upstream)
        # The two small batches hold texts of the large one, and the breaker's batch was asked for in vain once or more.
        assert asked_twice(upstream) <= AT_STAKE * CHUNK + 5
