"""What Citadel writes down, in the admin: calls, rollups, transitions of breakers, the trail of operators."""

from django.contrib import admin

from integrations.admin_base import ReadOnlyAdmin
from integrations.models import AuditEntry, BreakerEvent, CallRecord, CallStats, ConfigVersion


@admin.register(CallRecord)
class CallRecordAdmin(ReadOnlyAdmin):
    """What happened, call by call."""

    list_display = ("started_at", "request_id", "client", "model", "pattern", "mode", "code", "duration_ms", "texts")
    list_filter = ("pattern", "mode")
    search_fields = ("=request_id", "=model", "=batch_id")
    ordering = ("-started_at",)


@admin.register(CallStats)
class CallStatsAdmin(ReadOnlyAdmin):
    """The rollups behind status and metrics."""

    list_display = ("width", "bucket", "kind", "model", "pattern", "mode", "endpoint", "code", "count", "texts")
    list_filter = ("width", "kind", "pattern", "mode")
    ordering = ("-bucket", "-id")


@admin.register(BreakerEvent)
class BreakerEventAdmin(ReadOnlyAdmin):
    """What breakers and operators did to breakers."""

    list_display = ("at", "model", "url", "from_state", "to_state", "reason", "actor", "until")
    list_filter = ("to_state",)
    search_fields = ("model", "url")


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """What operators did."""

    list_display = ("at", "actor", "action", "model", "target", "reason")
    list_filter = ("action",)
    search_fields = ("actor", "model", "target", "reason")


@admin.register(ConfigVersion)
class ConfigVersionAdmin(ReadOnlyAdmin):
    """The number that every process watches."""

    list_display = ("version", "updated_at")
