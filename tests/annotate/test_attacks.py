from __future__ import annotations

import random
import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone

from annotate import actions, judging, prompts, queries, tasks, weak
from annotate.models import JudgingPolicy, Pair, Prompt, QueueEntry, Split
from models_registry.engine.fake import FakeEngine
from models_registry.models import ModelVersion, RegisteredModel
from pairloop.lib import jobs
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def model() -> RegisteredModel:
    return factories.RegisteredModelFactory.create()


@pytest.fixture
def labeler(model: RegisteredModel) -> User:
    return factories.MembershipFactory.create(model=model).user


@pytest.fixture
def caller(labeler: User) -> Client:
    client = Client()
    client.force_login(labeler)
    return client


def write(model: RegisteredModel, author: User, text: str = "Why is the sky green?") -> Prompt:
    return weak.attack_prompt_add(model=model, author=author, text=text, now=timezone.now())


def top_up(model: RegisteredModel, *answers: list[str]) -> FakeEngine:
    engine = FakeEngine(base=ModelVersion.objects.get(model=model).served_name)
    engine.enqueue(*answers)
    actions.pairs_top_up(model=model, engine=engine, chance=random.Random(1))
    return engine


def assign(model: RegisteredModel, labeler: User) -> Pair:
    now = timezone.now()
    return judging.pair_assign(model_id=model.pk, labeler=labeler, now=now).pair


def texts(*, held_out: bool) -> str:
    """Return a prompt that its hash puts on this side of the hold-out line."""
    candidates = (f"Why is {n} green?" for n in range(1000))
    return next(
        text
        for text in candidates
        if prompts.is_held_out(prompts.parse({"prompt": text}).sha256, share=0.2) is held_out
    )


class TestAttackPromptAdd:
    def test_stores_who_wrote_it(self, model: RegisteredModel, labeler: User) -> None:
        prompt = write(model, labeler, "  Why?\r\nReally?  ")

        assert (prompt.author, prompt.tags, prompt.question) == (
            labeler,
            ["attack"],
            "Why?\nReally?",
        )

    def test_wakes_the_worker(self, no_jobs: None, model: RegisteredModel, labeler: User) -> None:
        write(model, labeler)

        assert jobs.is_under_way(str(tasks.pairs_top_up.queueing_lock))

    @pytest.mark.parametrize("held_out", [True, False])
    def test_is_split_by_its_hash(
        self, model: RegisteredModel, labeler: User, held_out: bool
    ) -> None:
        prompt = write(model, labeler, texts(held_out=held_out))

        assert (prompt.split == Split.HOLDOUT) is held_out

    @pytest.mark.parametrize("text", ["", "   ", "x" * 40_000, "a\x00b"])
    def test_is_validated_as_imports_are(
        self, model: RegisteredModel, labeler: User, text: str
    ) -> None:
        with pytest.raises(prompts.PromptRefused):
            write(model, labeler, text)

        assert not Prompt.objects.exists()

    def test_tells_a_duplicate(self, model: RegisteredModel, labeler: User) -> None:
        actions.prompts_import(model=model, lines=[(1, {"prompt": "Why?"})])

        with pytest.raises(weak.PromptKnown):
            write(model, labeler, " Why? ")

        assert Prompt.objects.get().author is None

    def test_lets_three_wait(self, model: RegisteredModel, labeler: User) -> None:
        for number in range(3):
            write(model, labeler, f"Why {number}?")
        with pytest.raises(weak.TooManyAttacks, match="3 of your prompts wait"):
            write(model, labeler, "Why not?")

        top_up(model)
        with pytest.raises(weak.TooManyAttacks):
            write(model, labeler, "Why not?")
        lease = judging.pair_assign(model_id=model.pk, labeler=labeler, now=timezone.now())
        judging.judgement_record(assignment=lease, verdict="both_bad", now=timezone.now())

        assert write(model, labeler, "Why not?").author == labeler
        # Others are not held up.
        assert write(model, factories.MembershipFactory.create(model=model).user, "Who?").author

    def test_lets_twenty_be_written_within_an_hour(
        self, model: RegisteredModel, labeler: User
    ) -> None:
        for number in range(20):
            prompt = write(model, labeler, f"Why {number}?")
            factories.PairFactory.create(prompt=prompt)
        with pytest.raises(weak.TooManyAttacks, match="20 prompts within an hour"):
            write(model, labeler, "Why not?")

        Prompt.objects.filter(pk__lte=prompt.pk).update(
            created_at=timezone.now() - timedelta(hours=1)
        )
        assert write(model, labeler, "Why not?")


