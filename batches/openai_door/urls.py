"""The addresses of files and batches, below v1/."""

from django.urls import path

from batches.openai_door import views

urlpatterns = [
    path("files", views.FilesView.as_view(), name="openai-files"),
    path("files/<slug:file_id>", views.FileView.as_view(), name="openai-file"),
    path("files/<slug:file_id>/content", views.FileContentView.as_view(), name="openai-file-content"),
    path("batches", views.BatchesView.as_view(), name="openai-batches"),
    path("batches/<slug:batch_id>", views.OneBatchView.as_view(), name="openai-batch"),
    path("batches/<slug:batch_id>/cancel", views.CancelView.as_view(), name="openai-batch-cancel"),
    path("batches/<slug:batch_id>/retry", views.RetryView.as_view(), name="openai-batch-retry"),
]
