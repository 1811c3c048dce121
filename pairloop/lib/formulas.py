"""Formulas in markdown, written in LaTeX: found by their delimiters, shown as MathML, or as their source.

The text may be hostile: what the converter does not take, or would take long or deep, stays as it is written.
"""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from math_core import LatexError, LatexToMathML

logger = logging.getLogger(__name__)

#: Characters of MathML that may be too wide for a line, by far.
LONG = 500
#: Characters of one formula; longer ones are shown as their source.
LONGEST = 3_000
#: Formulas of one text; the ones after them are shown as their source. Chromium lays 2,000 in a paragraph out for 8 s.
MOST = 500
#: What may make the converter, which is recursive, go one deeper; 2.6 kB of stack each.
MOST_STEPS = 400
STEPS = re.compile(r"[\\{^_]")
#: Brackets and environments inside each other: browsers lay tables in tables out again and again.
DEEPEST = 24
DEEPEST_TABLE = 4
NESTING = re.compile(r"\\begin\b|\\end\b|\\[{}\\]|\\(?:left|right)\b|[{}]")
#: A formula of an answer defines no commands; one that calls itself would be expanded a thousand times.
DEFINES = re.compile(
    r"\\(?:[egx]?def|let|futurelet|(?:re)?newcommand|providecommand|(?:re)?newenvironment"
    r"|DeclareMathOperator)(?![A-Za-z])"
)
CLOSING = {"$": "$", "$$": "$$", r"\(": r"\)", r"\[": r"\]"}
ENVIRONMENT = re.compile(r"\\begin\{((?:align|equation|gather|multline|alignat|eqnarray)\*?)\}")
#: Numbers at the edge of formulas are not what the text says.
NUMBERED = re.compile(r"\\(begin|end)\{(align|equation|gather|multline|alignat)\}")
#: "$5 per month or 50$ a year": a number, then words, and no sign of a formula.
PRICE = re.compile(r"\d[\d.,]*[kKmMbB]?(?![^\s\w])[^\\^_={}+<>]*[^\W\d]{2}[^\\^_={}+<>]*\Z")

#: One style of the converter's -> our class for it, since our pages allow no style attributes.
CLASSES = {
    "text-align: left": "to-start",
    "text-align: right": "to-end",
    "padding-left: 0": "no-start",
    "padding-right: 0": "no-end",
    "padding-left:0": "no-start",
    "padding-right:0": "no-end",
    "border-left: 0.05em solid currentcolor": "line-start",
    "border-right: 0.05em solid currentcolor": "line-end",
    "border-top: 0.05em solid currentcolor": "line-top",
    "border-left: 0.05em dashed currentcolor": "line-start",
    "border-right: 0.05em dashed currentcolor": "line-end",
    "border-top: 0.05em dashed currentcolor": "line-top",
    "width: 50%": "is-filler",
    "width: 100%": "is-wide",
}
STYLE = re.compile(r' style="([^"<>]*)"')

CONVERTER = LatexToMathML(
    fancy_error=False,
    max_expansions=200,
    macros={"substack": r"\begin{matrix}#1\end{matrix}"},
)

TAGS = {
    "math", "menclose", "mfrac", "mi", "mmultiscripts", "mn", "mo", "mover", "mpadded", "mphantom",
    "mprescripts", "mroot", "mrow", "ms", "mspace", "msqrt", "msub", "msubsup", "msup", "mtable",
    "mtd", "mtext", "mtr", "munder", "munderover",
}  # fmt: skip
#: What only places and sizes; nothing that links, loads, acts, or colours text as its background.
ATTRIBUTES: dict[str, set[str]] = {
    "math": {"display"},
    "menclose": {"notation"},
    "mfrac": {"linethickness", "displaystyle"},
    "mi": {"mathvariant"},
    "mo": {
        "form", "lspace", "maxsize", "minsize", "movablelimits", "rspace", "stretchy", "symmetric",
    },
    "mover": {"accent"},
    "mpadded": {"depth", "height", "width"},
    "mrow": {"displaystyle", "scriptlevel"},
    "mspace": {"width"},
    "mtable": {"displaystyle", "scriptlevel"},
    "munder": {"accentunder"},
    "munderover": {"accent", "accentunder"},
}  # fmt: skip


def plugin(parser: MarkdownIt) -> None:
    """Let a parser find $…$, $$…$$, \\(…\\), \\[…\\] and a few environments."""
    parser.inline.add_terminator_char("$")
    # Before escapes, which would take the backslash of \( away.
    parser.inline.ruler.before("escape", "formula", _inline)
    parser.block.ruler.before(
        "fence", "formula", _block, {"alt": ["paragraph", "reference", "blockquote", "list"]}
    )
    parser.add_render_rule("formula", _shown)


def to_mathml(latex: str, *, is_block: bool) -> str | None:
    """Return MathML without styles, or None for what cannot be shown."""
    if not latex.strip() or _asks_too_much(latex):
        return None
    try:
        made = CONVERTER.convert_with_local_state(_prepared(latex), displaystyle=is_block)
    except (LatexError, UnicodeError):
        return None
    except BaseException as error:
        # A fault of the converter's own arrives as what only Rust's bindings raise.
        if type(error).__module__ != "pyo3_runtime":
            raise
        logger.exception("The converter of formulas failed")
        return None
    made = STYLE.sub(_classes, made)
    if not is_block and len(made) > LONG:
        # It may be wider than the text around it, and then scrolls. Thousands that may would be slow.
        made = made.replace("<math>", '<math class="is-long">', 1)
    return made