class TestTopUp:
    def test_samples_it_before_everything_else(self, model: RegisteredModel, labeler: User) -> None:
        """Also when enough pairs wait, and while a round trains."""
        JudgingPolicy.objects.filter(model=model).update(queue_target=1)
        for _ in range(12):
            factories.QueueEntryFactory.create(pair__prompt__model=model)
        prompt = write(model, labeler, texts(held_out=False))

        with jobs.alone(jobs.TRAINER):
            engine = top_up(model)

        assert [[dict(one) for one in messages] for _, messages, _ in engine.asked] == [
            prompt.messages
        ]
        pair = Pair.objects.get(prompt=prompt)
        assert (pair.arm, pair.purpose, pair.drawn_with) == ("attack", "train", None)
        assert pair.queue_entry.reserved_for == labeler

    def test_makes_an_eval_pair_of_a_held_out_one(
        self, model: RegisteredModel, labeler: User
    ) -> None:
        prompt = write(model, labeler, texts(held_out=True))

        top_up(model)

        pair = Pair.objects.get(prompt=prompt)
        assert (pair.arm, pair.purpose) == ("attack", "eval")
        assert pair.queue_entry.reserved_for == labeler

    def test_tries_three_times_to_get_a_pair(self, model: RegisteredModel, labeler: User) -> None:
        prompt = write(model, labeler)

        top_up(model, *[["", "", "", ""]] * 30)

        prompt.refresh_from_db()
        assert prompt.asked >= 3
        assert weak.attacks_waiting(model=model, author=labeler, now=timezone.now()) == 0

    def test_measures_how_long_it_takes(self, model: RegisteredModel, labeler: User) -> None:
        assert weak.attack_seconds(model) == weak.ATTACK_S
        prompt = write(model, labeler)
        pair = factories.PairFactory.create(prompt=prompt)
        Pair.objects.filter(pk=pair.pk).update(created_at=prompt.created_at + timedelta(seconds=42))

        assert weak.attack_seconds(model) == 42


class TestReservation:
    def test_is_for_the_author_alone_and_comes_first(
        self, model: RegisteredModel, labeler: User
    ) -> None:
        other = factories.MembershipFactory.create(model=model).user
        plain = factories.QueueEntryFactory.create(pair__prompt__model=model, priority=99).pair
        second = factories.QueueEntryFactory.create(pair__prompt__model=model, priority=98).pair
        prompt = write(model, labeler)
        top_up(model)

        assert assign(model, labeler).prompt == prompt
        assert assign(model, other) == plain
        assert assign(model, factories.MembershipFactory.create(model=model).user) == second

    def test_ends_after_an_hour(self, model: RegisteredModel, labeler: User) -> None:
        JudgingPolicy.objects.filter(model=model).update(queue_target=1)
        write(model, labeler)
        top_up(model)
        entry = QueueEntry.objects.get(reserved_for=labeler)
        others = Pair.objects.exclude(pk=entry.pk)
        QueueEntry.objects.filter(pair__in=others).delete()

        tasks.leases_release()
        assert QueueEntry.objects.get(pk=entry.pk).reserved_for == labeler

        Pair.objects.filter(pk=entry.pk).update(created_at=timezone.now() - timedelta(hours=1))
        tasks.leases_release()
        assert QueueEntry.objects.get(pk=entry.pk).reserved_for is None
        other = factories.MembershipFactory.create(model=model).user
        assert assign(model, other).pk == entry.pk

    def test_ends_when_the_author_has_judged(self, model: RegisteredModel, labeler: User) -> None:
        """Somebody else gives the further opinion that the policy wants."""
        JudgingPolicy.objects.filter(model=model).update(overlap=2)
        write(model, labeler)
        top_up(model)
        lease = judging.pair_assign(model_id=model.pk, labeler=labeler, now=timezone.now())
        judging.judgement_record(assignment=lease, verdict="left_much", now=timezone.now())
        assert weak.attacks_waiting(model=model, author=labeler, now=timezone.now()) == 0

        tasks.leases_release()

        assert QueueEntry.objects.get(pk=lease.pair_id).reserved_for is None


