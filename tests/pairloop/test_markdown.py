from __future__ import annotations

from html.parser import HTMLParser

import pytest

from pairloop.lib import markdown

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
            "href", "title", "rel", "start", "dir", "class",
        }  # fmt: skip
        for _, name, value in parsed.attributes:
            if name == "href":
                assert value.startswith(("https://", "http://", "mailto:"))
            if name == "class":
                assert value in markdown.STANDARD_TYPES.values()

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
        assert '<pre dir="ltr">' in html

    def test_takes_empty_text(self):
        assert markdown.render("") == ""
