"""Filters and paging of the list of batches, at a cost that does not grow with their number."""

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property

from batches import clock
from batches.models import BatchJob
from integrations.models import ApiKey, ModelConfig

if TYPE_CHECKING:
    JobPaginator = Paginator[BatchJob]
else:
    JobPaginator = Paginator

# So many of the newest are listed; older ones are found by a filter or by their id.
LISTED: Final = 10_000
WITHOUT_KEY: Final = "-"


class BoundedPaginator(JobPaginator):
    """Counts no further than LISTED: counting a million rows takes longer than showing a page of them."""

    @cached_property
    def count(self) -> int:
        """How many can be paged through."""
        found: Any = self.object_list
        return int(found.order_by()[:LISTED].count())


class ModelFilter(admin.SimpleListFilter):
    """The configured models: cheaper than asking the batches, and a deleted model's are found by search."""

    title, parameter_name = "model", "model"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """Each model."""
        return [(slug, slug) for slug in ModelConfig.objects.values_list("slug", flat=True)]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[BatchJob]") -> "QuerySet[BatchJob]":
        """Its batches."""
        return queryset.filter(model=self.value()) if self.value() else queryset


class ClientFilter(admin.SimpleListFilter):
    """Those who have, or had, a key."""

    title, parameter_name = "client", "client"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """Each client, and those without a key."""
        names = ApiKey.objects.order_by("client").values_list("client", flat=True).distinct()
        return [*((name, name) for name in names), (WITHOUT_KEY, "without a key")]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        """What is theirs."""
        if not self.value():
            return queryset
        return queryset.filter(client="" if self.value() == WITHOUT_KEY else self.value())


class AgeFilter(admin.SimpleListFilter):
    """Since when they are there."""

    title, parameter_name = "submitted", "age"
    _HOURS: Final = {"hour": 1, "day": 24, "week": 168}

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """Three windows, and what is older than the longest."""
        within = [(key, f"within the last {key}") for key in self._HOURS]
        return [*within, ("older", "more than a week ago")]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[BatchJob]") -> "QuerySet[BatchJob]":
        """Those submitted then."""
        if self.value() == "older":
            return queryset.filter(submitted_at__lt=clock.now() - timedelta(hours=self._HOURS["week"]))
        hours = self._HOURS.get(self.value() or "")
        return queryset.filter(submitted_at__gte=clock.now() - timedelta(hours=hours)) if hours else queryset
