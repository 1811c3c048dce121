"""Hostile markdown -> HTML that is safe to show: no raw HTML, nothing remote, an allow-list at the end.

Two walls, each of which holds alone: the parser writes no HTML of the text's, and nh3 lets through only what
is listed here.
"""

from __future__ import annotations

import html
import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import nh3
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock, table
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

from pairloop.lib import code, formulas

#: Characters, lines and brackets; a text of more is shown as it is written. What people and models write has
#: far fewer; a text made to be slow takes half a second with so many.
LONGEST = 40_000
MOST_LINES = 3_000
MOST_BRACKETS = 3_000
#: Columns of a table: the parser fills every row up to them.
MOST_COLUMNS = 60
#: Levels of quotes and lists inside each other; the parser drops what is deeper, so the text is shown as it is.
DEEPEST = 20
#: Where a rule of ours may begin; the parser's own list has ten more, at which it would try every rule in vain.
SPECIAL = re.compile(r"[\n$*\[\\\]_`~]|!(?=\[)|&(?=[#A-Za-z])|<(?=[A-Za-z])")
#: Bytes of texts and HTML that are kept, in each process.
KEPT = 8 * 1024 * 1024

HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
BLOCKS = {"p", "ul", "ol", "blockquote", "table", *HEADINGS}
TAGS = BLOCKS | formulas.TAGS | {
    "a", "b", "br", "code", "del", "em", "hr", "i", "li", "pre", "s", "span", "strong",
    "tbody", "td", "th", "thead", "tr",
}  # fmt: skip
CLEANER = nh3.Cleaner(
    tags=TAGS,
    clean_content_tags={"script", "style"},
    attributes={
        "a": {"href", "title"},
        "ol": {"start"},
        "td": {"align"},
        "th": {"align"},
        **formulas.ATTRIBUTES,
    },
    # Only what we write ourselves: a fence's language must not name one of our own classes.
    allowed_classes={
        "span": {*code.CLASSES, "formula", "task"},
        "code": {"tex"},
        "math": {"is-long"},
        "mtd": set(formulas.CLASSES.values()),
        "mtable": set(formulas.CLASSES.values()),
    },
    url_schemes={"http", "https", "mailto"},
    # A completion has no business linking to our own pages.
    url_relative="deny",
    link_rel="noopener noreferrer nofollow",
    # Each block finds its own direction; code never does. What scrolls can be reached by keyboard.
    set_tag_attribute_values={
        **{tag: {"dir": "auto"} for tag in BLOCKS},
        "pre": {"dir": "ltr", "tabindex": "0"},
        "table": {"dir": "auto", "tabindex": "0"},
    },
)
TOO_LONG = "This text is too long to be formatted; it is shown as it was written."
TOO_DEEP = "This text is too involved to be formatted; it is shown as it was written."


class _Kept:
    """What was rendered lately, up to a number of bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self._entries: OrderedDict[str, tuple[SafeString, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, text: str) -> SafeString | None:
        with self._lock:
            entry = self._entries.get(text)
            if entry is None:
                return None
            self._entries.move_to_end(text)
            return entry[0]

    def put(self, text: str, rendered: SafeString) -> None:
        size = sys.getsizeof(text) + sys.getsizeof(rendered)
        with self._lock:
            if text in self._entries:
                return
            self._entries[text] = rendered, size
            self._size += size
            while self._size > self._most:
                _, (_, freed) = self._entries.popitem(last=False)
                self._size -= freed


def render(text: str) -> SafeString:
    """Return the text as HTML of the allow-list; links have no target, images are shown as their source."""
    kept = KEEPER.get(text)
    if kept is None:
        kept = _rendered(text)
        KEEPER.put(text, kept)
    return kept


def _rendered(text: str) -> SafeString:
    if len(text) > LONGEST or text.count("\n") > MOST_LINES:
        return _as_written(text, TOO_LONG)
    if text.count("[") > MOST_BRACKETS:
        return _as_written(text, TOO_DEEP)
    environment: dict[str, Any] = {}
    tokens = PARSER.parse(text, environment)
    if any(token.level >= DEEPEST - 1 for token in tokens):
        return _as_written(text, TOO_DEEP)
    made = PARSER.renderer.render(tokens, PARSER.options, environment)
    return mark_safe(CLEANER.clean(made))  # noqa: S308 it was sanitised just now


def _as_written(text: str, why: str) -> SafeString:
    return format_html('<p class="note">{}</p><pre class="as-written">{}</pre>', why, text)


def _highlighted(source: str, language: str, _attributes: str) -> str:
    return code.highlight(source, language)


def _image_as_text(
    _renderer: RendererHTML, tokens: Sequence[Token], index: int, _options: Any, _env: Any
) -> str:
    token = tokens[index]
    return html.escape(f"![{token.content}]({token.attrGet('src')})")


#: How an item of a task list begins -> what is shown for it.
TASKS = {"[ ] ": "☐", "[x] ": "☑", "[X] ": "☑"}


def _table(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    if first + 1 < last:
        start, end = state.bMarks[first + 1], state.eMarks[first + 1]
        if state.src.count("|", start, end) > MOST_COLUMNS:
            return False
    return table(state, first, last, silent)


def _tasks(state: StateCore) -> None:
    for opening, paragraph, inline in zip(
        state.tokens, state.tokens[1:], state.tokens[2:], strict=False
    ):
        is_first = opening.type == "list_item_open" and paragraph.type == "paragraph_open"
        if not is_first or not inline.children or inline.content[:4] not in TASKS:
            continue
        text = inline.children[0]
        if text.type == "text" and text.content[:4] in TASKS:
            box = Token("task", "", 0, content=TASKS[text.content[:4]])
            text.content = text.content[3:]
            inline.children.insert(0, box)


def _alignment(state: StateCore) -> None:
    for token in state.tokens:
        if token.attrs and token.type in {"td_open", "th_open"}:
            # The page's policy allows no style attributes.
            token.attrs = {"align": str(token.attrs.get("style", "")).removeprefix("text-align:")}


def _task(
    _renderer: RendererHTML, tokens: Sequence[Token], index: int, _options: Any, _env: Any
) -> str:
    return f'<span class="task">{tokens[index].content}</span>'


def _parser() -> MarkdownIt:
    parser = MarkdownIt(
        "commonmark",
        {
            "html": False,
            "linkify": False,
            "breaks": True,
            "maxNesting": DEEPEST,
            "highlight": _highlighted,
        },
    )
    parser.enable(["table", "strikethrough"]).disable(["html_block", "html_inline"])
    parser.block.ruler.at("table", _table, {"alt": ["paragraph", "reference"]})
    parser.use(formulas.plugin)
    parser.inline.terminator_re = SPECIAL
    parser.core.ruler.push("tasks", _tasks)
    parser.core.ruler.push("alignment", _alignment)
    parser.add_render_rule("task", _task)
    parser.add_render_rule("image", _image_as_text)
    return parser


PARSER = _parser()
KEEPER = _Kept(KEPT)
