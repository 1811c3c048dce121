"""What a labeler reads, laid out by a real browser: formulas, code, tables, other scripts, long words."""

from __future__ import annotations

import pytest

from tests.factories import PairFactory, QueueEntryFactory

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]

ANSWER = f"""The roots are $\\frac{{a}}{{b}}$ and

$$x = \\frac{{-b \\pm \\sqrt{{b^2 - 4ac}}}}{{2a}} {"+ y_1" * 60}$$

```python
x = "{"a line that is longer than any pane is wide " * 8}"
```

| {"column with a long title |" * 9}
|{"---|" * 9}
| {"unbreakable-{'x' * 40} |" * 9}

{"x" * 600}

https://example.org/{"y" * 600}

An override \u202eof what follows

after it

\u0645\u0639\u0627\u062f\u0644\u0629 x

\u4e8c\u6b21\u65b9\u7a0b\u6709\u4e24\u4e2a\u89e3\u3002
"""
#: Returns where the first and the last letter of an element's text are, from the left.
LETTERS = """element => {
  const text = element.firstChild, range = document.createRange(), places = [];
  for (const place of [0, text.length - 1]) {
    range.setStart(text, place);
    range.setEnd(text, place + 1);
    places.push(range.getBoundingClientRect().left);
  }
  return places;
}"""


@pytest.fixture
def page(quiet_page, context, log_in, live_server, model, labeler):
    """The judging page with that answer on both sides; it must not complain in its console."""
    pair = PairFactory(prompt__model=model, first__text=ANSWER, second__text=ANSWER + "\n\nend")
    QueueEntryFactory(pair=pair)
    log_in(context, labeler)
    quiet_page.goto(f"{live_server.url}/models/{model.slug}/judge/")
    return quiet_page


@pytest.mark.parametrize("width", [1280, 390])
def test_everything_stays_in_its_pane(page, width):
    page.set_viewport_size({"width": width, "height": 900})

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for scroller in (".prose pre", ".prose table", ".prose .formula"):
        found = page.locator(scroller).first.evaluate(
            "one => [one.scrollWidth > one.clientWidth, one.scrollHeight > one.clientHeight,"
            " getComputedStyle(one).overflowX, getComputedStyle(one).overflowY]"
        )
        # Sideways, and never down: whoever scrolls down the page is not held up.
        assert found[0], scroller
        assert found[2:] == ["auto", "hidden"], scroller
    assert not page.locator(".prose pre").first.evaluate("e => e.scrollHeight > e.clientHeight + 1")


def test_formulas_are_laid_out(page):
    fraction = page.locator(".prose p > math mfrac").first
    over, under = (fraction.locator("> *").nth(place).bounding_box() for place in (0, 1))

    assert over["y"] + over["height"] <= under["y"] + 1


def test_an_override_ends_with_its_paragraph(page):
    after = page.locator(".prose p", has_text="after it").first
    first, last = after.evaluate(LETTERS)

    assert first < last


def test_each_paragraph_has_its_own_direction(page):
    arabic = page.locator(".prose p", has_text="\u0645\u0639\u0627\u062f\u0644\u0629").first
    first, last = arabic.evaluate(LETTERS)

    assert arabic.evaluate("one => getComputedStyle(one).direction") == "rtl"
    assert first > last


def test_code_can_be_scrolled_by_keyboard(page):
    code = page.locator(".prose pre").first
    code.focus()

    page.keyboard.press("ArrowRight")

    page.wait_for_function("document.activeElement.scrollLeft > 0")
