"""Addresses that belong to no single app."""

from __future__ import annotations

from django.contrib.auth.views import LogoutView
from django.urls import path

from pairloop.pages import views

urlpatterns = [
    path("", views.home, name="home"),
    path("login/", views.login, name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("healthz", views.healthz, name="healthz"),
    path("readyz", views.readyz, name="readyz"),
]
