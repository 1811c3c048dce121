"""Addresses of the rounds' part of the REST API, below /api/v1/."""

from __future__ import annotations

from django.urls import path

from training.api import views

urlpatterns = [
    path("models/<slug:slug>/rounds/", views.Rounds.as_view(), name="api-rounds"),
    path("models/<slug:slug>/rounds/<int:number>/", views.OneRound.as_view(), name="api-round"),
    path(
        "models/<slug:slug>/rounds/<int:number>/cancel/",
        views.CancelRound.as_view(),
        name="api-round-cancel",
    ),
    path(
        "models/<slug:slug>/versions/<int:number>/card/",
        views.VersionCard.as_view(),
        name="api-version-card",
    ),
    path(
        "models/<slug:slug>/versions/<int:number>/adapter/",
        views.VersionAdapter.as_view(),
        name="api-version-adapter",
    ),
]
