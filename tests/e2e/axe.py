"""What axe-core finds on a page: WCAG 2.2 A and AA, and what its authors recommend."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe

TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RICH = "See [a](https://a.example).\n\n> quote\n\n```python\ndef f(): # x\n  return 'y'\n```\n\n| a | b |\n|-|-|\n| 1 | 2 |"


def looks(test):
    """Run a test, or a class of them, in light and dark, wide and narrow: as `scheme` and `size`."""
    sizes = pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=["wide", "narrow"])
    return sizes(pytest.mark.parametrize("scheme", ["light", "dark"])(test))


def look(page, scheme, size):
    """Set colours and size."""
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": size[0], "height": size[1]})


def violations(page, complaints):
    """Return what axe finds. It is evaluated as a debugger would: the page's policy lets no script in."""
    # What is half faded in has other colours.
    page.wait_for_function("document.getAnimations().every((one) => one.playState !== 'running')")
    before = len(complaints)
    # Preloading, it would fetch style sheets once more, some by a wrong name.
    options = {"runOnly": {"type": "tag", "values": TAGS}, "preload": False}
    found = Axe().run(page, options=options)
    # axe tries styles of its own, which the policy forbids and the console tells.
    page.wait_for_timeout(200)
    del complaints[before:]
    return [
        f"{one['id']}: {one['help']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
        for one in found.response["violations"]
        for node in one["nodes"]
    ]
