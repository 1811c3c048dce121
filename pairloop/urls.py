"""Every address of Pairloop."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path, re_path
from drf_spectacular.renderers import OpenApiJsonRenderer2
from drf_spectacular.views import SpectacularAPIView

from pairloop.pages.views import api_missing

handler500 = "pairloop.pages.views.server_error"

urlpatterns = [
    path("", include("pairloop.accounts.urls")),
    path("", include("pairloop.pages.urls")),
    path("", include("annotate.urls")),
    path("", include("training.urls")),
    path(
        "api/v1/schema/",
        SpectacularAPIView.as_view(renderer_classes=[OpenApiJsonRenderer2]),
        name="api-schema",
    ),
    path("api/v1/", include("pairloop.accounts.api.urls")),
    path("api/v1/", include("models_registry.api.urls")),
    path("api/v1/", include("annotate.api.urls")),
    path("api/v1/", include("training.api.urls")),
    path("api/v1/", include("pairloop.pages.api.urls")),
    # A newline, too: whatever else is below this is answered in JSON.
    re_path(r"^api/(?P<rest>(?s:.*))$", api_missing, name="api-missing"),
    path("admin/", admin.site.urls),
]
