"""Static files with the hash of their content in their names, also where one script imports another."""

from __future__ import annotations

from whitenoise.storage import CompressedManifestStaticFilesStorage

#: Django's own, for every script; here they are for ours.
_, IMPORTS = CompressedManifestStaticFilesStorage._js_module_import_aggregation_patterns  # noqa: SLF001


class Storage(CompressedManifestStaticFilesStorage):  # type: ignore[misc]
    """After an upgrade a page gets all its modules new; without this, their plain names lie in caches.

    Only our own scripts are looked through: others name files that their packages do not hold.
    """

    patterns = (*CompressedManifestStaticFilesStorage.patterns, ("js/*.js", IMPORTS))
