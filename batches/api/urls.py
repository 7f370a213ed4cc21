"""The batch addresses, below api/v1/external/."""

from django.urls import path

from batches.api import views

urlpatterns = [
    path("batch", views.BatchListView.as_view(), name="batch-list"),
    path("batch/queue/status", views.QueueStatusView.as_view(), name="batch-queue-status"),
    path("batch/<slug:batch_id>", views.BatchDetailView.as_view(), name="batch-detail"),
    path("batch/<slug:batch_id>/results", views.BatchResultsView.as_view(), name="batch-results"),
    path("batch/<slug:batch_id>/cancel", views.BatchCancelView.as_view(), name="batch-cancel"),
    path("batch/<slug:batch_id>/retry", views.BatchRetryView.as_view(), name="batch-retry"),
]
