from __future__ import annotations

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from annotate import tasks
from annotate.models import (
    Assignment,
    Completion,
    Drop,
    Flag,
    Gold,
    Guidelines,
    Import,
    ImportedPreference,
    Judgement,
    JudgingPolicy,
    Pair,
    Prompt,
    QueueEntry,
    Repeat,
    SamplingState,
    WeakSpot,
)
from models_registry.models import (
    Alias,
    AliasMove,
    Comparison,
    Membership,
    ModelVersion,
    Outcome,
    PersonChange,
    Play,
    RegisteredModel,
    Serving,
)
from pairloop.lib.admin import ReadOnlyAdmin
from tests import factories
from training.models import (
    AnswerScore,
    Round,
    RoundAttempt,
    RoundMetric,
    RoundPolicy,
    Snapshot,
    SnapshotItem,
)

pytestmark = pytest.mark.django_db

OURS = {"annotate", "models_registry", "training"}
#: What the admin shows, procrastinate's and Django's own tables among it.
SHOWN = sorted(admin.site._registry, key=lambda model: model._meta.label)
READ_ONLY = [model for model in SHOWN if isinstance(admin.site._registry[model], ReadOnlyAdmin)]


def address(model: type[Model], action: str, *arguments: object) -> str:
    """Return where the admin lists, adds, changes or deletes rows."""
    options = model._meta
    return reverse(f"admin:{options.app_label}_{options.model_name}_{action}", args=arguments)


def first_of(model: type[Model]) -> Model:
    row = model._default_manager.order_by("pk").first()
    assert row is not None, f"no row of {model._meta.label}"
    return row


def pages_of(models: list[type[Model]]) -> list[str]:
    """Return the list and the first row's page of each."""
    return [
        path
        for model in models
        for path in (
            address(model, "changelist"),
            address(model, "change", first_of(model).pk),
        )
    ]


def statuses(client: Client, paths: list[str]) -> dict[str, int]:
    return {path: client.get(path).status_code for path in paths}


#: What makes another row, in a model of its own where rows show their model's name.
MAKERS = {
    RegisteredModel: factories.RegisteredModelFactory.create,
    Membership: factories.MembershipFactory.create,
    ModelVersion: factories.ModelVersionFactory.create,
    Alias: factories.RegisteredModelFactory.create,
    AliasMove: factories.AliasMoveFactory.create,
    PersonChange: factories.PersonChangeFactory.create,
    User: factories.UserFactory.create,
    Serving: factories.ServingFactory.create,
    Comparison: factories.ComparisonFactory.create,
    Outcome: factories.OutcomeFactory.create,
    Play: factories.PlayFactory.create,
    JudgingPolicy: factories.RegisteredModelFactory.create,
    Guidelines: factories.GuidelinesFactory.create,
    Prompt: factories.PromptFactory.create,
    Completion: factories.CompletionFactory.create,
    Pair: factories.PairFactory.create,
    Import: factories.ImportFactory.create,
    ImportedPreference: factories.ImportedPreferenceFactory.create,
    QueueEntry: factories.QueueEntryFactory.create,
    Assignment: factories.AssignmentFactory.create,
    Judgement: factories.JudgementFactory.create,
    Gold: factories.GoldFactory.create,
    Repeat: factories.RepeatFactory.create,
    Flag: factories.FlagFactory.create,
    RoundPolicy: factories.RoundPolicyFactory.create,
    Snapshot: factories.SnapshotFactory.create,
    SnapshotItem: factories.SnapshotItemFactory.create,
    Round: factories.RoundFactory.create,
    RoundAttempt: factories.RoundAttemptFactory.create,
    RoundMetric: factories.RoundMetricFactory.create,
    AnswerScore: factories.AnswerScoreFactory.create,
}