class TestPage:
    def test_takes_a_prompt_and_goes_on_judging(
        self, caller: Client, model: RegisteredModel, labeler: User
    ) -> None:
        response = caller.post(
            f"/models/{model.slug}/judge/prompts/", {"prompt": "Why?"}, follow=True
        )

        assert response.redirect_chain == [(f"/models/{model.slug}/judge/", 302)]
        assert "You get its two answers next, in about half a minute." in response.text
        assert Prompt.objects.get().author == labeler

    def test_answers_htmx_with_the_fold(self, caller: Client, model: RegisteredModel) -> None:
        response = caller.post(
            f"/models/{model.slug}/judge/prompts/",
            {"prompt": "Why?"},
            headers={"HX-Request": "true"},
        )

        assert response.text.lstrip().startswith("<details")
        assert "You get its two answers next" in response.text
        assert ">Why?</textarea>" not in response.text

    def test_tells_what_became_of_ones_own(
        self, caller: Client, model: RegisteredModel, labeler: User
    ) -> None:
        def states() -> list[str]:
            page = caller.get(f"/models/{model.slug}/judge/prompts/").text
            return re.findall(r'<span class="hint">(.+?)</span>', page)

        assert states() == []
        prompt = write(model, labeler, "<b>Why?</b>")
        write(model, factories.MembershipFactory.create(model=model).user, "Not yours.")
        assert states() == ["being answered"]
        Prompt.objects.filter(pk=prompt.pk).update(asked=3)
        assert states() == ["no two answers to compare yet; its turn comes again"]
        Prompt.objects.filter(pk=prompt.pk).update(asked=0)
        top_up(model)
        assert states() == ["waits for you"]
        lease = judging.pair_assign(model_id=model.pk, labeler=labeler, now=timezone.now())
        judging.judgement_record(assignment=lease, verdict="tie", now=timezone.now())
        assert states() == ["judged"]
        assert "<b>Why?</b>" not in caller.get(f"/models/{model.slug}/judge/prompts/").text

    @pytest.mark.parametrize("headers", [{}, {"HX-Request": "true"}])
    def test_says_in_a_sentence_what_is_wrong_and_keeps_the_text(
        self, caller: Client, model: RegisteredModel, headers: dict[str, str]
    ) -> None:
        address = f"/models/{model.slug}/judge/prompts/"
        text = "</textarea><script>alert(1)</script>"
        assert caller.post(address, {"prompt": " "}, headers=headers).status_code == 422
        caller.post(address, {"prompt": text})

        response = caller.post(address, {"prompt": text}, headers=headers)

        assert response.status_code == 422
        assert "is here already" in response.text
        assert "&lt;/textarea&gt;&lt;script&gt;" in response.text
        assert "<script>alert" not in response.text

    def test_is_nothing_for_others(self, model: RegisteredModel) -> None:
        client = Client()
        client.force_login(factories.UserFactory.create())

        address = f"/models/{model.slug}/judge/prompts/"
        assert client.post(address, {"prompt": "Why?"}).status_code == 404
        assert not Prompt.objects.exists()

    def test_shows_the_author_to_staff(
        self, admin_client: Client, model: RegisteredModel, labeler: User
    ) -> None:
        write(model, labeler)
        factories.PromptFactory.create(model=model)

        page = admin_client.get(f"/models/{model.slug}/prompts/?tag=attack").text

        assert f"written by {labeler.username}" in page
        assert len(queries.prompts_matching(model, queries.PromptFilter(tag="attack"))) == 1


class TestAPI:
    def post(self, client: Client, model: RegisteredModel, **body: object):
        address = f"/api/v1/models/{model.slug}/attacks/"
        return client.post(address, body, content_type="application/json")

    def test_takes_a_prompt(self, caller: Client, model: RegisteredModel, labeler: User) -> None:
        response = self.post(caller, model, prompt="Why?")

        assert response.status_code == 201
        assert response.json() == {"prompt": "Why?", "seconds": weak.ATTACK_S}
        assert Prompt.objects.get().author == labeler

    def test_refuses_in_a_sentence(self, caller: Client, model: RegisteredModel) -> None:
        self.post(caller, model, prompt="Why?")

        again = self.post(caller, model, prompt="Why?")
        assert (again.status_code, again.json()["code"]) == (409, "prompt_known")
        assert self.post(caller, model, prompt="").status_code == 400
        assert self.post(caller, model).status_code == 400
        assert self.post(caller, model, prompt="é" * 20_000).status_code == 409

    def test_is_nothing_for_others(self, model: RegisteredModel) -> None:
        client = Client()
        assert self.post(client, model, prompt="Why?").status_code == 401
        client.force_login(factories.UserFactory.create())
        assert self.post(client, model, prompt="Why?").status_code == 404


@pytest.mark.django_db(transaction=True)
def test_two_tabs_do_not_pass_the_limit() -> None:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    model = factories.RegisteredModelFactory.create()
    labeler = factories.MembershipFactory.create(model=model).user

    def attempt(number: int) -> bool:
        try:
            write(model, labeler, f"Why {number}?")
        except weak.TooManyAttacks:
            return False
        else:
            return True
        finally:
            connection.close()

    with ThreadPoolExecutor(max_workers=6) as pool:
        written = list(pool.map(attempt, range(6)))

    assert sum(written) == Prompt.objects.count() == 3
