"""Addresses of this app's part of the REST API, below /api/v1/."""

from __future__ import annotations

from django.urls import path

from models_registry.api import views

urlpatterns = [
    path("models/", views.ModelsView.as_view(), name="api-models"),
    path("models/<slug:slug>/", views.ModelView.as_view(), name="api-model"),
    path("models/<slug:slug>/versions/", views.VersionsView.as_view(), name="api-versions"),
    path(
        "models/<slug:slug>/versions/<int:number>/",
        views.VersionView.as_view(),
        name="api-version",
    ),
    path("models/<slug:slug>/aliases/<slug:name>/", views.AliasView.as_view(), name="api-alias"),
]
