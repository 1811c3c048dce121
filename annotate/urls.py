"""Addresses of the judging screen and of prompts."""

from __future__ import annotations

from django.urls import path

from annotate import attack_views, prompt_views, views

JUDGE = "models/<slug:slug>/judge/"
ONE = JUDGE + "<uuid:uuid>/"

urlpatterns = [
    path("models/<slug:slug>/prompts/", prompt_views.prompts, name="prompts"),
    path(JUDGE, views.judge, name="judge"),
    path(JUDGE + "next/", views.judge_next, name="judge_next"),
    path(JUDGE + "keep/", views.judge_keep, name="judge_keep"),
    path(JUDGE + "prompts/", attack_views.attack, name="judge_prompt"),
    path(ONE, views.judgement, name="judgement"),
    path(ONE + "undo/", views.judgement_undo, name="judgement_undo"),
    path(ONE + "later/", views.judgement_later, name="judgement_later"),
    path(ONE + "flag/", views.judgement_flag, name="judgement_flag"),
    path(ONE + "view/", views.judge_view, name="judge_view"),
]
