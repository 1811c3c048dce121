"""Rows that the admin may look at but not change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin
from django.db.models import Model

if TYPE_CHECKING:
    from django.http import HttpRequest

    _Base = admin.ModelAdmin[Model]
else:
    _Base = admin.ModelAdmin


class StaffAdmin(_Base):
    """Open to every admin: in Pairloop that is whoever is staff, without further permissions."""

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Show the app to staff."""
        return _is_staff(request)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Show the rows to staff."""
        return _is_staff(request)


def _is_staff(request: HttpRequest) -> bool:
    return request.user.is_active and request.user.is_staff


class ReadOnlyAdmin(StaffAdmin):
    """Show rows whose only writers are actions; history stays as it was written."""

    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody adds rows by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody changes rows by hand."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody deletes rows by hand."""
        return False


class EditableAdmin(StaffAdmin):
    """Let the admin add, change and delete rows."""

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Staff may add rows."""
        return _is_staff(request)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Staff may change them."""
        return _is_staff(request)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Staff may delete them."""
        return _is_staff(request)


class ConfigAdmin(EditableAdmin):
    """Let the admin change settings, which the database's own rules keep within bounds."""

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """A model without its settings would fall back to the defaults unnoticed."""
        return False
