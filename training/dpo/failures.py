"""Why a round ends without a version."""

from __future__ import annotations

import errno


class RoundFailed(Exception):
    """A round that cannot go on, with the reason as a sentence that says what to do."""

    def __init__(self, code: str, sentence: str) -> None:
        """Take a code for machines and a sentence for people."""
        super().__init__(sentence)
        self.code = code


def named(error: Exception) -> RoundFailed:
    """Return the failure that an exception nobody expected stands for."""
    if isinstance(error, RoundFailed):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RoundFailed(
            "no_space", "The disk is full; free some space and start the round again."
        )
    # torch reports a failed allocation as a RuntimeError.
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return RoundFailed(
            "out_of_memory",
            "The memory does not suffice; lower max_tokens, or end what else runs on the machine.",
        )
    reason = " ".join(str(error).split())[:300]
    return RoundFailed(
        "unexpected",
        f"{type(error).__name__}: {reason}; log.txt in the round's folder has the details.",
    )
