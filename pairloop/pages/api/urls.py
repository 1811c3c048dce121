"""Addresses of the REST API that join several apps, below /api/v1/."""

from __future__ import annotations

from django.urls import path

from pairloop.pages.api import history, quality, views

urlpatterns = [
    path("models/<slug:slug>/history/", history.HistoryView.as_view(), name="api-history"),
    path("models/<slug:slug>/quality/", quality.QualityView.as_view(), name="api-quality"),
    path("models/<slug:slug>/golds/", quality.GoldsView.as_view(), name="api-golds"),
    path("models/<slug:slug>/golds/<int:pk>/", quality.GoldView.as_view(), name="api-gold"),
    path("models/<slug:slug>/plays/", views.PlaysView.as_view(), name="api-plays"),
    path("models/<slug:slug>/plays/<uuid:uuid>/", views.PlayView.as_view(), name="api-play"),
    path(
        "models/<slug:slug>/plays/<uuid:uuid>/pick/",
        views.PlayPickView.as_view(),
        name="api-play-pick",
    ),
]
