"""Texts that would run something, and a reader of pages that tells whether one could."""

from __future__ import annotations

import re
from html.parser import HTMLParser

#: What a payload does when it runs.
RUN = "window.__x=1"
PAYLOADS = [
    # Elements with handlers, and ways to write them.
    f"<script>{RUN}</script>",
    f"<ScRiPt >{RUN}</sCrIpT>",
    f"<script\n>{RUN}</script\n>",
    f"<scr<script>ipt>{RUN}</scr</script>ipt>",
    "<script src=//evil.example/x.js></script>",
    "<script src=data:text/javascript,window.__x=1></script>",
    f"<img src=x onerror={RUN}>",
    f'<img src="x" onerror="{RUN}"/>',
    f"<img/src=x/onerror={RUN}>",
    f"<IMG SRC=x OnErRoR={RUN}>",
    f"<img src=x onerror\n=\n{RUN}>",
    f'<img src=x on\x00error="{RUN}">',
    f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>",
    f'<svg><a xlink:href="javascript:{RUN}"><text y=20>click</text></a></svg>',
    f"<math><mtext><table><mglyph><style><img src=x onerror={RUN}>",
    f'<math href="javascript:{RUN}">click</math>',
    f"<body onload={RUN}>",
    f"<details open ontoggle={RUN}>",
    f"<input autofocus onfocus={RUN}>",
    f"<select autofocus onfocus={RUN}>",
    f"<video><source onerror={RUN}>",
    f"<audio src=x onerror={RUN}>",
    f"<marquee onstart={RUN}>",
    f"<div onmouseover={RUN} style=position:fixed;inset:0>over</div>",
    f'<iframe src="javascript:{RUN}"></iframe>',
    f'<iframe srcdoc="<script>{RUN}</script>"></iframe>',
    "<iframe src=//evil.example></iframe>",
    f'<object data="javascript:{RUN}"></object>',
    "<embed src=//evil.example/x.swf>",
    '<meta http-equiv="refresh" content="0;url=//evil.example">',
    '<base href="//evil.example/">',
    '<link rel="stylesheet" href="//evil.example/x.css">',
    "<style>@import '//evil.example/x.css';</style>",
    '<form action="//evil.example"><button>send</button></form>',
    f'<button formaction="javascript:{RUN}">click</button>',
    '<p style="background:url(//evil.example/x.png)">x</p>',
    f'<template><script>{RUN}</script></template>',
    f"<noscript><p title=\"</noscript><img src=x onerror={RUN}>\">",
    # htmx listens to attributes.
    '<div hx-get="//evil.example" hx-trigger="load">x</div>',
    f'<div hx-on:htmx:load="{RUN}" hx-on-click="{RUN}">x</div>',
    f"<div hx-vals='js:{{a: ({RUN})}}' hx-post=\"/logout/\" hx-trigger=\"load\">x</div>",
    # Out of an attribute, a script, a comment, a text field.
    f"\"><img src=x onerror={RUN}>",
    f"'><img src=x onerror={RUN}>",
    f"</textarea><img src=x onerror={RUN}>",
    f"</title><script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"--><script>{RUN}</script>",
    f"{{% if 1 %}}{{{{ 7|add:7 }}}}<script>{RUN}</script>{{% endif %}}",
    f"&lt;script&gt;{RUN}&lt;/script&gt;",
    # Markdown's own ways.
    f"[click](javascript:{RUN})",
    f"[click](JaVaScRiPt:{RUN})",
    f"[click](java&#115;cript:{RUN})",
    f"[click](&#x01;javascript:{RUN})",
    f"[click](<java\tscript:{RUN}>)",
    f"[click](vbscript:{RUN})",
    "[click](data:text/html;base64,PHNjcmlwdD53aW5kb3cuX194PTE8L3NjcmlwdD4=)",
    f"<javascript:{RUN}>",
    "![x](//evil.example/x.png)",
    f"![x](x\"onerror=\"{RUN})",
    f"![x\" onerror=\"{RUN}](x)",
    f'[click](https://evil.example "x" onmouseover="{RUN}")',
    f"[click]: javascript:{RUN}\n\n[click]",
    f"`````html \" onmouseover=\"{RUN}\n<script>{RUN}</script>\n`````",
    # Out of formulas, their MathML, and code.
    f"$</math><img src=x onerror={RUN}>$",
    f"$$\n\\text{{<img src=x onerror={RUN}>}}\n$$",
    f"$\\text{{</mtext></math><script>{RUN}</script>}}$",
    f"\\(\\href{{javascript:{RUN}}}{{click}}\\)",
    f"\\[\\url{{javascript:{RUN}}}\\]",
    f"$\\unicode{{<script>{RUN}</script>}}$",
    f"$\\class{{x\" onclick=\"{RUN}}}{{x}} \\style{{background:url(//evil.example/x)}}{{x}}$",
    f"$\\color{{red\" onclick=\"{RUN}}} x \\includegraphics{{//evil.example/x.png}}$",
    f"\\begin{{align}}\nx \\label{{a\"onclick=\"{RUN}}} \\tag{{<b onclick={RUN}>}}\n\\end{{align}}",
    f"$\\def\\x{{\\text{{<svg onload={RUN}>}}}}\\x$",
    f"$\\hspace{{1em\" onclick=\"{RUN}}} \\begin{{array}}{{c\" onclick=\"{RUN}}} a \\end{{array}}$",
    f"<math><maction actiontype='statusline#javascript:{RUN}' xlink:href='javascript:{RUN}'>x</maction></math>",
    f"<math><annotation-xml encoding='text/html'><img src=x onerror={RUN}></annotation-xml></math>",
    f"<math><semantics><annotation-xml><svg onload={RUN}></svg></annotation-xml></semantics></math>",
    f"<math><mi href='javascript:{RUN}' style='background:url(//evil.example/x)'>click</mi></math>",
    f"<math><mtext><a href='javascript:{RUN}'>x</a><mglyph src='//evil.example/x.png'></mtext></math>",
    f"<math><mi><!--</mi><img src=x onerror={RUN}>--></math>",
    f"<form><math><mtext></form><form><mglyph><style></math><img src=x onerror={RUN}>",
    f"<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src=x onerror={RUN}&gt;\">",
    f"```html\n</code></pre><img src=x onerror={RUN}>\n```",
    f"```\"><img/src=x/onerror={RUN}>\nx\n```",
    f"~~~ </code><script>{RUN}</script>\nx\n~~~",
    f"```verdict pane hx-on:click={RUN}\nx\n```",
    f"```diff\n+</span><svg onload={RUN}>\n```",
    "[plain](https://example.org/page)",
    "<https://example.org/auto>",
]  # fmt: skip

