"""Addresses that belong to no single app."""

from __future__ import annotations

from django.contrib.auth.views import LogoutView
from django.urls import path

from pairloop.pages import compare_views, play_views, version_views, views

urlpatterns = [
    path("", views.home, name="home"),
    path("login/", views.login, name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("healthz", views.healthz, name="healthz"),
    path("readyz", views.readyz, name="readyz"),
    path("models/<slug:slug>/versions/", version_views.versions, name="versions"),
    path(
        "models/<slug:slug>/versions/rollback/",
        version_views.versions_rollback,
        name="versions-rollback",
    ),
    path("models/<slug:slug>/versions/<int:number>/", version_views.version, name="version"),
    path(
        "models/<slug:slug>/versions/<int:number>/promote/",
        version_views.version_promote,
        name="version-promote",
    ),
    path("models/<slug:slug>/play/", play_views.playground, name="playground"),
    path("models/<slug:slug>/play/<uuid:uuid>/", play_views.play, name="play"),
    path("models/<slug:slug>/play/<uuid:uuid>/pick/", play_views.play_pick, name="play-pick"),
    path("models/<slug:slug>/compare/", compare_views.compare, name="compare"),
    path("models/<slug:slug>/compare/ask/", compare_views.compare_ask, name="compare-ask"),
    path(
        "models/<slug:slug>/compare/answers/",
        compare_views.compare_answers,
        name="compare-answers",
    ),
    path(
        "models/<slug:slug>/compare/<int:pk>/close/",
        compare_views.compare_close,
        name="compare-close",
    ),
]
