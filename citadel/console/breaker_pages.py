"""Every endpoint's breaker on one page, and the two pages that ask before they trip or reset."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse

from citadel.console import board, consequences
from citadel.console.board import Breaker
from citadel.console.forms import ResetForm, TripForm
from integrations import operations, snapshot
from integrations.admin_base import actor
from integrations.admin_breakers import may_trip
from integrations.models import BreakerEvent

# Transitions shown below the breakers; the others are in the list of transitions.
LATEST: Final = 15


def page(request: HttpRequest) -> HttpResponse:
    """The breakers of all enabled endpoints, with the last transitions."""
    _require_view(request)
    shown = _shown(operates=may_trip(request))
    return render(request, "citadel/breakers.html", admin.site.each_context(request) | {"title": "Breakers"} | shown)


def live(request: HttpRequest) -> HttpResponse:
    """The part of that page that refreshes itself."""
    _require_view(request)
    return render(request, "citadel/breakers_live.html", _shown(operates=may_trip(request)))


def _require_view(request: HttpRequest) -> None:
    if not request.user.has_perm("integrations.view_endpoint"):
        raise PermissionDenied


def _shown(*, operates: bool) -> dict[str, Any]:
    models = snapshot.current().models.values()
    breakers = {model: board.breakers_of(model) for model in models if model.enabled}
    return {
        "models": [(model, found) for model, found in breakers.items() if found],
        "shared": all(b.view.shared for found in breakers.values() for b in found),
        "events": BreakerEvent.objects.all()[:LATEST],
        "operates": operates,
    }


# --- Asking before acting --------------------------------------------------------------------------------------------


def trip(request: HttpRequest) -> HttpResponse:
    """Show what will be refused, ask why and for how long; then open the breakers."""

    def act(ids: Sequence[int], data: dict[str, Any]) -> None:
        operations.trip_breaker(ids, actor=actor(request), reason=data["reason"], until=data["until"])

    return _ask(request, form_class=TripForm, act=act, verb="Trip")


def reset(request: HttpRequest) -> HttpResponse:
    """Show what will be let through again; then close the breakers."""

    def act(ids: Sequence[int], data: dict[str, Any]) -> None:
        operations.reset_breaker(ids, actor=actor(request), reason=data["reason"])

    return _ask(request, form_class=ResetForm, act=act, verb="Reset")


def _ask(
    request: HttpRequest,
    *,
    form_class: type[forms.Form],
    act: Callable[[Sequence[int], dict[str, Any]], None],
    verb: str,
) -> HttpResponse:
    """The endpoints are in the address: so the page can be opened again as it was, after a log-in too."""
    if not may_trip(request):
        raise PermissionDenied
    chosen = _chosen(request)
    if not chosen:
        messages.error(request, "Choose at least one enabled endpoint.")
        return HttpResponseRedirect(reverse("breakers"))
    form = form_class(request.POST if request.method == "POST" else None)
    if form.is_bound and form.is_valid() and _acted(form, lambda data: act([b.endpoint.id for b in chosen], data)):
        names = ", ".join(f"{b.endpoint.model} at {b.endpoint.url}" for b in chosen)
        messages.success(request, f"{'Tripped' if verb == 'Trip' else 'Reset'}: {names}.")
        return HttpResponseRedirect(reverse("breakers"))
    shown = {"title": f"{verb} breakers", "verb": verb, "form": form, "chosen": chosen, **_effects(verb, chosen)}
    return render(request, "citadel/breakers_ask.html", admin.site.each_context(request) | shown)


def _chosen(request: HttpRequest) -> list[Breaker]:
    ids = {int(value) for value in request.GET.getlist("endpoint") if value.isdecimal()}
    models = snapshot.current().models.values()
    return [b for model in models for b in board.breakers_of(model) if b.endpoint.id in ids]


def _effects(verb: str, chosen: Sequence[Breaker]) -> dict[str, Any]:
    if verb == "Reset":
        return {"lines": consequences.of_reset(chosen)}
    rows = board.read().rows
    effects = consequences.of_trip(rows, {b.endpoint.id for b in chosen}, snapshot.current().models)
    return {"effects": effects, "refused": any(effect.refuses for effect in effects)}


def _acted(form: forms.Form, act: Callable[[dict[str, Any]], None]) -> bool:
    """What an operation refuses although the form allowed it stands beside its field."""
    try:
        act(form.cleaned_data)
    except ValidationError as error:
        named = error.message_dict if hasattr(error, "error_dict") else {"": error.messages}
        for field, texts in named.items():
            form.add_error(field if field in form.fields else None, [str(text) for text in texts])
        return False
    return True
