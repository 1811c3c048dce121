"""Addresses that belong to no single app."""

from __future__ import annotations

from django.urls import path

from pairloop.pages import (
    compare_views,
    guidelines_views,
    history_views,
    people_views,
    play_views,
    quality_views,
    settings_views,
    triple_views,
    version_views,
    views,
)

urlpatterns = [
    path("", views.home, name="home"),
    path("healthz", views.healthz, name="healthz"),
    path("readyz", views.readyz, name="readyz"),
    path("account/password/", people_views.PasswordView.as_view(), name="password_change"),
    path(
        "account/link/<uidb64>/<token>/",
        people_views.PasswordLinkView.as_view(),
        name="person-link",
    ),
    path("models/<slug:slug>/people/", people_views.people, name="people"),
    path(
        "models/<slug:slug>/people/<int:pk>/<slug:change>/",
        people_views.person_change,
        name="person-change",
    ),
    path("models/<slug:slug>/history/", history_views.history, name="history"),
    path(
        "models/<slug:slug>/history/<uuid:uuid>/",
        history_views.history_judgement,
        name="history-judgement",
    ),
    path("models/<slug:slug>/guidelines/", guidelines_views.guidelines, name="guidelines"),
    path("models/<slug:slug>/quality/", quality_views.quality, name="quality"),
    path("models/<slug:slug>/quality/gold/", quality_views.quality_gold, name="quality-gold"),
    path(
        "models/<slug:slug>/quality/gold/<int:pk>/retire/",
        quality_views.quality_gold_retire,
        name="quality-gold-retire",
    ),
    path(
        "models/<slug:slug>/quality/leases/<uuid:uuid>/",
        quality_views.quality_lease,
        name="quality-lease",
    ),
    path(
        "models/<slug:slug>/quality/leases/of/<int:pk>/",
        quality_views.quality_leases,
        name="quality-leases",
    ),
    path(
        "models/<slug:slug>/quality/flags/<int:pk>/",
        quality_views.quality_flag,
        name="quality-flag",
    ),
    path("models/<slug:slug>/settings/", settings_views.settings, name="settings"),
    path(
        "models/<slug:slug>/settings/<slug:key>/",
        settings_views.settings_group,
        name="settings-group",
    ),
    path("api/v1/docs/", views.api_docs, name="api-docs"),
    path("models/<slug:slug>/triples/", triple_views.triples, name="triples"),
    path("models/<slug:slug>/triples/file/", triple_views.triples_file, name="triples-file"),
    path(
        "models/<slug:slug>/triples/imports/<int:number>/",
        triple_views.import_page,
        name="triples-import",
    ),
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
    path(
        "models/<slug:slug>/versions/<int:number>/triples/",
        version_views.version_triples,
        name="version-triples",
    ),
    path(
        "models/<slug:slug>/versions/<int:number>/card/",
        version_views.version_card,
        name="version-card",
    ),
    path(
        "models/<slug:slug>/versions/<int:number>/adapter/",
        version_views.version_adapter,
        name="version-adapter",
    ),
    path("models/<slug:slug>/pairs/<int:number>/", version_views.pair, name="pair"),
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
