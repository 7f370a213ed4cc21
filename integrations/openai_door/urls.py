"""The addresses of the live part, below v1/."""

from django.urls import path

from integrations.openai_door import views

urlpatterns = [
    path("embeddings", views.EmbeddingsView.as_view(), name="openai-embeddings"),
    path("models", views.ModelsView.as_view(), name="openai-models"),
    path("models/<str:model>", views.ModelView.as_view(), name="openai-model"),
]
