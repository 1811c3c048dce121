"""Addresses of this app's part of the REST API, below /api/v1/."""

from __future__ import annotations

from django.urls import path

from annotate.api import comparisons, views

urlpatterns = [
    path("models/<slug:slug>/prompts/", views.PromptsView.as_view(), name="api-prompts"),
    path("models/<slug:slug>/attacks/", views.AttacksView.as_view(), name="api-attacks"),
    path(
        "models/<slug:slug>/assignments/", views.AssignmentsView.as_view(), name="api-assignments"
    ),
    path("models/<slug:slug>/judgements/", views.JudgementsView.as_view(), name="api-judgements"),
    path("assignments/<uuid:uuid>/judgement/", views.JudgementView.as_view(), name="api-judgement"),
    path("models/<slug:slug>/triples/", views.TriplesView.as_view(), name="api-triples"),
    path("models/<slug:slug>/imports/<int:number>/", views.ImportView.as_view(), name="api-import"),
    path(
        "models/<slug:slug>/comparisons/",
        comparisons.ComparisonsView.as_view(),
        name="api-comparisons",
    ),
    path(
        "models/<slug:slug>/comparisons/<int:pk>/",
        comparisons.ComparisonView.as_view(),
        name="api-comparison",
    ),
    path(
        "models/<slug:slug>/comparisons/<int:pk>/close/",
        comparisons.ComparisonCloseView.as_view(),
        name="api-comparison-close",
    ),
]
