"""Two texts with the words marked in which they differ; the texts may be hostile."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from django.utils.safestring import SafeString, mark_safe

#: A word with the blanks behind it, or blanks at the beginning. Chinese and Japanese go without blanks.
_IDEOGRAPH = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{_IDEOGRAPH}]\s*|[^\s{_IDEOGRAPH}]+\s*|\s+")
LINE = re.compile(r"[^\n]+\n*|\n+")
#: Pieces of one text times pieces of the other that are compared: a bit of memory each, 50 ms in all.
MOST_CELLS = 24_000_000
#: Characters of what is equal by chance between two changes, and is read more easily as part of them.
ISLAND = 8
#: Texts that share less than this part of the shorter one are not compared, from so many characters of both on.
UNLIKE, UNLIKE_FROM = 0.05, 400


@dataclass(frozen=True, slots=True)
class Compared:
    """Both texts as HTML, with <mark> around what the other one does not have."""

    left: SafeString
    right: SafeString
    #: Whether both have an element with `data-first-difference`.
    first_difference: bool
    #: Too long for words: lines are marked, or all between the first difference and the last.
    is_coarse: bool
    #: Nearly everything differs: nothing is marked, which is read more easily than everything.
    is_unlike: bool


@dataclass(frozen=True, slots=True)
class _Run:
    """Pieces that both have, or those of each between two such."""

    is_same: bool
    old: list[str]
    new: list[str]


def mark(before: str, after: str) -> tuple[SafeString, SafeString]:
    """Return both texts as HTML: what only the first has in <del>, what only the second has in <ins>."""
    runs, _ = _runs(before, after)
    return (
        _html(_piece("" if run.is_same else "del", run.old) for run in runs),
        _html(_piece("" if run.is_same else "ins", run.new) for run in runs),
    )


def compare(left: str, right: str) -> Compared:
    """Return both texts with the same marks: neither of them is the older one, or the worse one."""
    runs, is_coarse = _runs(left, right)
    is_unlike = not is_coarse and _are_unlike(runs, left, right)
    if is_unlike:
        runs = [_Run(is_same=True, old=[left], new=[right])]
    first = next((run for run in runs if not run.is_same), None)
    return Compared(
        left=_html(_alike(run, run.old, is_first=run is first) for run in runs),
        right=_html(_alike(run, run.new, is_first=run is first) for run in runs),
        first_difference=first is not None,
        is_coarse=is_coarse,
        is_unlike=is_unlike,
    )


def _are_unlike(runs: Sequence[_Run], left: str, right: str) -> bool:
    same = sum(len(piece) for run in runs if run.is_same for piece in run.old)
    return len(left) + len(right) >= UNLIKE_FROM and same < UNLIKE * min(len(left), len(right))


def _alike(run: _Run, pieces: Sequence[str], *, is_first: bool) -> str:
    if run.is_same:
        return _piece("", pieces)
    if not is_first:
        return _piece("mark", pieces)
    # Where this text has nothing there, one can be taken to the place all the same.
    return _piece("mark", pieces, " data-first-difference") or "<span data-first-difference></span>"


def _piece(tag: str, words: Sequence[str], attribute: str = "") -> str:
    text = "".join(words)
    if not tag or not text:
        return html.escape(text)
    # The blank behind the last word would be underlined, too.
    bare = text.rstrip() or text
    return f"<{tag}{attribute}>{html.escape(bare)}</{tag}>{html.escape(text[len(bare) :])}"


def _html(pieces: Iterator[str]) -> SafeString:
    return mark_safe("".join(pieces))  # noqa: S308 every piece was escaped


def _runs(before: str, after: str) -> tuple[list[_Run], bool]:
    """Return what is the same and what is not, in order, and whether it is coarse."""
    runs = _runs_of(WORD, before, after)
    if runs is not None:
        return _without_islands(runs), False
    return _runs_of(LINE, before, after) or [], True


def _runs_of(unit: re.Pattern[str], before: str, after: str) -> list[_Run] | None:
    """Return the runs; of too many words none, of too many lines one between what begins and ends alike."""
    old, new = unit.findall(before), unit.findall(after)
    # Other blanks between the same words make no difference.
    old_bare, new_bare = [word.strip() for word in old], [word.strip() for word in new]
    head = _common(old_bare, new_bare)
    tail = _common(old_bare[head:][::-1], new_bare[head:][::-1])
    old_end, new_end = len(old) - tail, len(new) - tail
    is_too_much = (old_end - head) * (new_end - head) > MOST_CELLS
    if is_too_much and unit is WORD:
        return None
    pairs = [] if is_too_much else _longest_common(old_bare[head:old_end], new_bare[head:new_end])
    matched = [
        *((at, at) for at in range(head)),
        *((head + one, head + other) for one, other in pairs),
        *((old_end + at, new_end + at) for at in range(tail)),
    ]
    return list(_between(matched, old, new))


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many pieces they begin with alike."""
    same = 0
    for first, second in zip(one, other, strict=False):
        if first != second:
            break
        same += 1
    return same


def _longest_common(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int]]:
    """Return the positions of the longest common subsequence.

    The table of dynamic programming, a row of it in the bits of one number (Hyyrö 2004): the time depends on
    the lengths only, where difflib takes a minute for 1,500 words that are made for it.
    """
    places: dict[str, int] = {}
    for at, word in enumerate(old):
        places[word] = places.get(word, 0) | 1 << at
    everything = (1 << len(old)) - 1
    row = everything
    rows = []
    for word in new:
        hits = row & places.get(word, 0)
        row = (row + hits | row - hits) & everything
        rows.append(row)
    found = []
    one, other = len(old), len(new)
    while one and other:
        if rows[other - 1] >> (one - 1) & 1:
            one -= 1
        else:
            other -= 1
            if not other or rows[other - 1] >> (one - 1) & 1:
                one -= 1
                found.append((one, other))
    return found[::-1]


def _between(matched: Sequence[tuple[int, int]], old: list[str], new: list[str]) -> Iterator[_Run]:
    """Yield runs in turns: the same, different, the same, …"""
    start = old_at = new_at = 0
    for place in range(len(matched) + 1):
        old_next, new_next = matched[place] if place < len(matched) else (len(old), len(new))
        follows = place and (old_next, new_next) == (old_at, new_at)
        if follows and place < len(matched):
            old_at, new_at = old_next + 1, new_next + 1
            continue
        if place > start:
            since = matched[start]
            yield _Run(is_same=True, old=old[since[0] : old_at], new=new[since[1] : new_at])
        if (old_next, new_next) != (old_at, new_at):
            yield _Run(is_same=False, old=old[old_at:old_next], new=new[new_at:new_next])
        start, old_at, new_at = place, old_next + 1, new_next + 1


def _without_islands(runs: Sequence[_Run]) -> list[_Run]:
    """Join changes that only a short word parts, which both texts have by chance."""
    joined: list[_Run] = []
    is_open = False
    for place, run in enumerate(runs):
        is_inside = run.is_same and 0 < place < len(runs) - 1
        is_island = is_inside and _is_island(joined[-1], run, runs[place + 1])
        if is_open or is_island:
            joined[-1].old.extend(run.old)
            joined[-1].new.extend(run.new)
        else:
            joined.append(_Run(run.is_same, list(run.old), list(run.new)))
        is_open = is_island
    return joined


def _is_island(before: _Run, run: _Run, after: _Run) -> bool:
    is_short = len(run.old) <= 2 and sum(map(len, run.old)) <= ISLAND
    return is_short and all(len(side.old) + len(side.new) > 2 for side in (before, after))
