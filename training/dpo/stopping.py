"""Stopping between two steps or two rows, so that nothing is half done. Standard library only."""

from __future__ import annotations


class Stopped(Exception):
    """Somebody asked the trainer to stop; a later run in the same folder goes on."""


class Stop:
    """Whether somebody asked the trainer to stop."""

    def __init__(self) -> None:
        """Nobody did yet."""
        self.asked = False

    def ask(self, *_signal: object) -> None:
        """Ask; a signal handler."""
        self.asked = True

    def obey(self) -> None:
        """Raise Stopped when somebody asked."""
        if self.asked:
            raise Stopped
