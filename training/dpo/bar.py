"""What somebody sees who runs a round by hand: a progress bar below the lines that also make up log.txt."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


class Bar:
    """A bar for the current stage; nothing at all where the output is no terminal."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._stage = ""
        self._bar: tqdm[Any] | None = None

    def show(self, stage: str, done: int, of: int) -> None:
        """Show how far a stage is."""
        if stage != self._stage or self._bar is None:
            self.close()
            # disable=None: only on a terminal.
            self._bar = tqdm(total=of, desc=stage, disable=None, file=sys.stderr, leave=False)
            self._stage = stage
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()


def say(sentence: str) -> None:
    """Print a line at once, above the bar if there is one."""
    tqdm.write(sentence, file=sys.stdout)
    sys.stdout.flush()
