"""Addresses of the rounds' pages."""

from __future__ import annotations

from django.urls import path

from training import views

urlpatterns = [
    path("models/<slug:slug>/rounds/", views.rounds, name="rounds"),
    path("models/<slug:slug>/rounds/<int:number>/", views.round_page, name="round"),
    path("models/<slug:slug>/rounds/<int:number>/cancel/", views.round_cancel, name="round-cancel"),
]