def _asks_too_much(latex: str) -> bool:
    if len(latex) > LONGEST or len(STEPS.findall(latex)) > MOST_STEPS or DEFINES.search(latex):
        return True
    depth = tables = 0
    for found in NESTING.finditer(latex):
        step = NESTING_STEPS.get(found[0], 0)
        depth += step
        if found[0] in {r"\begin", r"\end"}:
            tables += step
        if depth > DEEPEST or tables > DEEPEST_TABLE:
            return True
    return False


NESTING_STEPS = {r"\begin": 1, r"\left": 1, "{": 1, r"\end": -1, r"\right": -1, "}": -1}


def _prepared(latex: str) -> str:
    """Write what the converter does not know in its words."""
    latex = latex.replace("{split}", "{aligned}").replace("{eqnarray", "{align")
    if r"\tag" in latex:
        return latex if r"\begin" in latex else rf"\begin{{equation}}{latex}\end{{equation}}"
    return NUMBERED.sub(r"\\\1{\2*}", latex)


def _classes(found: re.Match[str]) -> str:
    known = {CLASSES.get(one.strip()) for one in found[1].split(";")} - {None}
    return f' class="{" ".join(sorted(map(str, known)))}"' if known else ""


def _shown(
    _renderer: RendererHTML, tokens: Sequence[Token], index: int, _options: Any, env: Any
) -> str:
    token = tokens[index]
    is_block = token.info == "block"
    env["formulas"] = env.get("formulas", 0) + 1
    is_one_too_many = env["formulas"] > MOST
    made = None if is_one_too_many else to_mathml(token.content, is_block=is_block)
    if made is None:
        made = f'<code class="tex">{html.escape(token.markup)}</code>'
    elif is_block:
        made = f'<span class="formula">{made}</span>'
    return f"<p>{made}</p>\n" if token.block else made


def _inline(state: StateInline, silent: bool) -> bool:
    source, start = state.src, state.pos
    if source[start] not in "$\\":
        return False
    opening = source[start : start + 2]
    if opening not in CLOSING:
        opening = source[start]
        if opening not in CLOSING:
            return False
    begin = start + len(opening)
    end = _end(source, begin, min(state.posMax, begin + LONGEST), CLOSING[opening])
    if end < 0 or (opening == "$" and not _is_formula(source, start, end, state.posMax)):
        return False
    state.pos = end + len(opening)
    if not silent:
        token = state.push("formula", "", 0)
        token.content = source[begin:end]
        token.markup = source[start : state.pos]
        token.info = "block" if opening in {"$$", r"\["} else ""
    return True


def _end(source: str, begin: int, limit: int, closing: str) -> int:
    """Return where the next closing delimiter is that no backslash stands before, or -1."""
    end = source.find(closing, begin, limit)
    while closing[0] == "$" and end > begin and _is_escaped(source, end):
        end = source.find(closing, end + 1, limit)
    return end if end > begin else -1


def _is_escaped(source: str, place: int) -> bool:
    before = place
    while before and source[before - 1] == "\\":
        before -= 1
    return bool((place - before) % 2)


def _is_formula(source: str, start: int, end: int, limit: int) -> bool:
    """Whether two dollars in a line of text enclose a formula: prices and shell variables do not."""
    before = source[start - 1] if start else " "
    after = source[end + 1] if end + 1 < limit else " "
    content = source[start + 1 : end]
    return not (
        before.isalnum()
        or after.isalnum()
        or content[0].isspace()
        or content[-1].isspace()
        or PRICE.match(content)
    )


def _block(
    state: StateBlock,
    first: int,
    last: int,
    silent: bool,
) -> bool:
    start = state.bMarks[first] + state.tShift[first]
    source = state.src
    if state.is_code_block(first) or source[start : start + 1] not in {"$", "\\"}:
        return False
    delimiters = _delimiters(source, start, state.eMarks[first])
    if not delimiters:
        return False
    opening, closing = delimiters
    line = _line_that_closes(state, first, last, start + len(opening), closing)
    if line is None:
        return False
    if silent:
        return True
    whole = state.getLines(first, line + 1, state.blkIndent, False).strip()
    token = state.push("formula", "", 0)
    token.block = True
    token.info = "block"
    token.markup = whole
    is_environment = opening.startswith(r"\begin")
    token.content = whole if is_environment else whole[len(opening) : -len(closing)]
    token.map = [first, line + 1]
    state.line = line + 1
    return True


def _delimiters(source: str, start: int, end: int) -> tuple[str, str] | None:
    opening = source[start : start + 2]
    if opening in {"$$", r"\["}:
        return opening, CLOSING[opening]
    environment = ENVIRONMENT.match(source, start, end)
    return (environment[0], rf"\end{{{environment[1]}}}") if environment else None


def _line_that_closes(
    state: StateBlock, first: int, last: int, begin: int, closing: str
) -> int | None:
    """Return the line that ends with the closing delimiter, which nothing but blanks may follow."""
    # A text of nothing but openings would be searched from each of them to its end.
    closes_not: dict[str, int] = state.env.setdefault("formula closes not", {})
    if first < closes_not.get(closing, -1):
        return None
    for line in range(first, last):
        start = state.bMarks[line] + state.tShift[line]
        end = state.eMarks[line]
        is_outside = line > first and (state.sCount[line] < state.blkIndent or start >= end)
        if is_outside or end - begin > LONGEST:
            closes_not[closing] = line
            return None
        found = state.src.find(closing, max(begin, start), end)
        if found >= 0:
            return line if not state.src[found + len(closing) : end].strip() else None
    closes_not[closing] = last
    return None
