"""The operators' pages. Every write is one call of integrations.operations."""

from integrations import admin_breakers, admin_canaries, admin_keys, admin_models, admin_records

__all__ = ["admin_breakers", "admin_canaries", "admin_keys", "admin_models", "admin_records"]
