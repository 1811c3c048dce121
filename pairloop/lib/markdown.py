"""Hostile markdown -> HTML that is safe to show: no raw HTML, nothing remote, an allow-list at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nh3
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES
from pygments.util import ClassNotFound

#: Longer code is shown plain: some lexers take quadratic time.
LONGEST_HIGHLIGHTED = 20_000
HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
BLOCKS = {"p", "ul", "ol", "blockquote", "table", *HEADINGS}
TAGS = BLOCKS | {
    "a", "br", "code", "del", "em", "hr", "li", "pre", "s", "span", "strong",
    "tbody", "td", "th", "thead", "tr",
}  # fmt: skip
CLEANER = nh3.Cleaner(
    tags=TAGS,
    clean_content_tags={"script", "style"},
    attributes={"a": {"href", "title"}, "ol": {"start"}},
    # Only what Pygments writes: a fence's language must not name one of our own classes.
    allowed_classes={"span": set(STANDARD_TYPES.values()) - {""}},
    url_schemes={"http", "https", "mailto"},
    # A completion has no business linking to our own pages.
    url_relative="deny",
    link_rel="noopener noreferrer nofollow",
    # Each block finds its own direction; code never does.
    set_tag_attribute_values={
        **{tag: {"dir": "auto"} for tag in BLOCKS},
        "pre": {"dir": "ltr"},
    },
)


def render(text: str) -> SafeString:
    """Return the text as HTML of the allow-list; links have no target, images are shown as their source."""
    return mark_safe(CLEANER.clean(PARSER.render(text)))  # noqa: S308 it was sanitised just now


def _highlighted(code: str, language: str, _attributes: str) -> str:
    if len(code) > LONGEST_HIGHLIGHTED:
        return ""
    try:
        lexer = get_lexer_by_name(language)
    except ClassNotFound:
        return ""
    return str(highlight(code, lexer, HtmlFormatter(nowrap=True)))


def _image_as_text(
    _renderer: RendererHTML, tokens: Sequence[Token], index: int, _options: Any, _env: Any
) -> str:
    token = tokens[index]
    return escape(f"![{token.content}]({token.attrGet('src')})")


def _parser() -> MarkdownIt:
    parser = MarkdownIt(
        "commonmark",
        {"html": False, "linkify": False, "breaks": True, "highlight": _highlighted},
    ).enable(["table", "strikethrough"])
    parser.add_render_rule("image", _image_as_text)
    return parser


PARSER = _parser()
