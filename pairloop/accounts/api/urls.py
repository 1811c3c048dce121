"""Addresses of one's own tokens in the REST API, below /api/v1/."""

from __future__ import annotations

from django.urls import path

from pairloop.accounts.api import views

urlpatterns = [
    path("tokens/", views.TokensView.as_view(), name="api-tokens"),
    path("tokens/<slug:key>/", views.TokenView.as_view(), name="api-token"),
]
