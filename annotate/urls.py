"""Addresses of the judging screen and of prompts."""

from __future__ import annotations

from django.urls import path

from annotate import attack_views, prompt_views, views

urlpatterns = [
    path("models/<slug:slug>/prompts/", prompt_views.prompts, name="prompts"),
    path("models/<slug:slug>/judge/", views.judge, name="judge"),
    path("models/<slug:slug>/judge/prompts/", attack_views.attack, name="judge_prompt"),
    path("models/<slug:slug>/judge/<uuid:uuid>/", views.judgement, name="judgement"),
    path("models/<slug:slug>/judge/<uuid:uuid>/undo/", views.judgement_undo, name="judgement_undo"),
]
