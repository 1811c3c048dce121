"""One model with something of everything, and the two kinds of people who look at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from annotate.models import Assignment
from models_registry.models import RegisteredModel
from tests import factories
from tests.security.world import World, build
from training.models import Round

#: What an evaluation says about one version's answers.
NUMBERS = {"answers": 8, "tokens_mean": 9.0, "eos_rate": 1.0, "distinct2": 0.5}


@pytest.fixture
def model(db: None) -> RegisteredModel:
    """A model with a pair to judge, two versions and a round that made the second."""
    return stocked(lambda _what: "Plain words.")


def stocked(text: Callable[[str], str]) -> RegisteredModel:
    """Make the model `demo` whose every text, asked by what it is, somebody else wrote."""
    model = factories.RegisteredModelFactory.create(slug="demo", name=text("name")[:100])
    model.judging_policy.guidelines = text("guidelines")
    model.judging_policy.save()
    base = model.versions.get()
    version = factories.ModelVersionFactory.create(
        model=model, number=1, kind="adapter", parent=base, card=text("card")
    )
    prompt = factories.PromptFactory.create(
        model=model,
        messages=[
            {"role": "system", "content": text("system")},
            {"role": "user", "content": text("earlier")},
            {"role": "assistant", "content": text("answer")},
            {"role": "user", "content": text("prompt")},
        ],
        tags=[text("tag")[:50]],
    )
    sides = [
        factories.CompletionFactory.create(prompt=prompt, version=origin, text=text("completion"))
        for origin in (base, version)
    ]
    pair = factories.PairFactory.create(prompt=prompt, first=sides[0], second=sides[1])
    factories.QueueEntryFactory.create(pair=pair)
    factories.JudgementFactory.create(
        assignment__pair__prompt__model=model,
        assignment__labeler__username=text("user")[:150],
        note=text("note"),
    )
    round_ = factories.RoundFactory.create(
        model=model,
        parent=base,
        state=Round.State.SUCCEEDED,
        version=version,
        ended_at=timezone.now(),
        failure=text("failure"),
        evaluation={
            "prompts": 2, "changed": 1, "shorter": 1, "longer": 0,
            "examples": [{"before": sides[0].pk, "after": sides[1].pk}],
            "kl_base": {"k1": 1.5, "k3": 1.4, "answers": 2},
            "version": NUMBERS, "parent": NUMBERS, "base": NUMBERS, "guardrails": [],
        },
    )  # fmt: skip
    factories.RoundMetricFactory.create(round=round_)
    held_out = factories.PromptFactory.create(
        model=model, split="holdout", messages=[{"role": "user", "content": text("held out")}]
    )
    rated = [
        factories.CompletionFactory.create(prompt=held_out, version=base, text=text("rated"))
        for _ in range(2)
    ]
    factories.JudgementFactory.create(
        assignment__pair=factories.PairFactory.create(
            prompt=held_out, first=rated[0], second=rated[1], purpose="eval"
        ),
        winner=rated[0],
    )
    for completion in rated:
        factories.AnswerScoreFactory.create(completion=completion, version=version)
    factories.AliasMoveFactory.create(model=model, to_version=version, reason=text("reason"))
    return model


@pytest.fixture
def admin_client(db: None) -> Client:
    """Somebody who may see everything."""
    client = Client(raise_request_exception=False)
    client.force_login(factories.UserFactory.create(is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def labeler_client(model: RegisteredModel) -> Client:
    """A member of the model."""
    client = Client(raise_request_exception=False)
    client.force_login(factories.MembershipFactory.create(model=model).user)
    return client


@pytest.fixture
def lease(model: RegisteredModel, labeler_client: Client) -> Assignment:
    """The pair that the labeler has on the screen."""
    labeler_client.get(f"/models/{model.slug}/judge/")
    return Assignment.objects.latest("assigned_at")


@pytest.fixture(scope="module")
def world_built(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[World]:
    """The world of a module's tests, in a transaction around theirs: making it takes longer than most of them."""
    around = transaction.atomic()
    with django_db_blocker.unblock():
        around.__enter__()
        world = build()
    yield world
    with django_db_blocker.unblock():
        transaction.set_rollback(True)
        around.__exit__(None, None, None)


@pytest.fixture
def world(world_built: World, db: None) -> World:
    """Two models, and everybody who might ask for what belongs to one of them."""
    # What a test does to its objects must not reach the next one; what it does to the rows is rolled back.
    return deepcopy(world_built)
