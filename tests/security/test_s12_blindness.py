"""S12: no byte that a labeler gets tells one version from another, nor what was made of which."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from annotate.models import Assignment, Pair
from models_registry.models import Comparison
from tests import factories

pytestmark = pytest.mark.django_db

#: What is told apart by its number gets one that occurs nowhere by chance.
VERSION_IDS = (770_001_234, 770_005_678)
VERSION_NUMBERS = (880_011, 880_022)
COMPLETION_IDS = (660_004_321, 660_008_765)
PAIR_ID = 550_001_111
COMPARISON_ID = 440_002_222
SEEDS = (918_273_645, 546_372_819)
TOKENS = (430_211, 430_277)
FINISH = ("ended-here", "ended-there")
TEMPERATURE = 0.7331
SHA = ("a1b2" * 16, "c3d4" * 16)
PATHS = ("versions/adapter-quagga", "versions/adapter-okapi")


@dataclass
class Told:
    """Everything that was sent to a labeler, by where it came from."""

    answers: list[tuple[str, str]] = field(default_factory=list)

    def note(self, where: str, answer: HttpResponse) -> HttpResponse:
        """Keep an answer: status line, headers, cookies, body."""
        assert answer.status_code < 500, where
        body = b"".join(answer) if answer.streaming else answer.content
        heard = [str(answer.status_code), *(f"{name}: {value}" for name, value in answer.items())]
        heard += [cookie.OutputString() for cookie in answer.cookies.values()]
        self.answers.append((where, "\n".join([*heard, body.decode()])))
        return answer

    def where(self, needle: Any) -> list[str]:
        """Return which answers contain something."""
        return [where for where, text in self.answers if str(needle) in text]


@pytest.fixture
def compared(db: None) -> Comparison:
    """A pair of two versions, everything about which is unmistakable."""
    model = factories.RegisteredModelFactory(slug="demo")
    versions = [
        factories.ModelVersionFactory(
            model=model, pk=pk, number=number, kind="adapter", parent=model.versions.get(number=0),
            artifact_path=path, sha256=sha,
        )
        for pk, number, path, sha in zip(VERSION_IDS, VERSION_NUMBERS, PATHS, SHA, strict=True)
    ]  # fmt: skip
    comparison = factories.ComparisonFactory(
        pk=COMPARISON_ID, model=model, candidate=versions[1], incumbent=versions[0]
    )
    prompt = factories.PromptFactory(model=model, split="holdout")
    first, second = (
        factories.CompletionFactory(
            prompt=prompt, pk=pk, version=version, text=f"Answer {word}.", seed=seed,
            completion_ids=[token, token, 2], finish_reason=finish,
            sampling={"temperature": TEMPERATURE, "n": 4},
        )
        for pk, version, word, seed, token, finish in zip(
            COMPLETION_IDS, versions, ("plum", "pear"), SEEDS, TOKENS, FINISH, strict=True
        )
    )  # fmt: skip
    pair = factories.PairFactory(
        pk=PAIR_ID, prompt=prompt, first=first, second=second, purpose=Pair.Purpose.COMPARE,
        comparison=comparison,
    )  # fmt: skip
    factories.QueueEntryFactory(pair=pair)
    return comparison


def needles() -> list[Any]:
    """Return everything that a labeler must not be told."""
    return [
        *VERSION_IDS, *VERSION_NUMBERS, *COMPLETION_IDS, PAIR_ID, COMPARISON_ID, *SEEDS, *TOKENS, *FINISH,
        TEMPERATURE, *SHA, *(sha[:12] for sha in SHA), *PATHS, "quagga", "okapi",
        "candidate", "incumbent", "compare",
    ]  # fmt: skip


def walk(client: Client, told: Told, *, slug: str) -> UUID:
    """Do everything that a labeler does on the screen; return the assignment."""

    def page(name: str, *parts: Any) -> str:
        return reverse(name, args=[slug, *parts])

    json = {"HTTP_ACCEPT": "application/json"}
    told.note("judge", client.get(page("judge")))
    uuid = Assignment.objects.get().uuid
    told.note("again", client.get(page("judge"), headers={"HX-Request": "true"}))
    told.note("card", client.get(page("judgement", uuid)))
    for shown in ("diff", "raw"):
        told.note(shown, client.get(page("judge_view", uuid), {"as": shown}))
    told.note("next", client.post(page("judge_next"), {"have": [str(uuid)]}))
    told.note("next, with nothing in the page", client.post(page("judge_next")))
    told.note("keep", client.post(page("judge_keep"), {"shown": str(uuid)}))
    told.note("flag", client.post(page("judgement_flag", uuid), {"is_raised": "1"}, **json))
    told.note("later", client.post(page("judgement_later", uuid), **json))
    said = {"verdict": "left", "reasons": ["clear"], "note": "A note.", "active_ms": "1200"}
    told.note("judged", client.post(page("judgement", uuid), said, **json))
    told.note("repeated", client.post(page("judgement", uuid), said, **json))
    told.note("to be revised", client.get(page("judgement", uuid)))
    told.note(
        "revised",
        client.post(page("judgement", uuid), said | {"verdict": "tie", "revise": "1"}, **json),
    )
    told.note("history", client.get(page("history")))
    told.note("nothing waits", client.get(page("judge")))
    told.note("undone", client.post(page("judgement_undo", uuid), **json))
    told.note("taken back", client.get(page("judge")))
    told.note("guidelines", client.get(page("guidelines")))
    told.note("home", client.get(reverse("home")))
    return uuid


def walk_rest(client: Client, told: Told, *, slug: str, uuid: UUID) -> None:
    """Do the same by REST."""
    said = {"verdict": "left", "reasons": [], "note": "", "active_ms": 5}
    api = "/api/v1/"
    told.note("api assignment", client.post(f"{api}models/{slug}/assignments/"))
    for where in ("api judged", "api repeated"):
        told.note(
            where, client.post(f"{api}assignments/{uuid}/judgement/", said, "application/json")
        )
    told.note("api undone", client.delete(f"{api}assignments/{uuid}/judgement/"))
    told.note("api history", client.get(f"{api}models/{slug}/history/"))
    told.note("api models", client.get(f"{api}models/"))
    told.note("api model", client.get(f"{api}models/{slug}/"))


def test_nothing_that_a_labeler_gets_tells_versions_apart(client, compared):
    labeler = factories.MembershipFactory(model=compared.model).user
    client.force_login(labeler)
    told = Told()

    uuid = walk(client, told, slug="demo")
    walk_rest(client, told, slug="demo", uuid=uuid)

    # The answers themselves were there, or this would prove nothing.
    assert told.where("plum")
    assert told.where("pear")
    found = {needle: told.where(needle) for needle in needles() if told.where(needle)}
    # The guidelines and verdicts are people's words and may say "compare"; ids and numbers never occur.
    assert found == {}


def test_every_purpose_looks_the_same(client, db):
    """Train, gold, repeat and compare pairs with the same texts make the same bytes, ids and times aside."""
    model = factories.RegisteredModelFactory(slug="demo")
    now = timezone.now()
    pages = set()
    for purpose in (Pair.Purpose.TRAIN, Pair.Purpose.GOLD, Pair.Purpose.REPEAT):
        labeler = factories.MembershipFactory(model=model).user
        prompt = factories.PromptFactory(
            model=model, messages=[{"role": "user", "content": f"Why? {purpose.value[:0]}"}],
            sha256=factories.sha256(purpose.value),
        )  # fmt: skip
        first, second = (
            factories.CompletionFactory(prompt=prompt, text=text) for text in ("Left.", "Right.")
        )
        pair = factories.PairFactory(prompt=prompt, first=first, second=second, purpose=purpose)
        lease = factories.AssignmentFactory(
            pair=pair, labeler=labeler, is_on_top=purpose != Pair.Purpose.TRAIN,
            assigned_at=now, expires_at=now + timedelta(minutes=30),
        )  # fmt: skip
        if purpose == Pair.Purpose.TRAIN:
            factories.QueueEntryFactory(pair=pair, leased=1)
        client.force_login(labeler)
        page = client.post(reverse("judge_next", args=["demo"]))
        assert page.status_code == 200
        pages.add(page.text.replace(str(lease.uuid), "UUID"))

    assert len(pages) == 1
