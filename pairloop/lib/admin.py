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


class ReadOnlyAdmin(_Base):
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


class ConfigAdmin(_Base):
    """Let the admin change settings, which the database's own rules keep within bounds."""

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """A model without its settings would fall back to the defaults unnoticed."""
        return False


class EditableAdmin(_Base):
    """Let the admin add, change and delete rows."""
