"""How the console writes times, durations and figures. Every page uses these, so that each kind looks the same."""

from datetime import UTC, datetime
from typing import Final

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()

NOTHING: Final = "–"

_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))

# state -> what an operator reads, tone, symbol. The symbol and the words say it without the colour, too.
_STATES: Final = {
    "closed": ("closed", "good", "check_circle"),
    "half_open": ("half open", "warn", "timelapse"),
    "open": ("open", "bad", "block"),
    "forced_open": ("tripped", "bad", "front_hand"),
    "none": ("no endpoint", "warn", "link_off"),
    "drained": ("drained", "warn", "build"),
    "disabled": ("switched off", "off", "power_settings_new"),
    "waiting": ("no answer yet", "off", "hourglass_empty"),
    "well": ("as it was", "good", "check_circle"),
    "moved": ("other vectors", "bad", "swap_horiz"),
    "resized": ("other length", "bad", "straighten"),
    "unlike": ("unlike its replica", "warn", "compare_arrows"),
}


@register.filter
def moment(value: datetime | None) -> str:
    """A time to the second in the operator's zone; hovering shows it exactly, in UTC."""
    if value is None:
        return NOTHING
    return _timed(value, f"{timezone.localtime(value):%Y-%m-%d %H:%M:%S}")


@register.filter
def ago(value: datetime | None) -> str:
    """How long ago a time was; hovering shows it exactly, in UTC."""
    if value is None:
        return NOTHING
    return _timed(value, f"{duration((timezone.now() - value).total_seconds())} ago")


def _timed(value: datetime, text: str) -> SafeString:
    utc = value.astimezone(UTC)
    exact = f"{utc:%Y-%m-%d %H:%M:%S}.{utc.microsecond // 1000:03d} UTC"
    return format_html('<time datetime="{}" title="{}">{}</time>', utc.isoformat(), exact, text)


@register.filter
def duration(seconds: float | None) -> str:
    """Seconds in the two largest units that matter: "23 s", "4 min 10 s", "2 h 5 min", "3 d 4 h"."""
    if seconds is None:
        return NOTHING
    left = max(0, round(seconds))
    parts: list[str] = []
    for size, unit in _UNITS:
        if left >= size or (parts and unit != "s"):
            parts.append(f"{left // size} {unit}")
            left %= size
    shown = [part for part in parts[:2] if not part.startswith("0 ")]
    return " ".join(shown) or "0 s"


@register.filter
def ms(value: float | None) -> str:
    """Milliseconds as "85 ms", "1.2 s", "12 s"."""
    if value is None:
        return NOTHING
    if value < 1000:
        return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"
    return f"{value / 1000:.1f} s" if value < 10_000 else f"{value / 1000:,.0f} s"


@register.filter
def count(value: float | None) -> str:
    """A whole number, with commas."""
    return NOTHING if value is None else f"{value:,.0f}"


@register.filter
def rate(value: float | None) -> str:
    """So many a second, with as many digits as mean something."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}/s" if value >= 10 or value == 0 else f"{value:.1f}/s" if value >= 1 else f"{value:.2f}/s"


@register.filter
def percent(value: float | None) -> str:
    """A share; 100 % only where nothing is missing."""
    if value is None:
        return NOTHING
    return "100 %" if value == 100 else f"{min(value, 99.99):.2f} %" if value > 99.9 else f"{value:.1f} %"


@register.inclusion_tag("citadel/chip.html")
def chip(state: str, tone: str = "") -> dict[str, str]:
    """A state as a small label: a breaker's, or any other word in a `tone` (good, warn, bad, off)."""
    words, own_tone, symbol = _STATES.get(state, (state.replace("_", " "), "off", ""))
    return {"words": words, "tone": tone or own_tone, "symbol": symbol}
