"""What calls add up to before anything is written."""

from datetime import UTC, datetime

from integrations import histogram, rollups
from integrations.patterns import Attempt
from tests.fixtures_records import PHI3, REPLICA, a_call

NOON = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


def test_a_call_and_each_of_its_attempts_count_under_keys_of_their_own() -> None:
    tried = (
        Attempt(endpoint=PHI3, outcome="upstream_timeout", ms=100.0),
        Attempt(endpoint=REPLICA, outcome="ok", ms=20.0),
    )
    call = a_call(started_at=NOON, endpoint=REPLICA, duration_ms=125.0, texts=3, attempts=tried, failovers=1)
    minute = NOON.replace(second=0)
    found = {key[1:]: sums for key, sums in rollups.collect([call, call]).items() if key[0] == minute}
    assert set(found) == {
        ("call", "phi3", "real_time", "live", REPLICA, "ok"),
        ("attempt", "phi3", "real_time", "live", PHI3, "upstream_timeout"),
        ("attempt", "phi3", "real_time", "live", REPLICA, "ok"),
    }
    whole = found["call", "phi3", "real_time", "live", REPLICA, "ok"]
    assert (whole.count, whole.texts, whole.failovers, whole.total_ms) == (2, 6, 2, 250.0)
    assert whole.histogram == histogram.of([125.0, 125.0])
    assert found["attempt", "phi3", "real_time", "live", PHI3, "upstream_timeout"].total_ms == 200.0


def test_a_call_counts_in_the_minute_in_which_it_ended() -> None:
    (key,) = rollups.collect([a_call(started_at=NOON, duration_ms=45_000.0, endpoint="")])
    assert key[0] == datetime(2026, 3, 1, 12, 1, tzinfo=UTC)
