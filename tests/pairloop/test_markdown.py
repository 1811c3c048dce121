from __future__ import annotations

import random
import re
import time
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from pairloop.lib import code, formulas, markdown
from tests.security import hostile

#: Each wants to run `alert`, load something remote, or leave its place on the page.
PAYLOADS = [
    "<script>alert(1)</script>",
    "<ScRiPt src=//evil.example/x.js></sCrIpT>",
    "<script\x00>alert(1)</script>",
    "<<script>alert(1);//<</script>",
    "<img src=x onerror=alert(1)>",
    "<img src='x' onerror='alert(1)'",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<iframe src='javascript:alert(1)'></iframe>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<object data='javascript:alert(1)'></object>",
    "<embed src='javascript:alert(1)'>",
    "<form action='javascript:alert(1)'><button>x</button></form>",
    "<button name=verdict value=left_much>Left</button>",
    "<input autofocus onfocus=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<body onload=alert(1)>",
    "<base href='https://evil.example/'>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<link rel=stylesheet href='https://evil.example/x.css'>",
    "<style>@import 'https://evil.example/x.css';</style>",
    "<div style='background:url(https://evil.example/x)'>x</div>",
    "<div hx-get='/admin/' hx-trigger='load'>x</div>",
    "<div data-hx-get='/admin/' data-hx-trigger='load'>x</div>",
    "<a href='javascript:alert(1)'>x</a>",
    "<video><source onerror=alert(1)></video>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<template><script>alert(1)</script></template>",
    "</div></section></form><h1>out</h1>",
    "<!--><img src=x onerror=alert(1)>-->",
    "<![CDATA[<img src=x onerror=alert(1)>]]>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "[x](/admin/)",
    "[x](//evil.example/)",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\nscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](&#x6A;&#x61;vascript&colon;alert(1))",
    "[x](javascript&#58;alert(1))",
    "[x](\x01javascript:alert(1))",
    "[x]( javascript:alert(1) )",
    "[x](vbscript:msgbox(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](data:image/svg+xml,<svg onload=alert(1)>)",
    "[x](file:///etc/passwd)",
    "[x](blob:https://evil.example/1)",
    "[x]('onmouseover=alert(1)')",
    '[x](https://a.example "onmouseover=alert(1) ")',
    '[x](https://a.example/"onmouseover="alert(1))',
    "<javascript:alert(1)>",
    "<https://a.example/?x=\"onclick=alert(1)>",
    "[x]: javascript:alert(1)\n\n[x]",
    "![x](https://evil.example/pixel.png)",
    "![x](javascript:alert(1))",
    '![x" onerror="alert(1)](https://evil.example/x)',
    "![<script>alert(1)</script>](x)",
    "[![x](https://evil.example/pixel.png)](https://a.example)",
    "```<script>alert(1)</script>\nx\n```",
    '```python" onclick="alert(1)\nx\n```',
    "```html\n<script>alert(1)</script>\n```",
    "`<img src=x onerror=alert(1)>`",
    "| <img src=x onerror=alert(1)> |\n| --- |\n| <script>alert(1)</script> |",
    "# <script>alert(1)</script>",
    "> <img src=x onerror=alert(1)>",
    "{{ request.user.password }} {% debug %}",
    "[" * 2000 + "x",
    "> " * 2000 + "x",
    "*" * 5000,
]  # fmt: skip


