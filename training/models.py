"""Snapshots of triples, and the rounds that train on them."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q

from annotate.models import Completion, Pair, Prompt, Split
from models_registry.models import SHA256, ModelVersion, RegisteredModel
from training import guardrails, presets


class Reference(models.TextChoices):
    """Which policy holds the new one in place."""

    BASE = "base"
    PARENT = "parent"


class RoundPolicy(models.Model):
    """When and how rounds of one model run."""

    model = models.OneToOneField(RegisteredModel, models.CASCADE, related_name="round_policy")
    #: Which loss; see training.presets.
    preset = models.CharField(max_length=20, choices=presets.CHOICES, default="paper")
    #: New triples that start a round by themselves; 0 never.
    trigger_triples = models.PositiveIntegerField(default=0)
    #: Most new triples that one round takes, the oldest first; 0: all that wait.
    most_new = models.PositiveIntegerField(default=0)
    reference = models.CharField(max_length=8, choices=Reference, default=Reference.BASE)
    #: Share of a snapshot that may come from triples of earlier rounds.
    replay_share = models.FloatField(default=0.5)
    #: None: the preset's own.
    beta = models.FloatField(null=True, blank=True, default=None)
    learning_rate = models.FloatField(default=2e-4)
    epochs = models.PositiveSmallIntegerField(default=3)
    #: Pairs of one optimizer step.
    batch_pairs = models.PositiveSmallIntegerField(default=8)
    #: Whether ties take part in the loss as ties (Davidson's model) rather than as half a win each.
    ties = models.BooleanField(default=True)
    #: "latest": the newest verified version samples; "champion": only what people proved better.
    sampler = models.CharField(
        max_length=10, default="latest", choices=[("latest",) * 2, ("champion",) * 2]
    )
    #: Bounds of the automatic guardrails that differ from `training.guardrails.BOUNDS`.
    gate = models.JSONField(default=dict, blank=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        """Database rules."""

        verbose_name_plural = "round policies"
        constraints = [
            models.CheckConstraint(
                condition=Q(replay_share__gte=0, replay_share__lt=1),
                name="round_policy_replay_bounds",
                violation_error_message="The share of replayed triples is at least 0 and below 1.",
            ),
            models.CheckConstraint(
                # The upper bounds keep infinity and NaN out, which PostgreSQL takes for very large.
                condition=(Q(beta__isnull=True) | Q(beta__gt=0, beta__lte=10))
                & Q(
                    learning_rate__gt=0,
                    learning_rate__lte=1,
                    epochs__gte=1,
                    epochs__lte=20,
                    batch_pairs__gte=1,
                    batch_pairs__lte=512,
                ),
                name="round_policy_positive",
                violation_error_message=(
                    "β is above 0 and at most 10, the learning rate above 0 and at most 1, epochs are 1 to"
                    " 20, pairs of a step 1 to 512."
                ),
            ),
            models.CheckConstraint(
                condition=Q(reference__in=Reference.values), name="round_policy_reference_known"
            ),
            models.CheckConstraint(
                condition=Q(sampler__in=["latest", "champion"]), name="round_policy_sampler_known"
            ),
            models.CheckConstraint(
                condition=Q(preset__in=list(presets.PRESETS)), name="round_policy_preset_known"
            ),
        ]

    def __str__(self) -> str:
        """Return whose policy it is."""
        return f"rounds of {self.model}"

    def clean(self) -> None:
        """Refuse guardrails that nobody would look at, and ties that the loss would not learn."""
        if why := presets.refusal(self.preset, ties=self.ties):
            raise ValidationError({"ties": why})
        try:
            guardrails.bounds_of(self.gate if isinstance(self.gate, dict) else {"gate": self.gate})
        except guardrails.BoundsInvalid as error:
            raise ValidationError({"gate": str(error)}) from error


class Snapshot(models.Model):
    """A frozen, hashed set of triples."""

    model = models.ForeignKey(RegisteredModel, models.PROTECT, related_name="snapshots")
    #: Of snapshot.jsonl.
    sha256 = models.CharField(max_length=64)
    #: Triples, new and replayed.
    count = models.PositiveIntegerField()
    #: Triples of held-out prompts in holdout.jsonl, which only measure.
    holdout_count = models.PositiveIntegerField(default=0)
    #: New triples that were left for the next round.
    left_count = models.PositiveIntegerField(default=0)
    #: Folder below settings.ROUNDS that holds both files.
    path = models.CharField(max_length=500)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Database rules."""

        constraints = [
            models.CheckConstraint(condition=Q(sha256__regex=SHA256), name="snapshot_has_hash"),
        ]

    def __str__(self) -> str:
        """Return its number."""
        return f"snapshot {self.pk}"


