"""Rows for tests that keep every rule of the database; override only what the test is about."""

from __future__ import annotations

import hashlib
import json
import uuid
from datetime import timedelta
from typing import Any

import factory
from django.contrib.auth.models import User
from django.utils import timezone
from factory.django import DjangoModelFactory, Password

from annotate.models import (
    DECIDED,
    Assignment,
    ComparisonDrop,
    Completion,
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
    Split,
    Verdict,
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
from training.models import (
    AnswerScore,
    Reference,
    Round,
    RoundAttempt,
    RoundMetric,
    RoundPolicy,
    Snapshot,
    SnapshotItem,
)

#: Of every user that UserFactory makes.
PASSWORD = "correct horse battery"


def sha256(text: str) -> str:
    """Return the hex SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


class UserFactory(DjangoModelFactory):
    """A labeler; `UserFactory(is_staff=True)` is an admin."""

    class Meta:
        model = User

    username = factory.Sequence(lambda n: f"labeler-{n}")
    password = Password(PASSWORD)


class JudgingPolicyFactory(DjangoModelFactory):
    """How pairs of a model are judged, once each; every registered model gets one."""

    class Meta:
        model = JudgingPolicy

    guidelines = "Prefer the answer that helps more."
    second_if_slight = False
    second_of_new = 0
    audit_share = 0.0
    # Silent checks come by chance; tests of them ask for them.
    gold_share = 0.0
    repeat_share = 0.0


class GuidelinesFactory(DjangoModelFactory):
    """The first version of what a model's labelers are told."""

    class Meta:
        model = Guidelines

    model = factory.SubFactory("tests.factories.RegisteredModelFactory")
    version = 1
    text = "Prefer the answer that helps more."


class ModelVersionFactory(DjangoModelFactory):
    """The verified v0 of a model; with `adapter=True` a v1 on top of it. Asked twice, it is the same one."""

    class Meta:
        model = ModelVersion
        django_get_or_create = ("model", "number")

    class Params:
        adapter = factory.Trait(
            number=1,
            kind=ModelVersion.Kind.ADAPTER,
            parent=factory.SubFactory(
                "tests.factories.ModelVersionFactory", model=factory.SelfAttribute("..model")
            ),
        )

    model = factory.SubFactory("tests.factories.RegisteredModelFactory")
    number = 0
    kind = ModelVersion.Kind.BASE
    artifact_path = factory.LazyAttribute(lambda version: f"versions/{version.number}")
    sha256 = factory.LazyAttribute(lambda version: sha256(f"{version.model.slug}/{version.number}"))
    size_bytes = 1_000_000
    state = ModelVersion.State.VERIFIED


class AliasFactory(DjangoModelFactory):
    """An alias of the model's v0."""

    class Meta:
        model = Alias

    name = Alias.SAMPLER
    version = factory.SubFactory(ModelVersionFactory, model=factory.SelfAttribute("..model"))


class RegisteredModelFactory(DjangoModelFactory):
    """A model that is ready: base in the store, v0 as sampler and champion, a judging policy."""

    class Meta:
        model = RegisteredModel
        skip_postgeneration_save = True

    slug = factory.Sequence(lambda n: f"model-{n}")
    name = factory.LazyAttribute(lambda model: model.slug.capitalize())
    state = RegisteredModel.State.READY
    base_source = "demo"
    base_sha256 = sha256("base")
    tokenizer_sha256 = sha256("tokenizer")
    chat_template_sha256 = sha256("chat template")

    judging_policy = factory.RelatedFactory(JudgingPolicyFactory, "model")
    sampler = factory.RelatedFactory(AliasFactory, "model", name=Alias.SAMPLER)
    champion = factory.RelatedFactory(AliasFactory, "model", name=Alias.CHAMPION)


class MembershipFactory(DjangoModelFactory):
    """A labeler who may judge a model."""

    class Meta:
        model = Membership

    model = factory.SubFactory(RegisteredModelFactory)
    user = factory.SubFactory(UserFactory)


class PersonChangeFactory(DjangoModelFactory):
    """Somebody was added on the command line."""

    class Meta:
        model = PersonChange

    person = factory.SubFactory(UserFactory)
    kind = PersonChange.Kind.ADDED
    made_at = factory.LazyFunction(timezone.now)


class AliasMoveFactory(DjangoModelFactory):
    """The move that first pointed an alias at the model's v0."""

    class Meta:
        model = AliasMove

    model = factory.SubFactory(RegisteredModelFactory)
    name = Alias.SAMPLER
    to_version = factory.SubFactory(ModelVersionFactory, model=factory.SelfAttribute("..model"))
    reason = "The base."
    moved_at = factory.LazyFunction(timezone.now)


class ServingFactory(DjangoModelFactory):
    """A version that an engine serves."""

    class Meta:
        model = Serving

    version = factory.SubFactory(ModelVersionFactory)
    engine = "unix:///run/engine.sock"


class ComparisonFactory(DjangoModelFactory):
    """The model's v1 against its v0."""

    class Meta:
        model = Comparison

    model = factory.SubFactory(RegisteredModelFactory)
    candidate = factory.SubFactory(
        ModelVersionFactory, model=factory.SelfAttribute("..model"), adapter=True
    )
    incumbent = factory.SubFactory(ModelVersionFactory, model=factory.SelfAttribute("..model"))
    budget = 100


class OutcomeFactory(DjangoModelFactory):
    """A judgement that the candidate won."""

    class Meta:
        model = Outcome

    comparison = factory.SubFactory(ComparisonFactory)
    kind = Outcome.Kind.WIN
    winner = factory.SelfAttribute("comparison.candidate")
    prompt_key = sha256("prompt")
    labeler = factory.SubFactory(UserFactory)
    source = factory.LazyFunction(uuid.uuid4)
    recorded_at = factory.LazyFunction(timezone.now)


class PlayFactory(DjangoModelFactory):
    """A question to the model's v1, on the left, and v0; `answered=True` has both answers."""

    class Meta:
        model = Play

    class Params:
        answered = factory.Trait(
            state=Play.State.ANSWERED,
            left_text="A calm answer.",
            right_text="An old answer.",
            left_tokens=31,
            right_tokens=47,
            left_finish_reason="stop",
            right_finish_reason="length",
            left_seconds=2.5,
            right_seconds=3.5,
            answered_at=factory.LazyFunction(timezone.now),
        )

    model = factory.SubFactory(RegisteredModelFactory)
    asked_by = factory.SubFactory(UserFactory, is_staff=True)
    messages = factory.Sequence(lambda n: [{"role": "user", "content": f"Who is number {n}?"}])
    left_version = factory.SubFactory(
        ModelVersionFactory, model=factory.SelfAttribute("..model"), adapter=True
    )
    right_version = factory.SubFactory(ModelVersionFactory, model=factory.SelfAttribute("..model"))
    sampling = factory.LazyFunction(lambda: {"temperature": 1.0, "top_p": 0.95, "max_tokens": 128})


class PromptFactory(DjangoModelFactory):
    """A prompt on the train side; `split=Split.HOLDOUT` is on the other."""

    class Meta:
        model = Prompt

    model = factory.SubFactory(RegisteredModelFactory)
    messages = factory.Sequence(lambda n: [{"role": "user", "content": f"What is {n} plus one?"}])
    sha256 = factory.LazyAttribute(
        lambda prompt: sha256(json.dumps(prompt.messages, sort_keys=True, ensure_ascii=False))
    )
    split = Split.TRAIN


class CompletionFactory(DjangoModelFactory):
    """What the model's v0 wrote for a prompt."""

    class Meta:
        model = Completion

    prompt = factory.SubFactory(PromptFactory)
    origin = Completion.Origin.ENGINE
    version = factory.SubFactory(ModelVersionFactory, model=factory.SelfAttribute("..prompt.model"))
    text = factory.Sequence(lambda n: f"The answer is {n}.")
    prompt_ids = factory.LazyFunction(lambda: [1, 2, 3])
    completion_ids = factory.LazyFunction(lambda: [4, 5, 2])
    finish_reason = "stop"
    sampling = factory.LazyFunction(lambda: {"temperature": 1.0, "top_p": 0.95, "max_tokens": 128})
    seed = factory.Sequence(int)


class PairFactory(DjangoModelFactory):
    """Two completions of one prompt, in order of their ids; the purpose fits the prompt's split."""

    class Meta:
        model = Pair

    prompt = factory.SubFactory(PromptFactory)
    prompt_split = factory.SelfAttribute("prompt.split")
    first = factory.SubFactory(CompletionFactory, prompt=factory.SelfAttribute("..prompt"))
    second = factory.SubFactory(CompletionFactory, prompt=factory.SelfAttribute("..prompt"))
    purpose = factory.LazyAttribute(
        lambda pair: Pair.Purpose.TRAIN if pair.prompt_split == Split.TRAIN else Pair.Purpose.EVAL
    )

    @classmethod
    def _adjust_kwargs(cls, **kwargs: Any) -> dict[str, Any]:
        ordered = sorted([kwargs["first"], kwargs["second"]], key=lambda completion: completion.pk)
        return kwargs | {"first": ordered[0], "second": ordered[1]}


class ComparisonDropFactory(DjangoModelFactory):
    """A held-out prompt to which both versions answered the same."""

    class Meta:
        model = ComparisonDrop

    comparison = factory.SubFactory(ComparisonFactory)
    prompt = factory.SubFactory(
        PromptFactory, model=factory.SelfAttribute("..comparison.model"), split=Split.HOLDOUT
    )
    reason = ComparisonDrop.Reason.NEAR_IDENTICAL


class QueueEntryFactory(DjangoModelFactory):
    """A pair that waits for one judgement."""

    class Meta:
        model = QueueEntry

    pair = factory.SubFactory(PairFactory)
    model = factory.SelfAttribute("pair.prompt.model")
    wanted = 1


class AssignmentFactory(DjangoModelFactory):
    """An open lease of half an hour; the pair has no queue entry unless the test makes one."""

    class Meta:
        model = Assignment

    pair = factory.SubFactory(PairFactory)
    labeler = factory.SubFactory(UserFactory)
    first_is_left = True
    assigned_at = factory.LazyFunction(timezone.now)
    expires_at = factory.LazyAttribute(lambda lease: lease.assigned_at + timedelta(minutes=30))


class JudgementFactory(DjangoModelFactory):
    """A first judgement: slightly left, unless said otherwise."""

    class Meta:
        model = Judgement

    assignment = factory.SubFactory(AssignmentFactory)
    verdict = Verdict.LEFT
    guidelines_version = 1
    judged_at = factory.LazyFunction(timezone.now)

    @factory.lazy_attribute
    def winner(self) -> Completion | None:
        """Return the completion that the verdict names."""
        if self.verdict not in DECIDED:
            return None
        is_left = self.verdict in (Verdict.LEFT, Verdict.LEFT_MUCH)
        return self.assignment.left if is_left else self.assignment.right


class GoldFactory(DjangoModelFactory):
    """A gold pair of a judged one, of which the first answer is expected."""

    class Meta:
        model = Gold

    model = factory.SubFactory(RegisteredModelFactory)
    original = factory.SubFactory(PairFactory, prompt__model=factory.SelfAttribute("...model"))
    pair = factory.LazyAttribute(
        lambda gold: PairFactory(
            prompt=gold.original.prompt,
            first=gold.original.first,
            second=gold.original.second,
            purpose=Pair.Purpose.GOLD,
        )
    )
    expected = factory.SelfAttribute("original.first")
    made_by = factory.SubFactory(UserFactory, is_staff=True)
    made_at = factory.LazyFunction(timezone.now)


class RepeatFactory(DjangoModelFactory):
    """A labeler's judged pair again, with its sides swapped; not judged again yet."""

    class Meta:
        model = Repeat

    original = factory.SubFactory(AssignmentFactory)
    model = factory.SelfAttribute("original.pair.prompt.model")
    assignment = factory.LazyAttribute(
        lambda repeat: AssignmentFactory(
            pair=PairFactory(
                prompt=repeat.original.pair.prompt,
                first=repeat.original.pair.first,
                second=repeat.original.pair.second,
                purpose=Pair.Purpose.REPEAT,
            ),
            labeler=repeat.original.labeler,
            first_is_left=not repeat.original.first_is_left,
            is_on_top=True,
        )
    )
    made_at = factory.LazyFunction(timezone.now)


class FlagFactory(DjangoModelFactory):
    """A flag that waits for staff."""

    class Meta:
        model = Flag

    assignment = factory.SubFactory(AssignmentFactory)
    model = factory.SelfAttribute("assignment.pair.prompt.model")
    note = "Something is wrong here."
    raised_at = factory.LazyFunction(timezone.now)


class RoundPolicyFactory(DjangoModelFactory):
    """When and how rounds of a model run."""

    class Meta:
        model = RoundPolicy

    model = factory.SubFactory(RegisteredModelFactory)


class SnapshotFactory(DjangoModelFactory):
    """A snapshot that holds nothing yet."""

    class Meta:
        model = Snapshot

    model = factory.SubFactory(RegisteredModelFactory)
    sha256 = factory.Sequence(lambda n: sha256(f"snapshot {n}"))
    count = 1
    path = factory.LazyAttribute(lambda snapshot: f"snapshots/{snapshot.sha256}")


class SnapshotItemFactory(DjangoModelFactory):
    """A pair's triple, its first completion the better one, that no round has trained on."""

    class Meta:
        model = SnapshotItem

    pair = factory.SubFactory(PairFactory)
    snapshot = factory.SubFactory(
        SnapshotFactory, model=factory.SelfAttribute("..pair.prompt.model")
    )
    prompt = factory.SelfAttribute("pair.prompt")
    chosen = factory.SelfAttribute("pair.first")
    rejected = factory.SelfAttribute("pair.second")
    target = 0.85
    role = SnapshotItem.Role.NEW
    sha256 = factory.LazyAttribute(lambda item: sha256(f"pair {item.pair.pk}"))


class RoundFactory(DjangoModelFactory):
    """A queued round from the model's v0."""

    class Meta:
        model = Round

    model = factory.SubFactory(RegisteredModelFactory)
    number = 1
    parent = factory.SubFactory(ModelVersionFactory, model=factory.SelfAttribute("..model"))
    snapshot = factory.SubFactory(SnapshotFactory, model=factory.SelfAttribute("..model"))
    reference = Reference.BASE


class RoundAttemptFactory(DjangoModelFactory):
    """An attempt under way, leased for a minute."""

    class Meta:
        model = RoundAttempt

    round = factory.SubFactory(RoundFactory)
    number = 1
    lease_until = factory.LazyFunction(lambda: timezone.now() + timedelta(minutes=1))


class RoundMetricFactory(DjangoModelFactory):
    """The loss at the first step."""

    class Meta:
        model = RoundMetric

    round = factory.SubFactory(RoundFactory)
    step = 1
    name = "loss"
    value = 0.69


class AnswerScoreFactory(DjangoModelFactory):
    """An answer that a version finds likelier than its base does."""

    class Meta:
        model = AnswerScore

    completion = factory.SubFactory(CompletionFactory)
    version = factory.SelfAttribute("completion.version")
    log_ratio = 1.0
    tokens = 3


class ImportFactory(DjangoModelFactory):
    """A finished import of a file that held nothing."""

    class Meta:
        model = Import

    model = factory.SubFactory(RegisteredModelFactory)
    filename = "preferences.jsonl"
    format = Import.Format.JSONL
    sha256 = factory.Sequence(lambda n: sha256(f"import {n}"))
    state = Import.State.DONE
    total = 0


class ImportedPreferenceFactory(DjangoModelFactory):
    """A pair that came with a file, which prefers the first completion."""

    class Meta:
        model = ImportedPreference

    class Params:
        completion = factory.LazyFunction(
            lambda: {
                "origin": Completion.Origin.IMPORT,
                "version": None,
                "prompt_ids": None,
                "completion_ids": None,
                "finish_reason": "",
            }
        )

    pair = factory.LazyAttribute(
        lambda one: PairFactory(
            prompt__model=one.model,
            arm=Pair.IMPORTED,
            **{
                f"{side}__{key}": value
                for side in ("first", "second")
                for key, value in one.completion.items()
            },
        )
    )
    model = factory.SubFactory(RegisteredModelFactory)
    source = factory.SubFactory(ImportFactory, model=factory.SelfAttribute("..model"))
    line = 1
    preferred = factory.SelfAttribute("pair.first")
    target = 0.98
    sha256 = factory.Sequence(lambda n: sha256(f"preference {n}"))
