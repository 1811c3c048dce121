"""Every address of Pairloop."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

handler500 = "pairloop.pages.views.server_error"

urlpatterns = [
    path("", include("pairloop.pages.urls")),
    path("", include("annotate.urls")),
    path("admin/", admin.site.urls),
]
