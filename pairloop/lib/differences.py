"""Two texts with the words marked in which they differ; the texts may be hostile."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

#: Words of a text; finding differences takes quadratic time, so longer ones are shown unmarked.
MOST_WORDS = 1500
#: A word with the blanks behind it, or blanks at the beginning.
WORD = re.compile(r"\S+\s*|\s+")


def mark(before: str, after: str) -> tuple[SafeString, SafeString]:
    """Return both texts as HTML: what only the first has in <del>, what only the second has in <ins>."""
    old, new = WORD.findall(before), WORD.findall(after)
    if max(len(old), len(new)) > MOST_WORDS:
        return format_html("{}", before), format_html("{}", after)
    # Other blanks between the same words make no difference.
    matcher = difflib.SequenceMatcher(
        None, [word.strip() for word in old], [word.strip() for word in new], autojunk=False
    )
    left, right = [], []
    for operation, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        is_same = operation == "equal"
        left.append(_piece("" if is_same else "del", old[old_start:old_end]))
        right.append(_piece("" if is_same else "ins", new[new_start:new_end]))
    return _joined(left), _joined(right)


def _piece(tag: str, words: Sequence[str]) -> SafeString:
    text = "".join(words)
    if not tag or not text:
        return format_html("{}", text)
    # The blank behind the last word would be underlined, too.
    bare = text.rstrip()
    return format_html(f"<{tag}>{{}}</{tag}>{{}}", bare, text[len(bare) :])


def _joined(pieces: Sequence[SafeString]) -> SafeString:
    return format_html_join("", "{}", ((piece,) for piece in pieces))
