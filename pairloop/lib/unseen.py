"""Text exactly as it is: blanks kept, and characters that nobody sees written out."""

from __future__ import annotations

import html
import re

from django.utils.safestring import SafeString, mark_safe

#: What the characters are called where they are known; others are written as their number.
NAMES = {
    0x00: "NUL",
    0x1B: "ESC",
    0x0D: "CR",
    0xA0: "NBSP",
    0xAD: "SHY",
    0x061C: "ALM",
    0x200B: "ZWSP",
    0x200C: "ZWNJ",
    0x200D: "ZWJ",
    0x200E: "LRM",
    0x200F: "RLM",
    0x202A: "LRE",
    0x202B: "RLE",
    0x202C: "PDF",
    0x202D: "LRO",
    0x202E: "RLO",
    0x202F: "NNBSP",
    0x2060: "WJ",
    0x2066: "LRI",
    0x2067: "RLI",
    0x2068: "FSI",
    0x2069: "PDI",
    0xFEFF: "BOM",
    # What is stored in the place of a NUL, which PostgreSQL does not keep.
    0xFFFD: "REPLACED",
}
#: Controls but tab and line end; formats, fillers, blanks that are no space, tags, variation selectors.
UNSEEN = re.compile(
    "([\x00-\x08\x0b-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f"
    "\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffd"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff])\\1*"
)


def show(text: str) -> SafeString:
    """Return the text escaped, with <span class="unseen"> around the name of what has no look of its own."""
    # None of them is written as an entity, so escaping first is safe.
    return mark_safe(UNSEEN.sub(_written, html.escape(text)))  # noqa: S308


def _written(found: re.Match[str]) -> str:
    number, times = ord(found[1]), len(found[0])
    name = NAMES.get(number) or f"U+{number:04X}"
    return f'<span class="unseen">{name}{f" ×{times}" if times > 1 else ""}</span>'  # noqa: RUF001
