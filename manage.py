"""Pairloop's command line: `manage.py help` lists the commands."""

from __future__ import annotations

import importlib
import os
import sys


def main() -> None:
    """Run one management command."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pairloop.settings")
    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line
    except ModuleNotFoundError:
        sys.exit("Pairloop's environment is missing. Use .venv/bin/python, or run `make run` once.")
    # Ahead of Django, which would show a wrong setting as a traceback.
    try:
        importlib.import_module(os.environ["DJANGO_SETTINGS_MODULE"])
    except ImproperlyConfigured as wrong:
        sys.exit(str(wrong))
    except OSError as wrong:
        sys.exit(
            f"Pairloop cannot write its state to {wrong.filename}: {wrong.strerror}."
            " Make the folder yours, or set PAIRLOOP_VAR to one that is."
        )
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
