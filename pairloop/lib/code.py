"""Code of a few languages as HTML with Pygments' short class names; anything else stays as it is written."""

from __future__ import annotations

import functools
import html
from typing import Any

from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES, Token

#: Longer code is shown plain: some lexers take quadratic time.
LONGEST = 20_000
#: Pygments knows 500, some of which take seconds for text made for it. Each of these was tried with such.
LANGUAGES = {
    "bash", "c", "c#", "c++", "console", "cpp", "cs", "csharp", "css", "diff", "dockerfile", "go",
    "golang", "haskell", "html", "ini", "java", "javascript", "js", "json", "jsx", "julia", "kotlin",
    "latex", "lua", "makefile", "matlab", "perl", "php", "powershell", "py", "python", "python3", "r",
    "rb", "ruby", "rust", "scala", "sh", "shell", "sql", "swift", "tex", "toml", "ts", "typescript",
    "xml", "yaml", "yml", "zsh",
}  # fmt: skip
#: What prose.css has a colour for, by the beginning of the name.
COLOURED = (
    "k",
    "ow",
    "s",
    "dl",
    "m",
    "il",
    "c",
    "nf",
    "nc",
    "nb",
    "nd",
    "nt",
    "na",
    "fm",
    "gi",
    "gd",
)


def highlight(code: str, language: str) -> str:
    """Return the code as HTML, or nothing when it is to be shown plain."""
    if len(code) > LONGEST or language.lower() not in LANGUAGES:
        return ""
    pieces: list[tuple[str, str]] = []
    for kind, text in _lexer(language.lower()).get_tokens(code):
        name = _class(kind)
        if pieces and pieces[-1][0] == name:
            pieces[-1] = (name, pieces[-1][1] + text)
        else:
            pieces.append((name, text))
    return "".join(
        f'<span class="{name}">{html.escape(text)}</span>' if name else html.escape(text)
        for name, text in pieces
    )


@functools.cache
def _lexer(language: str) -> Any:
    # Blank lines at the beginning and the end are the answer's own.
    return get_lexer_by_name(language, stripnl=False, ensurenl=False)


@functools.cache
def _class(kind: Any) -> str:
    while kind not in STANDARD_TYPES and kind is not Token:
        kind = kind.parent
    name = STANDARD_TYPES.get(kind, "")
    return name if name.startswith(COLOURED) else ""


CLASSES = {name for name in STANDARD_TYPES.values() if name.startswith(COLOURED)}
