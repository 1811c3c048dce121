"""Pairloop's command line: `manage.py help` lists the commands."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run one management command."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pairloop.settings")
    try:
        from django.core.management import execute_from_command_line
    except ModuleNotFoundError:
        sys.exit("Pairloop's environment is missing. Use .venv/bin/python, or run `make run` once.")
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
