from __future__ import annotations

import unicodedata

import pytest

from pairloop.lib import unseen


class TestShow:
    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("a\u200bb", "ZWSP"), ("a\u202eb", "RLO"), ("a\u2066b", "LRI"), ("a\u00a0b", "NBSP"), ("a\ufeffb", "BOM"),
            ("a\x00b", "NUL"), ("a\x1bb", "ESC"), ("a\rb", "CR"), ("a\u00adb", "SHY"), ("a\ufffdb", "REPLACED"),
            ("a\U000e0041b", "U+E0041"), ("a\u3164b", "U+3164"), ("a\u2028b", "U+2028"), ("a\ufe0fb", "U+FE0F"),
        ],
    )  # fmt: skip
    def test_writes_out_what_nobody_sees(self, text, name):
        assert unseen.show(text) == f'a<span class="unseen">{name}</span>b'

    def test_counts_what_is_repeated(self):
        assert unseen.show("\u200b" * 1000) == '<span class="unseen">ZWSP ×1000</span>'  # noqa: RUF001

    def test_leaves_what_everybody_sees(self):
        text = "a b\n\tc é 海 بحر 👍 ½"

        assert unseen.show(text) == text

    def test_escapes_the_rest(self):
        assert unseen.show("<script>&\"'") == "&lt;script&gt;&amp;&quot;&#x27;"

    def test_finds_every_format_and_control_character(self):
        kinds = {"Cf", "Cc", "Zl", "Zp"}
        every = [
            chr(number) for number in range(0x110000) if unicodedata.category(chr(number)) in kinds
        ]

        missed = [one for one in every if one not in "\n\t" and not unseen.UNSEEN.search(one)]

        # They have a look of their own: signs before Arabic and Syriac numbers, hieroglyphs, shorthand.
        assert {hex(ord(one)) for one in missed} <= {
            *map(hex, range(0x600, 0x606)), "0x6dd", "0x70f", "0x890", "0x891", "0x8e2", "0x110bd", "0x110cd",
            *map(hex, range(0x13430, 0x13440)),
        }  # fmt: skip
