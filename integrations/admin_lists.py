"""What long lists in the admin share: filters that ask for no distinct values, and pages that count to a bound."""

from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from integrations import errors
from integrations.models import ModelConfig
from integrations.patterns import Mode, Pattern

if TYPE_CHECKING:
    Pages = Paginator[Any]
else:
    Pages = Paginator

SLOW_MS: Final = 1000  # what the index of slow calls holds
_TIMES: Final = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}


class WindowPaginator(Pages):
    """Counts to LIMIT and shows as many: counting a million rows takes longer than anybody reads on."""

    LIMIT = 3_000
    template_name = "citadel/pagination.html"

    @cached_property
    def _found(self) -> int:
        rows: Any = self.object_list
        return int(rows[: self.LIMIT + 1].count())

    @property
    def count(self) -> int:
        """How many rows can be shown."""
        return min(self._found, self.LIMIT)

    @property
    def more(self) -> bool:
        """Whether there are older ones that are not shown."""
        return self._found > self.LIMIT


Values = Callable[[], Iterable[tuple[str, str]]]
Narrow = Callable[["QuerySet[Any]", str], "QuerySet[Any]"]


def filter_by(parameter: str, values: Values, *, narrow: Narrow | None = None) -> type[admin.SimpleListFilter]:
    """Return a filter whose values are known beforehand; `narrow` where it is more than equality with a column."""

    def keep(rows: "QuerySet[Any]", value: str) -> "QuerySet[Any]":
        return narrow(rows, value) if narrow else rows.filter(**{parameter: value})

    class KnownValues(admin.SimpleListFilter):
        title = parameter.replace("_", " ")
        parameter_name = parameter

        def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
            return list(values())

        def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
            value = self.value()
            return keep(queryset, value) if value else queryset

    return KnownValues


def same(words: Iterable[str]) -> list[tuple[str, str]]:
    """Values that are their own labels."""
    return [(str(word), str(word)) for word in words]


def _codes() -> list[tuple[str, str]]:
    codes = sorted({kind.code for kind in errors.tree()} | {"cancelled"})
    return [("failed", "failed, for whatever reason"), ("ok", "ok"), *same(codes)]


def _by_code(rows: "QuerySet[Any]", value: str) -> "QuerySet[Any]":
    return rows.exclude(code="ok") if value == "failed" else rows.filter(code=value)


def _by_time(field: str) -> Narrow:
    def narrow(rows: "QuerySet[Any]", value: str) -> "QuerySet[Any]":
        return rows.filter(**{f"{field}__gte": timezone.now() - _TIMES[value]}) if value in _TIMES else rows

    return narrow


def _by_duration(rows: "QuerySet[Any]", value: str) -> "QuerySet[Any]":
    return rows.filter(duration_ms__gte=max(SLOW_MS, int(value))) if value.isdecimal() else rows


def by_time(field: str) -> type[admin.SimpleListFilter]:
    """Return the filter for the last hour, day or week of this column."""
    return filter_by("within", lambda: [(k, f"last {k}") for k in _TIMES], narrow=_by_time(field))


by_model = filter_by("model", lambda: same(ModelConfig.objects.values_list("slug", flat=True)))
by_pattern = filter_by("pattern", lambda: same(Pattern))
by_mode = filter_by("mode", lambda: same(Mode))
by_outcome = filter_by("outcome", _codes, narrow=_by_code)
slow_only = filter_by(
    "slow", lambda: [("1000", "1 s or more"), ("5000", "5 s or more"), ("20000", "20 s or more")], narrow=_by_duration
)
