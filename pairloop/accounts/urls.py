"""Addresses of logging in and of one's own account."""

from __future__ import annotations

from django.contrib.auth.views import LogoutView
from django.urls import path

from pairloop.accounts import views

urlpatterns = [
    path("login/", views.login, name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    # Before the admin's own, which knows no pause after wrong passwords.
    path("admin/login/", views.admin_login, name="admin-login"),
    path("account/", views.account, name="account"),
    path("account/tokens/<slug:key>/revoke/", views.token_revoke, name="token-revoke"),
]
