"""API keys in the admin: made and revoked, never changed, never shown again."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from integrations import operations
from integrations.admin_base import OperatorAdmin, actor, ask, ask_about, time_column
from integrations.admin_chips import chip_html
from integrations.admin_forms import ApiKeyForm, OptionalReasonForm
from integrations.models import ApiKey
from integrations.values import hash_key

_KNOWN: Any = ("prefix", "may", "state", time_column("created_at"), time_column("expires_at"))
REVOKED = "It is refused from now on, for good; its row stays."
_TONES = {"valid": "good", "revoked": "off", "expired": "warn"}


@admin.register(ApiKey)
class ApiKeyAdmin(OperatorAdmin):
    """Who may call, and what for."""

    form = ApiKeyForm
    list_display = ("client", "prefix", "may", "state", time_column("created_at"), time_column("expires_at"))
    list_filter = ("enabled",)
    search_fields = ("client", "prefix")
    actions = ("revoke",)
    readonly_fields = _KNOWN
    change_form_template = "admin/integrations/apikey/change_form.html"

    class Media:
        css = {"all": ("integrations/model_form.css",)}

    def get_urls(self) -> list[URLPattern]:
        """Django's, and the page that asks before a key is revoked."""
        view = self.admin_site.admin_view(self.revoke_view)
        return [path("<int:pk>/revoke/", view, name="integrations_apikey_revoke"), *super().get_urls()]

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody: what a key may do is settled when it is made."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody: a revoked key's row says whose prefix it was."""
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Those whom Django lets change keys."""
        return request.user.has_perm("integrations.change_apikey")

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[Any, ...]:
        """What is asked of a new key, what is known of an old one; its hash is nobody's business."""
        limits = ("allowed_models", *ApiKey.LIMITS)
        return ("client", *_KNOWN, *limits) if obj else ("client", "scopes", *limits, "expires_at")

    @admin.display(description="scopes")
    def may(self, key: ApiKey) -> SafeString:
        """What it may be used for."""
        return format_html_join(" ", "{}", ((chip_html(scope, "off"),) for scope in key.scopes))

    @admin.display(description="state")
    def state(self, key: ApiKey) -> SafeString:
        """Whether it is worth anything."""
        passed = key.expires_at is not None and key.expires_at <= timezone.now()
        state = "revoked" if not key.enabled else "expired" if passed else "valid"
        return chip_html(state, _TONES[state])

    def render_change_form(
        self,
        request: HttpRequest,
        context: Any,
        add: Any = False,
        change: Any = False,
        form_url: Any = "",
        obj: Any = None,
    ) -> Any:
        """Show a key with the way to revoke it, for those who may."""
        # One button: the answer to each of them is the page that shows the key.
        context.update(show_save_and_add_another=False, show_save_and_continue=False)
        context["may_revoke"] = obj is not None and obj.enabled and self.has_revoke_permission(request)
        return super().render_change_form(request, context, add, change, form_url, obj)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Make the key."""
        obj.shown_once = operations.create_key(
            obj.client,
            obj.scopes,
            actor=actor(request),
            expires_at=obj.expires_at,
            models=obj.allowed_models,
            **{name: getattr(obj, name) for name in ApiKey.LIMITS},
        )
        row = ApiKey.objects.get(hash=hash_key(obj.shown_once))
        obj.pk, obj.prefix, obj.hash = row.pk, row.prefix, row.hash

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        """Show the key, this once: in this answer alone, not in a message, which would travel in a cookie."""
        context = {
            **self.admin_site.each_context(request),
            "title": "Copy the new key",
            "opts": self.opts,
            "key": obj.shown_once,
            "row": obj,
        }
        return TemplateResponse(request, "admin/integrations/apikey/made.html", context)

    @admin.action(description="Revoke keys", permissions=["revoke"])
    def revoke(self, request: HttpRequest, rows: "QuerySet[ApiKey]") -> HttpResponse | None:
        """Make the chosen keys worthless, after asking."""
        act = partial(_revoke, request, [row.pk for row in rows])
        return ask(self, request, rows, form_class=OptionalReasonForm, title="Revoke keys", says=REVOKED, act=act)

    def revoke_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Make one key worthless, after asking."""
        if not self.has_revoke_permission(request):
            raise PermissionDenied
        key, act = get_object_or_404(ApiKey, pk=pk), partial(_revoke, request, [pk])
        return ask_about(
            self, request, key, form_class=OptionalReasonForm, title="Revoke this key", says=REVOKED, act=act
        )


def _revoke(request: HttpRequest, key_ids: list[int], data: Mapping[str, Any]) -> None:
    operations.revoke_keys(key_ids, actor=actor(request), reason=data["reason"])