@pytest.fixture
def superuser(client: Client) -> Client:
    client.force_login(factories.UserFactory.create(is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def _a_row_of_each(no_jobs: None) -> None:
    """Make at least one row of everything that the admin shows."""
    judgement = factories.JudgementFactory.create()
    pair = judgement.assignment.pair
    model = pair.prompt.model
    factories.MembershipFactory.create(model=model, user=judgement.assignment.labeler)
    factories.QueueEntryFactory.create(pair=pair)
    factories.GuidelinesFactory.create(model=model)
    factories.GoldFactory.create(model=model)
    factories.RepeatFactory.create(original=judgement.assignment)
    factories.FlagFactory.create(assignment=judgement.assignment)
    SamplingState.objects.create(model=model)
    WeakSpot.objects.create(
        model=model, prompt=pair.prompt, weakness=0.5, judged=4, both_bad=3, version_number=0
    )
    Drop.objects.create(version=pair.first.version, reason=Drop.Reason.EMPTY)
    factories.AliasMoveFactory.create(model=model)
    factories.ServingFactory.create(version=pair.first.version)
    outcome = factories.OutcomeFactory.create(comparison__model=model)
    factories.ComparisonDropFactory.create(comparison=outcome.comparison)
    factories.PlayFactory.create(model=model)
    factories.RoundPolicyFactory.create(model=model)
    item = factories.SnapshotItemFactory.create(pair=pair)
    first = factories.RoundFactory.create(model=model, snapshot=item.snapshot)
    factories.RoundAttemptFactory.create(round=first)
    factories.RoundMetricFactory.create(round=first)
    factories.AnswerScoreFactory.create(completion=pair.first)
    factories.PersonChangeFactory.create()
    factories.ImportedPreferenceFactory.create()
    tasks.leases_release.defer()


@pytest.mark.usefixtures("_a_row_of_each")
class TestPages:
    def test_open_for_a_superuser(self, superuser: Client) -> None:
        paths = pages_of(SHOWN)

        assert statuses(superuser, paths) == dict.fromkeys(paths, 200)

    def test_send_a_labeler_to_the_login(self, client: Client) -> None:
        client.force_login(factories.UserFactory.create())

        answers = {path: client.get(path) for path in pages_of(SHOWN)}

        assert {
            path
            for path, answer in answers.items()
            if not answer.get("Location", "").startswith(reverse("admin:login"))
        } == set()

    def test_open_for_staff_but_for_what_is_not_ours(self, client: Client) -> None:
        # In Pairloop an admin is who is staff; only the queue's tables are the superuser's.
        client.force_login(factories.UserFactory.create(is_staff=True))
        ours = [model for model in SHOWN if model._meta.app_label in OURS or model is User]
        others = [model for model in SHOWN if model not in ours]

        assert set(statuses(client, pages_of(ours)).values()) == {200}
        assert set(statuses(client, pages_of(others)).values()) == {403}

    def test_cost_no_query_per_row(self, superuser: Client) -> None:
        for make in [*MAKERS.values()] * 3:
            make()
        costs = {}

        for model in MAKERS:
            with CaptureQueriesContext(connection) as queries:
                superuser.get(address(model, "changelist"))
            costs[model._meta.label] = (model._default_manager.count(), len(queries))

        assert all(rows >= 4 for rows, _ in costs.values())
        # Session, user, the choices of filters, counts and rows.
        assert {label: cost for label, cost in costs.items() if cost[1] > 7} == {}


@pytest.mark.usefixtures("_a_row_of_each")
class TestReadOnlyPages:
    def test_are_all_of_ours_and_people(self) -> None:
        ours = {model for model in SHOWN if model._meta.app_label in OURS}

        assert ours | {User} == set(READ_ONLY)

    def test_offer_nothing_that_writes(self, superuser: Client) -> None:
        for model in READ_ONLY:
            row = first_of(model)

            listed = superuser.get(address(model, "changelist")).text
            shown = superuser.get(address(model, "change", row.pk)).text

            assert address(model, "add") not in listed
            assert "delete_selected" not in listed
            assert address(model, "delete", row.pk) not in shown
            assert 'name="_save"' not in shown

    def test_refuse_to_write_when_asked_all_the_same(self, superuser: Client) -> None:
        before = {
            model: list(model._default_manager.order_by("pk").values()) for model in READ_ONLY
        }
        attempts = [
            attempt
            for model in READ_ONLY
            for pk in [first_of(model).pk]
            for attempt in (
                (address(model, "add"), {}),
                (address(model, "change", pk), {"_save": "Save"}),
                (address(model, "delete", pk), {"post": "yes"}),
            )
        ]

        answers = {path: superuser.post(path, data).status_code for path, data in attempts}

        assert answers == dict.fromkeys(answers, 403)
        for model, rows in before.items():
            assert list(model._default_manager.order_by("pk").values()) == rows