#: All that we write ourselves.
CLASSES = {
    *code.CLASSES, *formulas.CLASSES.values(), "", "tex", "formula", "is-long", "task", "note", "as-written",
}  # fmt: skip
#: Where parsers of markdown, or ours for formulas, have been slow.
BOMBS = [
    part * (100_000 // len(part))
    for part in (
        "[", "![", "[](", "[a](", "[a](<", '[a](b "', "*", "_", "*a ", "*a_ ", "**a*", "a**b", "~~a ", "`", "<",
        "<!--", "&", "\\", "\n", "a\n", "1. a\n", "- a\n", "# a\n", "a\n=", "| ", "|-\n", "a|b\n", "[a]: b\n",
        "[a", "```\n", "```python\nx = 1\n```\n", "$", "$a ", "$$a", "$x$ ", "$$\n", "$$\nx\n", "\\(", "\\[",
        "\\[\n", "\\[\nx\n", "- $$\n x\n", "> $$\n", "\\begin{align}\n", "$\\frac{1}{2}$ ", "$" + "\\foo" * 300 + "$ ",
        "$" + "{" * 900, "$x_{", "a\u0301", "> - ", "\u202ea ",
    )
] + [
    "`".join("`" * length for length in range(1, 440)),
    "|" + "a|" * 4000 + "\n|" + "-|" * 4000 + "\n" + ("|" * 4000 + "\n") * 20,
    "|" + "a|" * 200 + "\n|" + "-|" * 200 + "\n" + "|a|\n" * 20_000,
    "> " * 15 + "a\n" + "a\n" * 50_000,
    "[a]: b\n" * 700 + "[a]" * 30_000,
    "[" * 5000 + "a" + "](b)" * 5000,
    *(f"```{language}\n" + part * 4500 for language, part in (
        ("html", "<a "), ("python", '"""a\n'), ("cpp", "template<"), ("perl", "s/a/"), ("ts", "`${"),
        ("bash", "$(("), ("js", "/["), ("php", "<?php $"), ("ruby", "%q("), ("swift", '"\\('), ("sql", "'"),
        ("yaml", "- a: "), ("json", '{"a": ['), ("kotlin", '"${'), ("latex", "\\a{"), ("css", "a{"),
    )),
]  # fmt: skip


class Parsed(HTMLParser):
    """The tags and attributes that a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]


class TestRender:
    @pytest.mark.parametrize("payload", PAYLOADS)
    def test_lets_nothing_run_or_load(self, payload):
        parsed = Parsed(markdown.render(payload))

        assert set(parsed.tags) <= markdown.TAGS
        assert {name for _, name, _ in parsed.attributes} <= {
            "href", "title", "rel", "start", "dir", "class", "tabindex", "align",
        }  # fmt: skip
        for _, name, value in parsed.attributes:
            if name == "href":
                assert value.startswith(("https://", "http://", "mailto:"))
            if name == "class":
                assert value in CLASSES

    @pytest.mark.parametrize("payload", PAYLOADS)
    def test_closes_what_it_opens(self, payload):
        # A stray </form> would cut the verdict buttons off.
        html = markdown.render(payload)

        for tag in ("div", "form", "section", "button"):
            assert f"</{tag}" not in html

    def test_shows_an_image_as_its_source(self):
        html = markdown.render("Look: ![a cat](https://a.example/cat.png)")

        assert "![a cat](https://a.example/cat.png)" in html
        assert "<img" not in html

    def test_keeps_links_without_handing_anything_over(self):
        html = markdown.render("[manual](https://a.example/)")

        assert 'href="https://a.example/"' in html
        assert 'rel="noopener noreferrer nofollow"' in html
        assert "target" not in html

    def test_makes_no_links_of_bare_addresses(self):
        assert "<a" not in markdown.render("https://a.example/ and www.a.example")

    def test_marks_code_of_a_known_language(self):
        assert '<span class="k">def</span>' in markdown.render("```python\ndef f(): ...\n```")

    @pytest.mark.parametrize("fence", ["```", "```no-such-language"])
    def test_shows_other_code_plainly(self, fence):
        assert "a &lt; b" in markdown.render(f"{fence}\na < b\n```")

    def test_shows_code_of_an_unusual_language_plainly(self):
        # Pygments has 500 lexers; some take seconds for text that is made for them.
        assert "<span" not in markdown.render("```rst\n*x*\n```")

    def test_shows_very_long_code_plainly(self):
        assert "<span" not in markdown.render("```python\n" + "x = 1\n" * 5000 + "```")

    def test_keeps_tables_lists_and_line_breaks(self):
        html = markdown.render("| a |\n| --- |\n| b |\n\n3. c\n\nd\ne")

        assert "<td>b</td>" in html
        assert '<ol start="3"' in html
        assert "d<br>" in html

    def test_lets_each_block_find_its_direction(self):
        html = markdown.render("hello\n\nبحر\n\n```\ncode\n```")

        assert html.count('<p dir="auto">') == 2
        assert re.search('<pre [^>]*dir="ltr"', html)

    def test_takes_empty_text(self):
        assert markdown.render("") == ""

    def test_keeps_the_columns_of_tables_where_they_belong(self):
        html = markdown.render("| a | b |\n| --- | --: |\n| c | 1 |")

        assert '<td align="right">1</td>' in html
        assert "<td>c</td>" in html

    def test_shows_the_boxes_of_task_lists(self):
        html = markdown.render("- [x] done\n- [ ] *open*\n- [link](https://a.example)")

        assert '<span class="task">☑</span> done' in html
        assert '<span class="task">☐</span> <em>open</em>' in html
        assert html.count("task") == 2

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("a" * (markdown.LONGEST + 1), markdown.TOO_LONG),
            (">" * 10_000 + " a", markdown.TOO_DEEP),
            ("> " * 30 + "hidden?", markdown.TOO_DEEP),
            ("[" * 10_000, markdown.TOO_DEEP),
            ("a\n" * 10_000, markdown.TOO_LONG),
            ("\n".join("  " * level + "- a" for level in range(30)), markdown.TOO_DEEP),
        ],
        ids=range(6),
    )
    def test_shows_what_it_cannot_format_as_it_is_and_says_so(self, text, why):
        html = markdown.render(text)

        assert why in html
        # The parser would have dropped what is deeper than it goes.
        assert re.search("<pre[^>]*>([^<]*)</pre>", html)[1] == text.replace(">", "&gt;")

    def test_formats_what_people_nest(self):
        html = markdown.render("\n".join("  " * level + "- a" for level in range(8)))

        assert html.count("<ul") == 8

    @pytest.mark.parametrize("text", BOMBS, ids=range(len(BOMBS)))
    def test_takes_no_long_time_over_texts_made_for_it(self, text):
        # The slowest takes half a second on a machine of our kind that does nothing else.
        start = time.process_time()

        markdown.render(text[: markdown.LONGEST])
        markdown.render(text)

        assert time.process_time() - start < 8

    def test_stops_at_every_character_at_which_a_rule_begins(self):
        # The parser's own, much longer list of characters must lead to the same.
        usual = markdown._parser()
        usual.inline.terminator_re = MarkdownIt().inline.terminator_re
        usual.inline.add_terminator_char("$")
        dice = random.Random(5)
        parts = [
            *"\n\n!$&*<[]\\_`~(){}^#-:+=@%>|\"' ",
            "![",
            "](",
            "&amp;",
            "&#65;",
            "a",
            "b c",
            "1.",
            "x ",
        ]
        for _ in range(500):
            text = "".join(dice.choices(parts, k=dice.randrange(1, 25)))

            assert markdown.PARSER.render(text) == usual.render(text)

    def test_answers_from_memory_what_it_rendered_lately(self):
        text = "Rendered *once*."

        assert markdown.render(text) is markdown.render(text)


class TestKept:
    def test_forgets_what_was_not_asked_for_longest(self):
        kept = markdown._Kept(3000)
        for text in ("a" * 500, "b" * 500):
            kept.put(text, text)
        kept.get("a" * 500)

        kept.put("c" * 500, "c" * 500)

        assert kept.get("a" * 500)
        assert kept.get("b" * 500) is None
        assert kept.get("c" * 500)

    def test_keeps_nothing_that_is_too_large(self):
        kept = markdown._Kept(3000)

        kept.put("a" * 5000, "a")

        assert kept.get("a" * 5000) is None
        assert kept._size == 0

    def test_counts_the_same_text_once(self):
        kept = markdown._Kept(3000)
        kept.put("a", "a")
        size = kept._size

        kept.put("a", "a")

        assert kept._size == size


class TestWalls:
    """Each of the two holds when the other one is gone."""

    @pytest.mark.parametrize("payload", [*PAYLOADS, *hostile.PAYLOADS])
    def test_the_parser_alone_writes_no_html_of_the_text(self, payload):
        html = markdown.PARSER.render(payload)

        parsed = Parsed(html)
        assert set(parsed.tags) <= markdown.TAGS
        assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]
        # To the sanitiser it leaves links to our own pages, and what a link tells where it leads.
        assert [
            fault for fault in hostile.read(html).faults if "gives something" not in fault
        ] == []

    @pytest.mark.parametrize("payload", [*PAYLOADS, *hostile.PAYLOADS])
    def test_the_sanitiser_alone_lets_nothing_through(self, payload):
        careless = MarkdownIt("commonmark", {"html": True}).enable("table")
        careless.validateLink = lambda _address: True

        for html in (payload, careless.render(payload)):
            cleaned = markdown.CLEANER.clean(html)

            assert hostile.read(cleaned).faults == []
            parsed = Parsed(cleaned)
            assert set(parsed.tags) <= markdown.TAGS
            for _, name, value in parsed.attributes:
                assert not name.startswith("on")
                assert name != "style"
                if name == "class":
                    assert set(value.split()) <= CLASSES

    def test_the_careless_parser_would_let_them_through(self):
        careless = MarkdownIt("commonmark", {"html": True})

        assert hostile.read(careless.render(f"<script>{hostile.RUN}</script>")).faults
