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
#: What Chromium's console says of a request that did not get through.
NOT_REACHED = "Failed to load resource"


def queued(model, question, *texts, **prompt):
    """Queue a pair for a question."""
    messages = [{"role": "user", "content": question}]
    prompt = PromptFactory(model=model, **{"messages": messages, **prompt})
    first, second = (CompletionFactory(prompt=prompt, text=text) for text in texts or ("a", "b"))
    return QueueEntryFactory(pair=PairFactory(prompt=prompt, first=first, second=second)).pair


def queued_many(model, number):
    """Queue pairs for as many questions."""
    for one in range(number):
        queued(model, f"Question {one}?")


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
    """Wait until a pair is there and takes a verdict; return its assignment."""
    expect(page.locator("[data-ready] [data-uuid]")).to_have_count(1, timeout=20_000)
    page.wait_for_timeout(GUARD_MS + 60)
    return shown(page)


def judge(page, keys):
    """Press a verdict's key on each pair that follows; return assignment -> verdict as the page has it."""
    said = {}
    for key in keys:
        said[ready(page)] = KEYS[key]
        page.keyboard.press(key)
    return said


def saved(page):
    """Wait until the outbox is empty."""
    expect(page.locator("[data-outbox]")).to_have_text("saved", timeout=40_000)


def ended(page):
    """Wait for the end of the queue."""
    expect(page.get_by_role("heading", level=1)).to_have_text(
        "You have judged everything that waits", timeout=10_000
    )


def stored():
    """Return what the database has: assignment -> verdict. Fails when one was stored twice."""
    rows = list(Judgement.objects.values_list("assignment_id", "verdict"))
    found = {str(uuid): verdict for uuid, verdict in rows}
    assert len(found) == len(rows), "stored twice"
    return found


def revisions(uuid):
    """Return the verdicts of an assignment's revisions; an empty one took back."""
    rows = Judgement.objects.filter(assignment=uuid).order_by("revision")
    return list(rows.values_list("verdict", flat=True))


def forgive_the_network(page, complaints):
    """Forget what the console said about requests that a test let fail; nothing else. The test's last step."""
    # An open page would go on asking, and complain once more.
    for one in page.context.pages:
        one.close()
    assert [said for said in complaints if NOT_REACHED not in said] == []
    complaints.clear()
