"""How a window of time may be written."""

import pytest

from integrations.api.status import parse_window
from integrations.errors import InvalidRequest


@pytest.mark.parametrize(
    ("given", "seconds"), [(None, 300), ("90", 90), ("90s", 90), ("5m", 300), ("24h", 86_400), ("1440m", 86_400)]
)
def test_windows_are_written_in_seconds_minutes_or_hours(given: str | None, seconds: int) -> None:
    assert parse_window(given) == seconds


@pytest.mark.parametrize("given", ["", "5", "59s", "25h", "5 m", "-300", "1e3", "5d", "٣٠٠", "9" * 50])
def test_another_window_is_refused_with_the_field_named(given: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_window(given)
    assert refused.value.errors is not None
    assert list(refused.value.errors) == ["window"]