class SnapshotItem(models.Model):
    """One triple of a snapshot, by frozen ids.

    A composite foreign key to Prompt (id, split) and the CHECK below keep held-out prompts out.
    """

    class Role(models.TextChoices):
        """Whether an earlier round trained on it already."""

        NEW = "new"
        REPLAY = "replay"

    snapshot = models.ForeignKey(Snapshot, models.PROTECT, related_name="items")
    pair = models.ForeignKey(Pair, models.PROTECT, related_name="snapshot_items")
    prompt = models.ForeignKey(Prompt, models.PROTECT, related_name="+")
    prompt_split = models.CharField(max_length=8, choices=Split, default=Split.TRAIN)
    chosen = models.ForeignKey(Completion, models.PROTECT, related_name="+")
    rejected = models.ForeignKey(Completion, models.PROTECT, related_name="+")
    #: Probability that `chosen` is the better one.
    target = models.FloatField()
    weight = models.FloatField(default=1.0)
    role = models.CharField(max_length=8, choices=Role)
    #: The judgements' ids that it was made from.
    judgement_ids = ArrayField(models.BigIntegerField(), default=list)
    #: Of the item's line in snapshot.jsonl.
    sha256 = models.CharField(max_length=64)
    #: Set when the snapshot's round succeeded.
    is_consumed = models.BooleanField(default=False)

    class Meta:
        """Database rules."""

        constraints = [
            models.CheckConstraint(
                condition=Q(prompt_split="train"), name="snapshot_item_is_train"
            ),
            models.UniqueConstraint(fields=["snapshot", "pair"], name="snapshot_item_once"),
            models.UniqueConstraint(
                fields=["pair"],
                condition=Q(role="new", is_consumed=True),
                name="snapshot_item_new_consumed_once",
            ),
            models.CheckConstraint(
                condition=Q(target__gte=0.5, target__lte=1, weight__gt=0, weight__lte=100),
                name="snapshot_item_target_bounds",
            ),
            models.CheckConstraint(
                condition=Q(role__in=["new", "replay"]), name="snapshot_item_role_known"
            ),
            models.CheckConstraint(
                condition=~Q(chosen=F("rejected")), name="snapshot_item_of_two_completions"
            ),
        ]

    def __str__(self) -> str:
        """Return what it freezes."""
        return f"{self.pair} in {self.snapshot}"

    @property
    def is_tie(self) -> bool:
        """Whether neither completion is the better one."""
        return self.target == 0.5


class Round(models.Model):
    """One DPO run from a parent version over a snapshot.

    State: QUEUED -> RUNNING -> EVALUATING -> SUCCEEDED; QUEUED, RUNNING -> FAILED | CANCELLED;
    EVALUATING -> FAILED when no engine can serve what came out.
    """

    class State(models.TextChoices):
        """How far it is."""

        QUEUED = "queued"
        RUNNING = "running"
        EVALUATING = "evaluating"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"

    #: It may still train, and be cancelled.
    OPEN = (State.QUEUED, State.RUNNING)
    #: Somebody may be waiting for it.
    UNDER_WAY = (*OPEN, State.EVALUATING)

    model = models.ForeignKey(RegisteredModel, models.PROTECT, related_name="rounds")
    number = models.PositiveIntegerField()
    state = models.CharField(max_length=10, choices=State, default=State.QUEUED)
    parent = models.ForeignKey(ModelVersion, models.PROTECT, related_name="rounds_from")
    snapshot = models.OneToOneField(Snapshot, models.PROTECT, related_name="round")
    reference = models.CharField(max_length=8, choices=Reference)
    #: What the trainer is told, but for the folders.
    spec = models.JSONField(default=dict)
    #: Empty when enough triples waited and Pairloop started it by itself.
    started_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, blank=True, related_name="+"
    )
    #: Teacher-forced on the held-out triples, as the trainer wrote it.
    holdout = models.JSONField(default=dict, blank=True)
    #: Of answers sampled from the served version; see training.evaluation.
    evaluation = models.JSONField(default=dict, blank=True)
    version = models.OneToOneField(
        ModelVersion, models.PROTECT, null=True, blank=True, related_name="made_by"
    )
    #: For machines, and one sentence for people.
    failure_code = models.CharField(max_length=50, blank=True)
    failure = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        """Database rules."""

        constraints = [
            models.UniqueConstraint(fields=["model", "number"], name="round_number_once"),
            models.UniqueConstraint(
                fields=["model"],
                condition=Q(state__in=["queued", "running"]),
                name="round_one_open_per_model",
            ),
            models.CheckConstraint(
                condition=~Q(state__in=["evaluating", "succeeded"]) | Q(version__isnull=False),
                name="round_success_has_version",
            ),
            models.CheckConstraint(
                condition=Q(
                    state__in=[
                        "queued",
                        "running",
                        "evaluating",
                        "succeeded",
                        "failed",
                        "cancelled",
                    ]
                ),
                name="round_state_known",
            ),
            models.CheckConstraint(
                condition=Q(reference__in=Reference.values), name="round_reference_known"
            ),
        ]

    def __str__(self) -> str:
        """Return slug and number."""
        return f"{self.model} round {self.number}"

    @property
    def is_open(self) -> bool:
        """Whether it may still train and be cancelled."""
        return self.state in self.OPEN

    @property
    def is_under_way(self) -> bool:
        """Whether somebody may be waiting for it."""
        return self.state in self.UNDER_WAY

    @property
    def is_measured(self) -> bool:
        """Whether its version answered the held-out prompts."""
        return "prompts" in self.evaluation

    @property
    def has_failed(self) -> bool:
        """Whether it ended without success, by itself."""
        return self.state == self.State.FAILED


