"""“Probe now”: asks an endpoint as a form has it, before it is saved."""

from typing import TYPE_CHECKING

from django.core.exceptions import PermissionDenied
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import render

from integrations.admin_model_forms import PROBE, EndpointForm, ProbedModelForm
from integrations.models import ModelConfig
from integrations.probing import Probed, probe_rows

if TYPE_CHECKING:
    from integrations.admin_base import OperatorAdmin

# Any number, the same in every process: one probe at a time, so that nobody can scan a network with it.
_ONE = 0x70726F62


def probe_view(page: "OperatorAdmin", request: HttpRequest) -> HttpResponse:
    """Answer with what the endpoint of the row whose button was pressed says: health, and one real embedding."""
    if not (page.has_change_permission(request) or page.has_add_permission(request)):
        raise PermissionDenied
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    prefix = next((key.removesuffix(f"-{PROBE}") for key in request.POST if key.endswith(f"-{PROBE}")), "")
    endpoint, model = EndpointForm(request.POST, prefix=prefix), ProbedModelForm(request.POST)
    if not (endpoint.is_valid() and model.is_valid()):
        found = [(field, map(str, texts)) for form in (endpoint, model) for field, texts in form.errors.items()]
        return _answer(request, errors=[f"{field}: {' '.join(texts)}" for field, texts in found])
    probed = _ask_alone(endpoint, model.instance)
    return _answer(
        request, probed=probed, errors=[] if probed else ["Another probe is running; try again in a moment."]
    )


def _ask_alone(endpoint: EndpointForm, model: ModelConfig) -> Probed | None:
    """Ask; None while another probe runs, in whichever process."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_ONE])
        return probe_rows(endpoint.instance, model) if cursor.fetchone()[0] else None


def _answer(request: HttpRequest, *, errors: list[str], probed: Probed | None = None) -> HttpResponse:
    return render(request, "admin/integrations/modelconfig/probe.html", {"errors": errors, "probed": probed})
