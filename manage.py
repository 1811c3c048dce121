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
        from django.db.utils import OperationalError
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
    try:
        execute_from_command_line(sys.argv)
    except OperationalError as error:
        sys.exit(
            f"The database does not answer: {str(error).strip().splitlines()[0]}\n"
            "Commands need a running Pairloop: start it with `make run` in another terminal, then repeat"
            " this one. With PAIRLOOP_DATABASE_URL, check that server."
        )


if __name__ == "__main__":
    main()