class RoundAttempt(models.Model):
    """One try at a round. Whoever holds its token, and only while the lease lasts, may publish."""

    class Outcome(models.TextChoices):
        """How it ended."""

        PUBLISHED = "published"
        FAILED = "failed"
        LOST = "lost"
        CANCELLED = "cancelled"

    round = models.ForeignKey(Round, models.PROTECT, related_name="attempts")
    number = models.PositiveSmallIntegerField()
    token = models.UUIDField(default=uuid.uuid4, unique=True)
    lease_until = models.DateTimeField()
    pid = models.PositiveIntegerField(null=True, blank=True)
    worker = models.CharField(max_length=100, blank=True)
    #: What the trainer is at ("reference", "training", …), how far, and the whole attempt's share done.
    stage = models.CharField(max_length=20, blank=True)
    stage_done = models.PositiveIntegerField(default=0)
    stage_of = models.PositiveIntegerField(default=0)
    progress = models.FloatField(default=0)
    #: Seconds until the version is there; None while nobody can know.
    eta_s = models.PositiveIntegerField(null=True, blank=True)
    failure = models.TextField(blank=True)
    outcome = models.CharField(max_length=10, choices=Outcome, blank=True)
    started_at = models.DateTimeField(auto_now_add=True)
    #: When the trainer said something last.
    heard_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        """Database rules."""

        constraints = [
            models.UniqueConstraint(fields=["round", "number"], name="attempt_number_once"),
            models.UniqueConstraint(
                fields=["round"], condition=Q(outcome=""), name="attempt_one_open_per_round"
            ),
            models.CheckConstraint(
                condition=Q(outcome__in=["", "published", "failed", "lost", "cancelled"]),
                name="attempt_outcome_known",
            ),
            models.CheckConstraint(
                condition=Q(progress__gte=0, progress__lte=1), name="attempt_progress_bounds"
            ),
        ]

    def __str__(self) -> str:
        """Return round and number."""
        return f"{self.round} attempt {self.number}"


class RoundMetric(models.Model):
    """One number of a round at an optimizer step."""

    round = models.ForeignKey(Round, models.CASCADE, related_name="metrics")
    step = models.PositiveIntegerField()
    name = models.CharField(max_length=50)
    value = models.FloatField()

    class Meta:
        """Database rules."""

        constraints = [
            models.UniqueConstraint(fields=["round", "step", "name"], name="round_metric_once"),
        ]

    def __str__(self) -> str:
        """Return the number."""
        return f"{self.round} step {self.step}: {self.name}={self.value}"


class AnswerScore(models.Model):
    """How much likelier an answer is to a version than to its base; times β, its implicit reward."""

    version = models.ForeignKey(ModelVersion, models.PROTECT, related_name="answer_scores")
    completion = models.ForeignKey(Completion, models.PROTECT, related_name="+")
    #: log version(answer) - log base(answer) in nats, over all its tokens.
    log_ratio = models.FloatField()
    tokens = models.PositiveIntegerField()

    class Meta:
        """Database rules."""

        constraints = [
            models.UniqueConstraint(fields=["version", "completion"], name="answer_score_once"),
            models.CheckConstraint(
                # The bounds keep infinity and NaN out, which PostgreSQL takes for very large.
                condition=Q(tokens__gte=1, log_ratio__gte=-1e6, log_ratio__lte=1e6),
                name="answer_score_bounds",
            ),
        ]

    def __str__(self) -> str:
        """Return the number."""
        return f"{self.completion} for {self.version}: {self.log_ratio:+.2f} nats"
