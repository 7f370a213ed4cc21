"""The console's own pages, beside those of Django's admin and behind the same log-in."""

from collections.abc import Callable

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path

from citadel.console import breaker_pages, dashboard

View = Callable[[HttpRequest], HttpResponse]


def console_urls() -> list[URLPattern]:
    """Return the routes; they stand before the admin's own."""
    pages: tuple[tuple[str, str, View], ...] = (
        ("admin/live/", "console-live", dashboard.live),
        ("admin/charts/", "console-charts", dashboard.charts),
        ("admin/breakers/", "breakers", breaker_pages.page),
        ("admin/breakers/live/", "breakers-live", breaker_pages.live),
        ("admin/breakers/trip/", "breakers-trip", breaker_pages.trip),
        ("admin/breakers/reset/", "breakers-reset", breaker_pages.reset),
    )
    return [path(address, admin.site.admin_view(view), name=name) for address, name, view in pages]