ADDRESSES = {
    "href",
    "src",
    "action",
    "formaction",
    "xlink:href",
    "data",
    "srcset",
    "poster",
    "cite",
    "background",
}
NEVER = {
    "iframe",
    "object",
    "embed",
    "base",
    "frame",
    "applet",
    "video",
    "audio",
    "marquee",
    "template",
    # Of MathML, what may hold anything or acts; the rest is what we make of formulas.
    "annotation-xml",
    "maction",
    "mglyph",
    "semantics",
}
#: Django's administration has one script that is made for each language.
OURS = ("/static/", "/admin/jsi18n/")
CONTROLS = re.compile(r"[\x00-\x20\x7f-\x9f]")


class Reader(HTMLParser):
    """Collects, as sentences, what in a page could run, load from elsewhere or lead there with our name."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.faults: list[str] = []
        self.links = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        shown = f"<{tag} {values}>"
        if tag in NEVER or (tag == "meta" and "http-equiv" in values):
            self.faults.append(f"an element that runs or loads: {shown}")
        if tag == "script" and not values.get("src", "").startswith(OURS):
            self.faults.append(f"a script that is not ours: {shown}")
        for name, value in values.items():
            if name == "style" or (tag != "a" and name == "href" and tag.startswith("m")):
                self.faults.append(f"a style, or a link that is none: {shown}")
            if name.startswith(("on", "hx-on")):
                self.faults.append(f"a handler: {shown}")
            if name in ADDRESSES:
                self._look(tag, CONTROLS.sub("", value).lower(), values, shown)

    def _look(self, tag: str, address: str, values: dict[str, str], shown: str) -> None:
        if address.startswith(("javascript:", "vbscript:")) or (
            address.startswith("data:") and not address.startswith("data:image/")
        ):
            self.faults.append(f"an address that runs: {shown}")
        if not address.startswith(("http:", "https:", "//", "\\\\")):
            return
        if tag == "a":
            self.links += 1
            if not {"noopener", "nofollow"} <= set(values.get("rel", "").split()):
                self.faults.append(f"a link that gives something away: {shown}")
        else:
            self.faults.append(f"something remote: {shown}")


def read(page: str) -> Reader:
    """Read a page."""
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader
