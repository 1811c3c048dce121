"""Which models and versions exist, who is a member, what is served, how versions compare."""

from __future__ import annotations

import uuid
from typing import Any

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import F, Q

SHA256 = r"^[0-9a-f]{64}$"
SLUG = r"^[a-z0-9][a-z0-9-]{0,49}$"
#: The ranks that vLLM can load (vllm/config/lora.py).
LORA_RANKS = [1, 8, 16, 32, 64, 128, 256]


#: The linear layers of a Llama-like block, which vLLM loads adapters for.
LORA_TARGET_MODULES = [
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
]  # fmt: skip


def default_target_modules() -> list[str]:
    """Return every linear layer of a Llama-like block."""
    return list(LORA_TARGET_MODULES)


class RegisteredModel(models.Model):
    """A base model and the loop around it: prompts, pairs, rounds and versions all hang on it.

    State: PREPARING -> READY | FAILED, FAILED -> PREPARING. READY has a base whose hashes are known.
    """

    class State(models.TextChoices):
        """How far the registration is."""

        PREPARING = "preparing"
        READY = "ready"
        FAILED = "failed"

    slug = models.CharField(
        max_length=50,
        unique=True,
        validators=[RegexValidator(SLUG, "Use lowercase letters, digits and hyphens.")],
    )
    name = models.CharField(max_length=100)
    state = models.CharField(max_length=10, choices=State, default=State.PREPARING)
    #: Why the registration failed, as one sentence.
    failure = models.TextField(blank=True)
    #: What the base was made from: "demo", a folder or a hub id.
    base_source = models.CharField(max_length=500)
    #: Folder below settings.BASES, named by `base_sha256`.
    base_path = models.CharField(max_length=500, blank=True)
    #: Over the weight files, sorted by name.
    base_sha256 = models.CharField(max_length=64, blank=True)
    tokenizer_sha256 = models.CharField(max_length=64, blank=True)
    chat_template_sha256 = models.CharField(max_length=64, blank=True)
    parameters = models.BigIntegerField(default=0)
    context_length = models.PositiveIntegerField(default=0)
    lora_rank = models.PositiveSmallIntegerField(default=16)
    lora_alpha = models.PositiveSmallIntegerField(default=32)
    lora_target_modules = ArrayField(
        models.CharField(max_length=50), default=default_target_modules
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Database rules."""

        constraints = [
            models.CheckConstraint(condition=Q(slug__regex=SLUG), name="model_slug_is_a_slug"),
            models.CheckConstraint(
                condition=Q(state__in=["preparing", "ready", "failed"]), name="model_state_known"
            ),
            models.CheckConstraint(
                condition=Q(lora_rank__in=LORA_RANKS), name="model_lora_rank_loads_in_vllm"
            ),
            models.CheckConstraint(
                condition=~Q(state="ready")
                | Q(
                    base_sha256__regex=SHA256,
                    tokenizer_sha256__regex=SHA256,
                    chat_template_sha256__regex=SHA256,
                ),
                name="model_ready_has_hashes",
            ),
        ]

    def __str__(self) -> str:
        """Return the slug."""
        return self.slug

    @property
    def is_ready(self) -> bool:
        """Whether the base is in the store."""
        return self.state == self.State.READY

    @property
    def has_failed(self) -> bool:
        """Whether the registration ended with a reason."""
        return self.state == self.State.FAILED


class Membership(models.Model):
    """A labeler may judge pairs of this model."""

    model = models.ForeignKey(RegisteredModel, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="memberships")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Database rules."""

        constraints = [
            models.UniqueConstraint(fields=["model", "user"], name="membership_once"),
        ]

    def __str__(self) -> str:
        """Return who judges what."""
        return f"{self.user} in {self.model}"


class PersonChange(models.Model):
    """What somebody did to an account or a membership. Append-only by a trigger."""

    class Kind(models.TextChoices):
        """What happened, as the end of a sentence that begins with the person's name."""

        ADDED = "added", "was added"
        MEMBER_ADDED = "member_added", "may judge this model"
        MEMBER_REMOVED = "member_removed", "may no longer judge this model"
        ADMIN_GIVEN = "admin_given", "was made an admin"
        ADMIN_TAKEN = "admin_taken", "is no longer an admin"
        DEACTIVATED = "deactivated", "was deactivated"
        REACTIVATED = "reactivated", "was reactivated"
        LINK_MADE = "link_made", "got a new link to set a password"
        PASSWORD_SET = "password_set", "set a password"

    person = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="changes")
    kind = models.CharField(max_length=20, choices=Kind)
    #: For memberships: of which model.
    model = models.ForeignKey(
        RegisteredModel, models.PROTECT, null=True, blank=True, related_name="+"
    )
    #: Empty when it was done on the command line.
    made_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, blank=True, related_name="+"
    )
    made_at = models.DateTimeField()

    class Meta:
        """Database rules."""

        constraints = [
            models.CheckConstraint(
                condition=Q(
                    kind__in=[
                        "added",
                        "admin_given",
                        "admin_taken",
                        "deactivated",
                        "reactivated",
                        "link_made",
                        "password_set",
                    ],
                    model=None,
                )
                | Q(kind__in=["member_added", "member_removed"], model__isnull=False),
                name="person_change_known",
            ),
        ]

    def __str__(self) -> str:
        """Return what happened to whom."""
        return f"{self.person} {self.get_kind_display()}"


class ModelVersion(models.Model):
    """One servable result. Everything but `state`, `metrics` and `card` is fixed by a trigger.

    State: REGISTERED -> VERIFIED; either -> RETIRED | CORRUPT.
    """

    class Kind(models.TextChoices):
        """What the artifact holds."""

        BASE = "base"
        ADAPTER = "adapter"
        FULL = "full"

    class State(models.TextChoices):
        """How far the version may be trusted."""

        REGISTERED = "registered"
        VERIFIED = "verified"
        RETIRED = "retired"
        CORRUPT = "corrupt"

    model = models.ForeignKey(RegisteredModel, models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    parent = models.ForeignKey(
        "self", models.PROTECT, null=True, blank=True, related_name="children"
    )
    kind = models.CharField(max_length=10, choices=Kind)
    artifact_path = models.CharField(max_length=500)
    sha256 = models.CharField(max_length=64)
    size_bytes = models.BigIntegerField()
    metrics = models.JSONField(default=dict, blank=True)
    card = models.TextField(blank=True)
    state = models.CharField(max_length=10, choices=State, default=State.REGISTERED)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Database rules."""

        constraints = [
            models.UniqueConstraint(fields=["model", "number"], name="version_number_once"),
            # The target of composite foreign keys: a version is only ever used by its own model.
            models.UniqueConstraint(fields=["id", "model"], name="version_of_model"),
            models.CheckConstraint(condition=Q(sha256__regex=SHA256), name="version_has_hash"),
            models.CheckConstraint(
                condition=Q(kind__in=["base", "adapter", "full"]), name="version_kind_known"
            ),
            models.CheckConstraint(
                condition=Q(state__in=["registered", "verified", "retired", "corrupt"]),
                name="version_state_known",
            ),
            models.CheckConstraint(
                condition=Q(kind="base", number=0, parent=None)
                | (~Q(kind="base") & Q(number__gt=0, parent__isnull=False)),
                name="version_base_is_v0",
            ),
        ]

    def __str__(self) -> str:
        """Return slug and number, as in demo/v3."""
        return f"{self.model}/{self.label}"

    @property
    def label(self) -> str:
        """The version's short name, v0 for the base."""
        return f"v{self.number}"

    @property
    def is_base(self) -> bool:
        """Whether it is what the loop began with."""
        return self.kind == self.Kind.BASE

    @property
    def is_verified(self) -> bool:
        """Whether an engine computes with it what the trainer did."""
        return self.state == self.State.VERIFIED

    @property
    def average(self) -> dict[str, Any]:
        """Of which versions it is the mean, with their shares, and why; empty for what was trained."""
        found: dict[str, Any] = self.metrics.get("average", {})
        return found

    @property
    def served_name(self) -> str:
        """The name an engine knows it by; never reused, since id and content are in it."""
        return f"pl-{self.pk}-{self.sha256[:8]}"


class Alias(models.Model):
    """A name that points at one version at a time; moved only with an AliasMove."""

    SAMPLER = "sampler"
    CHALLENGER = "challenger"
    CHAMPION = "champion"

    model = models.ForeignKey(RegisteredModel, models.PROTECT, related_name="aliases")
    name = models.CharField(max_length=50)
    version = models.ForeignKey(ModelVersion, models.PROTECT, related_name="aliases")

    class Meta:
        """Database rules."""

        verbose_name_plural = "aliases"
        constraints = [
            models.UniqueConstraint(fields=["model", "name"], name="alias_once"),
            models.CheckConstraint(condition=Q(name__regex=SLUG), name="alias_name_is_a_slug"),
        ]

    def __str__(self) -> str:
        """Return where it points."""
        return f"{self.name} -> {self.version}"


class AliasMove(models.Model):
    """Who moved an alias, when and why. Append-only by a trigger."""

    model = models.ForeignKey(RegisteredModel, models.PROTECT, related_name="alias_moves")
    name = models.CharField(max_length=50)
    from_version = models.ForeignKey(ModelVersion, models.PROTECT, null=True, related_name="+")
    to_version = models.ForeignKey(ModelVersion, models.PROTECT, related_name="+")
    #: Empty when Pairloop moved it by policy.
    moved_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, blank=True, related_name="+"
    )
    reason = models.TextField()
    gate_result = models.JSONField(default=dict)
    moved_at = models.DateTimeField()

    class Meta:
        """Database rules."""

        constraints = [
            models.CheckConstraint(condition=~Q(reason=""), name="alias_move_has_reason"),
        ]

    def __str__(self) -> str:
        """Return the move."""
        return f"{self.name}: {self.from_version} -> {self.to_version}"

    @property
    def gate(self) -> str:
        """What people's judgements proved when the champion was promoted; empty for every other move."""
        if not self.gate_result:
            return ""
        if self.gate_result["comparison"] is None:
            return "without evidence"
        words = "all conditions held" if self.gate_result["passed"] else "not all conditions held"
        times = f"{self.gate_result['evidence']:.3g}"
        return f"evidence {times}\N{MULTIPLICATION SIGN} against v{self.gate_result['incumbent']}, {words}"


class Serving(models.Model):
    """A version that an engine was asked to serve."""

    version = models.ForeignKey(ModelVersion, models.CASCADE, related_name="servings")
    #: The engine's URL.
    engine = models.CharField(max_length=300)
    loaded_at = models.DateTimeField(null=True, blank=True)
    canary = models.JSONField(default=dict, blank=True)

    class Meta:
        """Database rules."""

        constraints = [
            models.UniqueConstraint(fields=["version", "engine"], name="serving_once"),
        ]

    def __str__(self) -> str:
        """Return what is served where."""
        return f"{self.version} on {self.engine}"


class Comparison(models.Model):
    """Two versions judged blindly on the same held-out prompts.

    State: OPEN -> DECIDED | CLOSED.
    """

    class State(models.TextChoices):
        """Whether it still collects judgements."""

        OPEN = "open"
        DECIDED = "decided"
        CLOSED = "closed"

    model = models.ForeignKey(RegisteredModel, models.PROTECT, related_name="comparisons")
    candidate = models.ForeignKey(ModelVersion, models.PROTECT, related_name="+")
    incumbent = models.ForeignKey(ModelVersion, models.PROTECT, related_name="+")
    #: Most prompts it may use.
    budget = models.PositiveIntegerField()
    state = models.CharField(max_length=10, choices=State, default=State.OPEN)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        """Database rules."""

        constraints = [
            models.CheckConstraint(
                condition=~Q(candidate=F("incumbent")), name="comparison_of_two_versions"
            ),
            models.CheckConstraint(
                condition=Q(state__in=["open", "decided", "closed"]), name="comparison_state_known"
            ),
            models.CheckConstraint(
                condition=Q(budget__gte=1, budget__lte=1000), name="comparison_budget_bounds"
            ),
            models.UniqueConstraint(
                fields=["candidate", "incumbent"],
                condition=Q(state="open"),
                name="comparison_open_once",
            ),
        ]

    def __str__(self) -> str:
        """Return the two versions."""
        return f"{self.candidate} against {self.incumbent}"

    @property
    def is_open(self) -> bool:
        """Whether it still collects judgements."""
        return self.state == self.State.OPEN


class Outcome(models.Model):
    """What one compare-judgement said; withdrawn when the judgement is undone."""

    class Kind(models.TextChoices):
        """How it ended."""

        WIN = "win"
        TIE = "tie"
        BOTH_BAD = "both_bad"

    comparison = models.ForeignKey(Comparison, models.PROTECT, related_name="outcomes")
    kind = models.CharField(max_length=10, choices=Kind)
    winner = models.ForeignKey(
        ModelVersion, models.PROTECT, null=True, blank=True, related_name="+"
    )
    #: The prompt's sha256: outcomes of one prompt are not independent.
    prompt_key = models.CharField(max_length=64)
    tags = ArrayField(models.CharField(max_length=50), default=list, blank=True)
    labeler = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    #: The assignment's uuid.
    source = models.UUIDField()
    #: Whether the labeler saw the candidate's answer on the left.
    candidate_left = models.BooleanField(null=True)
    #: Tokens of the two answers.
    candidate_tokens = models.PositiveIntegerField(null=True, blank=True)
    incumbent_tokens = models.PositiveIntegerField(null=True, blank=True)
    recorded_at = models.DateTimeField()
    withdrawn_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        """Database rules."""

        constraints = [
            models.CheckConstraint(
                condition=Q(kind="win", winner__isnull=False) | (~Q(kind="win") & Q(winner=None)),
                name="outcome_win_has_winner",
            ),
            models.CheckConstraint(
                condition=Q(kind__in=["win", "tie", "both_bad"]), name="outcome_kind_known"
            ),
            models.UniqueConstraint(
                fields=["source"], condition=Q(withdrawn_at=None), name="outcome_once_per_source"
            ),
        ]

    def __str__(self) -> str:
        """Return the outcome."""
        return f"{self.comparison}: {self.winner or self.kind}"


class Play(models.Model):
    """A question of the playground that two versions answer side by side; never evidence, never trained on.

    State: WAITING -> ANSWERED | FAILED.
    """

    class State(models.TextChoices):
        """Whether the answers are there."""

        WAITING = "waiting"
        ANSWERED = "answered"
        FAILED = "failed"

    class Pick(models.TextChoices):
        """What the asker found better."""

        LEFT = "left", "Left"
        EQUAL = "equal", "Equal"
        RIGHT = "right", "Right"
        BOTH_BAD = "both_bad", "Both bad"

    uuid = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    model = models.ForeignKey(RegisteredModel, models.PROTECT, related_name="plays")
    asked_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="plays")
    #: Perhaps a system message, then the question: [{"role": …, "content": …}, …].
    messages = models.JSONField()
    left_version = models.ForeignKey(ModelVersion, models.PROTECT, related_name="+")
    right_version = models.ForeignKey(ModelVersion, models.PROTECT, related_name="+")
    #: Whether the versions' names stay hidden until the pick.
    is_blind = models.BooleanField(default=True)
    #: temperature, top_p and max_tokens of both answers.
    sampling = models.JSONField()
    state = models.CharField(max_length=10, choices=State, default=State.WAITING)
    #: Why there are no answers, as a sentence.
    failure = models.TextField(blank=True)
    #: How often the engine failed at it for reasons of its own.
    tries = models.PositiveSmallIntegerField(default=0)
    left_text = models.TextField(blank=True)
    right_text = models.TextField(blank=True)
    left_tokens = models.PositiveIntegerField(null=True, blank=True)
    right_tokens = models.PositiveIntegerField(null=True, blank=True)
    left_finish_reason = models.CharField(max_length=10, blank=True)
    right_finish_reason = models.CharField(max_length=10, blank=True)
    left_seconds = models.FloatField(null=True, blank=True)
    right_seconds = models.FloatField(null=True, blank=True)
    answered_at = models.DateTimeField(null=True, blank=True)
    pick = models.CharField(max_length=10, choices=Pick, blank=True)
    picked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Database rules."""

        constraints = [
            models.CheckConstraint(
                condition=~Q(left_version=F("right_version")), name="play_of_two_versions"
            ),
            models.CheckConstraint(
                condition=Q(state__in=["waiting", "answered", "failed"]), name="play_state_known"
            ),
            models.CheckConstraint(
                condition=Q(
                    state="answered",
                    left_tokens__isnull=False,
                    right_tokens__isnull=False,
                    answered_at__isnull=False,
                )
                | (~Q(state="answered") & Q(left_tokens=None, right_tokens=None, answered_at=None)),
                name="play_answered_has_both",
            ),
            models.CheckConstraint(
                condition=Q(state="failed") & ~Q(failure="") | ~Q(state="failed") & Q(failure=""),
                name="play_failed_has_reason",
            ),
            models.CheckConstraint(
                condition=Q(pick="", picked_at=None)
                | Q(
                    pick__in=["left", "equal", "right", "both_bad"],
                    picked_at__isnull=False,
                    state="answered",
                ),
                name="play_pick_of_answers",
            ),
        ]
        indexes = [
            models.Index(fields=["model", "-created_at"], name="play_model_newest"),
            models.Index(fields=["created_at"], condition=Q(state="waiting"), name="play_waiting"),
        ]

    def __str__(self) -> str:
        """Return which question it is; not who answers, which its asker must not know yet."""
        return f"question {self.uuid} to {self.model}"

    @property
    def versions(self) -> tuple[ModelVersion, ModelVersion]:
        """Left and right."""
        return self.left_version, self.right_version

    @property
    def labels(self) -> list[str]:
        """The two versions' names, the newer first whichever side it is on."""
        newest_first = sorted(self.versions, key=lambda version: -version.number)
        return [version.label for version in newest_first]

    @property
    def question(self) -> str:
        """What was asked."""
        return str(self.messages[-1]["content"])

    @property
    def system(self) -> str:
        """The system message; empty when there is none."""
        return str(self.messages[0]["content"]) if len(self.messages) > 1 else ""

    @property
    def is_waiting(self) -> bool:
        """Whether the engine has yet to answer."""
        return self.state == self.State.WAITING

    @property
    def is_answered(self) -> bool:
        """Whether both answers are there."""
        return self.state == self.State.ANSWERED

    @property
    def has_failed(self) -> bool:
        """Whether there will be no answers."""
        return self.state == self.State.FAILED

    @property
    def is_revealed(self) -> bool:
        """Whether it may be told which version wrote which answer."""
        return not self.is_blind or self.pick != ""

    @property
    def winner(self) -> ModelVersion | None:
        """The version that was picked; None for equal, both bad, or no pick yet."""
        winners = {self.Pick.LEFT: self.left_version, self.Pick.RIGHT: self.right_version}
        return winners.get(self.Pick(self.pick)) if self.pick else None
