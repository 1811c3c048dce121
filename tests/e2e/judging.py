"""What the browser tests of the judging screen share."""

from __future__ import annotations

from playwright.sync_api import expect

from annotate.models import Judgement, Verdict
from tests.factories import CompletionFactory, PairFactory, PromptFactory, QueueEntryFactory

KEYS = {
    "a": Verdict.LEFT_MUCH,
    "s": Verdict.LEFT,
    "d": Verdict.TIE,
    "f": Verdict.RIGHT,
    "g": Verdict.RIGHT_MUCH,
    "x": Verdict.BOTH_BAD,
}
#: Milliseconds in which a new pair takes no verdict.
GUARD_MS = 250


def queued(model, question, *texts, **prompt):
    """Queue a pair for a question."""
    prompt = PromptFactory(model=model, **{"messages": [{"role": "user", "content": question}], **prompt})
    first, second = (CompletionFactory(prompt=prompt, text=text) for text in texts or ("a", "b"))
    return QueueEntryFactory(pair=PairFactory(prompt=prompt, first=first, second=second)).pair


def verdict(page, label):
    """Find a verdict's button."""
    return page.get_by_role("button", name=label, exact=True)


def question(page):
    """Read what is asked of the pair that is shown."""
    return page.locator("[data-prompt-text]").inner_text()


def shown(page):
    """Return the assignment that is shown; empty while none is."""
    return page.evaluate("document.querySelector('[data-place] [data-uuid]')?.dataset.uuid ?? ''")


def ready(page):
    """Wait until a pair is there and takes a verdict."""
    expect(page.locator("[data-place] [data-uuid]")).to_have_count(1)
    page.wait_for_timeout(GUARD_MS + 60)


def waits_ahead(page):
    """Wait until the next pairs are in the page: the lease of each is asked for."""
    page.wait_for_load_state("networkidle")


def press(page, *keys):
    """Press keys one after the other, each on a pair that was looked at."""
    for key in keys:
        ready(page)
        page.keyboard.press(key)


def saved(page):
    """Wait until the outbox is empty."""
    expect(page.locator("[data-outbox]")).to_have_text("saved", timeout=30_000)


def latest():
    """Return what stands: assignment -> verdict of its latest revision, in the order of judging."""
    rows = Judgement.objects.order_by("pk").values_list("assignment_id", "verdict")
    return {str(uuid): said for uuid, said in rows if said or True}


def ended(page):
    """Wait for the end of the queue."""
    expect(page.get_by_role("heading", level=1)).to_have_text(
        "You have judged everything that waits", timeout=10_000
    )
