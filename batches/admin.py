"""The operators' pages of the queue. Every write is one call of batches.lifecycle."""

from batches import admin_batches, admin_files, admin_queue, admin_rq

__all__ = ["admin_batches", "admin_files", "admin_queue", "admin_rq"]
