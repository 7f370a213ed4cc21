"""How the console writes times, durations and figures, and which template tags get the page's nonce."""

import zoneinfo
from datetime import UTC, datetime

import pytest
from django.utils import timezone

from citadel.console.loaders import with_nonces
from integrations.templatetags import console

NOON = datetime(2026, 7, 1, 12, 0, 30, 123_000, tzinfo=UTC)


def test_a_time_is_in_the_operators_zone_and_shows_the_exact_utc_on_hover() -> None:
    with timezone.override(zoneinfo.ZoneInfo("Asia/Tokyo")):
        shown = console.moment(NOON)
    assert ">2026-07-01 21:00:30<" in shown
    assert 'title="2026-07-01 12:00:30.123 UTC"' in shown
    assert 'datetime="2026-07-01T12:00:30.123000+00:00"' in shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "–"),
        (0, "0 s"),
        (0.4, "0 s"),
        (23, "23 s"),
        (250, "4 min 10 s"),
        (7500, "2 h 5 min"),
        (7200, "2 h"),
        (3 * 86400 + 4 * 3600 + 5, "3 d 4 h"),
        (-5, "0 s"),
    ],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert console.duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (0.5, "0.5 ms"),
        (85.2, "85 ms"),
        (1234, "1.2 s"),
        (12_345, "12 s"),
        (4_000_000, "4,000 s"),
    ],
)
def test_milliseconds(value: float | None, words: str) -> None:
    assert console.ms(value) == words


@pytest.mark.parametrize(("value", "words"), [(100.0, "100 %"), (99.999, "99.99 %"), (95.25, "95.2 %"), (None, "–")])
def test_shares_are_whole_only_where_nothing_is_missing(value: float | None, words: str) -> None:
    assert console.percent(value) == words


@pytest.mark.parametrize(("value", "words"), [(0, "0/s"), (0.034, "0.03/s"), (1.25, "1.2/s"), (1234.5, "1,234/s")])
def test_rates(value: float, words: str) -> None:
    assert console.rate(value) == words


def test_a_templates_own_scripts_and_styles_get_the_nonce_once() -> None:
    nonce = 'nonce="{{ request.csp_nonce }}"'
    assert with_nonces('<script>go()</script><style id="x">') == f'<script {nonce}>go()</script><style {nonce} id="x">'
    assert with_nonces(f"<script {nonce}>") == f"<script {nonce}>"
    assert with_nonces("<scripture><styled>") == "<scripture><styled>"
