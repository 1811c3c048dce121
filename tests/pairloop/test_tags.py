from __future__ import annotations

import pytest

from pairloop.lib import tags


class TestWait:
    @pytest.mark.parametrize(
        ("seconds", "words"),
        [
            (0, "any moment now"),
            (25, "about half a minute"),
            (60, "about a minute"),
            (91, "about 2 minutes"),
            (600, "about 10 minutes"),
        ],
    )
    def test_promises_no_more_than_anybody_knows(self, seconds, words):
        assert tags.wait(seconds) == words
