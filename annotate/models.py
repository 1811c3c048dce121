"""Prompts, what was sampled for them, and what people said about it."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Extract, Floor, Now, Random
from django.utils import timezone

from models_registry.models import SHA256, Comparison, ModelVersion, RegisteredModel

#: Of the prompts that labelers write themselves.
ATTACK_TAG = "attack"
#: At least one prompt in five is held out, or nothing can be proved about a version.
LEAST_HOLDOUT_SHARE = 0.2
#: More gold pairs, or more repeats, would be work that nothing is learned from.
MOST_CHECKS = 0.2


class Split(models.TextChoices):
    """Which side of the hold-out line a prompt is on, decided by its hash."""

    TRAIN = "train"
    HOLDOUT = "holdout"


class JudgingPolicy(models.Model):
    """How pairs of one model are made and judged."""

    model = models.OneToOneField(RegisteredModel, models.CASCADE, related_name="judging_policy")
    guidelines = models.TextField(blank=True)
    guidelines_version = models.PositiveIntegerField(default=1)
    temperature = models.FloatField(
        default=1.0, validators=[MinValueValidator(0.1), MaxValueValidator(2.0)]
    )
    top_p = models.FloatField(
        default=0.95, validators=[MinValueValidator(0.1), MaxValueValidator(1.0)]
    )
    max_tokens = models.PositiveIntegerField(default=128)
    #: Completions sampled for a prompt in one request.
    samples = models.PositiveSmallIntegerField(default=4)
    #: Most pairs made of one prompt's completions in one go.
    pairs_per_prompt = models.PositiveSmallIntegerField(default=3)
    #: Pairs that should wait to be judged.
    queue_target = models.PositiveIntegerField(default=24)
    #: People who judge a pair.
    overlap = models.PositiveSmallIntegerField(default=1)
    #: People who judge a pair at most, when one opinion is not enough; see annotate.overlap.
    overlap_most = models.PositiveSmallIntegerField(default=3)
    #: Whether a slight preference is shown to somebody else.
    second_if_slight = models.BooleanField(default=True)
    #: So many of a labeler's first judgements get a second opinion.
    second_of_new = models.PositiveIntegerField(default=20)
    #: Share of judgements that get a second opinion whatever they say.
    audit_share = models.FloatField(default=0.1)
    #: Share of pairs on held-out prompts, on which a round's accuracy is measured.
    eval_share = models.FloatField(default=0.1)
    #: Share of the pairs to train on that go to prompts and tags where the model does badly.
    weak_share = models.FloatField(default=0.3)
    #: Share of prompts that are never trained on.
    holdout_share = models.FloatField(default=LEAST_HOLDOUT_SHARE)
    #: Share of a labeler's turns that are a pair of which the better answer is known.
    gold_share = models.FloatField(default=0.03)
    #: Share of a labeler's turns that are a pair of their own again, with its sides swapped.
    repeat_share = models.FloatField(default=0.03)
    #: Minutes that an assignment is reserved for its labeler.
    lease_minutes = models.PositiveIntegerField(default=30)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        """Database rules."""

        verbose_name_plural = "judging policies"
        constraints = [
            models.CheckConstraint(
                condition=Q(temperature__gt=0, temperature__lte=2), name="policy_temperature_bounds"
            ),
            models.CheckConstraint(
                condition=Q(top_p__gt=0, top_p__lte=1), name="policy_top_p_bounds"
            ),
            models.CheckConstraint(
                condition=Q(samples__gte=2, samples__lte=8), name="policy_samples_bounds"
            ),
            models.CheckConstraint(
                condition=Q(pairs_per_prompt__gte=1, pairs_per_prompt__lte=3),
                name="policy_pairs_per_prompt_bounds",
            ),
            models.CheckConstraint(
                condition=Q(max_tokens__gte=1, max_tokens__lte=4096),
                name="policy_max_tokens_bounds",
            ),
            models.CheckConstraint(condition=Q(overlap__gte=1), name="policy_overlap_bounds"),
            models.CheckConstraint(
                condition=Q(overlap_most__gte=1, overlap_most__lte=10),
                name="policy_overlap_most_bounds",
            ),
            models.CheckConstraint(
                condition=Q(audit_share__gte=0, audit_share__lte=1), name="policy_audit_bounds"
            ),
            models.CheckConstraint(
                condition=Q(eval_share__gte=0, eval_share__lte=0.5), name="policy_eval_share_bounds"
            ),
            models.CheckConstraint(
                condition=Q(holdout_share__gte=LEAST_HOLDOUT_SHARE, holdout_share__lte=0.8),
                name="policy_holdout_share_bounds",
            ),
            models.CheckConstraint(condition=Q(lease_minutes__gte=1), name="policy_lease_bounds"),
            models.CheckConstraint(
                condition=Q(gold_share__gte=0, gold_share__lte=MOST_CHECKS)
                & Q(repeat_share__gte=0, repeat_share__lte=MOST_CHECKS),
                name="policy_checks_bounds",
            ),
            models.CheckConstraint(
                condition=Q(weak_share__gte=0, weak_share__lte=0.9), name="policy_weak_share_bounds"
            ),
        ]

    def __str__(self) -> str:
        """Return whose policy it is."""
        return f"judging of {self.model}"


class Guidelines(models.Model):
    """One version of what a model's labelers are told. Append-only by a trigger."""

    model = models.ForeignKey(RegisteredModel, models.PROTECT, related_name="guidelines")
    #: From 1; judgements keep it.
    version = models.PositiveIntegerField()
    text = models.TextField(blank=True)
    #: Empty when it came with the model.
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        """Database rules."""

        verbose_name_plural = "guidelines"
        constraints = [
            models.UniqueConstraint(fields=["model", "version"], name="guidelines_version_once"),
            models.CheckConstraint(condition=Q(version__gte=1), name="guidelines_version_from_1"),
        ]

    def __str__(self) -> str:
        """Return which version of whose."""
        return f"guidelines {self.version} of {self.model}"


class Prompt(models.Model):
    """What the model is asked."""

    model = models.ForeignKey(RegisteredModel, models.PROTECT, related_name="prompts")
    #: [{"role": "system" | "user" | "assistant", "content": "…"}, …], ending with the user.
    messages = models.JSONField()
    #: Of the messages as canonical JSON.
    sha256 = models.CharField(max_length=64)
    split = models.CharField(max_length=8, choices=Split)
    tags = ArrayField(models.CharField(max_length=50), default=list, blank=True)
    #: What the engine said when it refused the prompt, say because it is too long; it is not asked again.
    refusal = models.TextField(blank=True)
    #: The labeler who wrote it to see the model fail; empty when it was imported.
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, blank=True, related_name="+"
    )
    #: The number of the version that pairs were last asked of; -1 before any was.
    asked_by = models.IntegerField(default=-1, db_default=-1)
    #: How often that version was asked.
    asked = models.PositiveIntegerField(default=0, db_default=0)
    #: Minutes since 1970 of its import, with a random fraction: of prompts asked equally often, the highest
    #: is next. Drawn anew with each asking, so no two go through in the same order twice.
    place = models.FloatField(db_default=Floor(Extract(Now(), "epoch") / 60.0) + Random())
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Database rules."""

        constraints = [
            models.UniqueConstraint(fields=["model", "sha256"], name="prompt_once"),
            # The target of composite foreign keys: pairs and snapshot items carry the split along.
            models.UniqueConstraint(fields=["id", "split"], name="prompt_split"),
            models.CheckConstraint(condition=Q(split__in=Split.values), name="prompt_split_known"),
            models.CheckConstraint(condition=Q(sha256__regex=SHA256), name="prompt_has_hash"),
        ]
        indexes = [
            models.Index(fields=["model", "split"], name="prompt_model_split"),
            # Whose turn it is: found in a few steps, however many prompts there are.
            models.Index(
                fields=["model", "split", "asked_by", "asked", "-place"],
                condition=Q(refusal=""),
                name="prompt_turn",
            ),
            models.Index(
                fields=["model", "created_at"],
                condition=Q(author__isnull=False),
                name="prompt_of_labeler",
            ),
            GinIndex(fields=["tags"], name="prompt_tags"),
        ]

    def __str__(self) -> str:
        """Return its number."""
        return f"prompt {self.pk}"

    @property
    def question(self) -> str:
        """The last message's text."""
        return str(self.messages[-1]["content"]) if self.messages else ""


class Completion(models.Model):
    """One text for a prompt, and exactly how it came to be."""

    class Origin(models.TextChoices):
        """Who wrote it."""

        ENGINE = "engine"
        IMPORT = "import"
        EDIT = "edit"

    prompt = models.ForeignKey(Prompt, models.PROTECT, related_name="completions")
    origin = models.CharField(max_length=8, choices=Origin)
    version = models.ForeignKey(
        ModelVersion, models.PROTECT, null=True, blank=True, related_name="completions"
    )
    text = models.TextField()
    #: Token ids as the engine returned them; the trainer uses these and never tokenises again.
    prompt_ids = ArrayField(models.IntegerField(), null=True, blank=True)
    completion_ids = ArrayField(models.IntegerField(), null=True, blank=True)
    finish_reason = models.CharField(max_length=20, blank=True)
    sampling = models.JSONField(default=dict, blank=True)
    seed = models.BigIntegerField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Database rules."""

        constraints = [
            models.CheckConstraint(
                condition=Q(
                    origin="engine",
                    version__isnull=False,
                    prompt_ids__isnull=False,
                    completion_ids__isnull=False,
                )
                | (
                    ~Q(origin="engine")
                    & Q(version=None, prompt_ids__isnull=True, completion_ids__isnull=True)
                ),
                name="completion_engine_has_version_and_ids",
            ),
            models.CheckConstraint(
                condition=Q(origin__in=["engine", "import", "edit"]),
                name="completion_origin_known",
            ),
            # The target of composite foreign keys: a pair's completions answer its own prompt.
            models.UniqueConstraint(fields=["id", "prompt"], name="completion_of_prompt"),
        ]

    def __str__(self) -> str:
        """Return its number."""
        return f"completion {self.pk}"


class Pair(models.Model):
    """Two completions of one prompt. Which one is shown on the left belongs to the assignment."""

    class Purpose(models.TextChoices):
        """What its judgements are for."""

        TRAIN = "train"
        EVAL = "eval"
        COMPARE = "compare"
        GOLD = "gold"
        REPEAT = "repeat"

    #: The arm of pairs that nobody sampled.
    IMPORTED = "import"
    #: The arms of sampling: every prompt in turn, where the model does badly, what a labeler wrote.
    UNIFORM = "uniform"
    WEAK = "weak"
    ATTACK = "attack"

    prompt = models.ForeignKey(Prompt, models.PROTECT, related_name="pairs")
    prompt_split = models.CharField(max_length=8, choices=Split)
    first = models.ForeignKey(Completion, models.PROTECT, related_name="+")
    second = models.ForeignKey(Completion, models.PROTECT, related_name="+")
    purpose = models.CharField(max_length=8, choices=Purpose)
    comparison = models.ForeignKey(
        Comparison, models.PROTECT, null=True, blank=True, related_name="+"
    )
    #: Why this prompt was chosen: UNIFORM, WEAK or ATTACK; IMPORTED when it came with a file.
    arm = models.CharField(max_length=20, default=UNIFORM)
    #: The probability with which one draw takes this prompt, over both arms, when it was drawn; going through
    #: all of n prompts in turn counts as 1/n each. Weighted by 1/(n · drawn_with), judgements count as if all
    #: prompts were drawn alike. Empty for what was not drawn.
    drawn_with = models.FloatField(null=True, blank=True)
    priority = models.IntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Database rules."""

        constraints = [
            models.CheckConstraint(condition=Q(first__lt=F("second")), name="pair_of_two_in_order"),
            # The target of a composite foreign key: a snapshot's item is about its pair's prompt.
            models.UniqueConstraint(fields=["id", "prompt"], name="pair_of_prompt"),
            models.CheckConstraint(
                condition=Q(purpose__in=["train", "eval", "compare", "gold", "repeat"]),
                name="pair_purpose_known",
            ),
            models.UniqueConstraint(
                fields=["first", "second"],
                condition=~Q(purpose__in=["gold", "repeat"]),
                name="pair_once",
            ),
            models.CheckConstraint(
                condition=(~Q(purpose="train") | Q(prompt_split="train"))
                & (~Q(purpose__in=["eval", "compare"]) | Q(prompt_split="holdout")),
                name="pair_purpose_fits_split",
            ),
            models.CheckConstraint(
                condition=Q(purpose="compare", comparison__isnull=False)
                | (~Q(purpose="compare") & Q(comparison=None)),
                name="pair_compare_has_comparison",
            ),
            models.CheckConstraint(
                condition=~Q(arm="weak") | Q(purpose="train"), name="pair_weak_is_trained_on"
            ),
            models.CheckConstraint(
                condition=Q(drawn_with=None) | Q(drawn_with__gt=0, drawn_with__lte=1),
                name="pair_drawn_with_bounds",
            ),
        ]

    def __str__(self) -> str:
        """Return its number."""
        return f"pair {self.pk}"


class WeakSpot(models.Model):
    """A prompt, or a tag, on which the model does worse than it usually does. Rewritten by a job.

    Counts are of judgements that the job looked at, as they are; `weakness` weighs them.
    """

    model = models.ForeignKey(RegisteredModel, models.CASCADE, related_name="+")
    #: Either a prompt that may be trained on, or a tag.
    prompt = models.ForeignKey(Prompt, models.CASCADE, null=True, blank=True, related_name="+")
    tag = models.CharField(max_length=50, blank=True)
    #: By how much its share of failures, smoothed and faded, is above the model's; 0 to 1.
    weakness = models.FloatField()
    judged = models.PositiveIntegerField()
    both_bad = models.PositiveIntegerField(default=0)
    lost = models.PositiveIntegerField(default=0)
    disagreed = models.PositiveIntegerField(default=0)
    #: Number of the newest version that failed here.
    version_number = models.PositiveIntegerField()
    #: Ids of the newest pairs on which it failed.
    pairs = ArrayField(models.BigIntegerField(), default=list, blank=True)
    #: Of a tag: train prompts that have it, and the ids of some of them, drawn at random.
    prompt_count = models.PositiveIntegerField(default=0)
    prompt_ids = ArrayField(models.BigIntegerField(), default=list, blank=True)

    class Meta:
        """Database rules."""

        constraints = [
            models.UniqueConstraint(
                fields=["model", "prompt"], condition=Q(tag=""), name="weak_spot_prompt_once"
            ),
            models.UniqueConstraint(
                fields=["model", "tag"], condition=Q(prompt=None), name="weak_spot_tag_once"
            ),
            models.CheckConstraint(
                condition=Q(prompt=None) ^ Q(tag=""), name="weak_spot_is_prompt_or_tag"
            ),
            models.CheckConstraint(
                condition=Q(weakness__gt=0, weakness__lte=1), name="weak_spot_weakness_bounds"
            ),
        ]
        indexes = [models.Index(fields=["model", "-weakness"], name="weak_spot_worst")]

    def __str__(self) -> str:
        """Return where it is."""
        return f"weak on {self.tag or self.prompt_id}"


class SamplingState(models.Model):
    """What the sampling of a model remembers, so that it need not count."""

    model = models.OneToOneField(
        RegisteredModel, models.CASCADE, primary_key=True, related_name="sampling_state"
    )
    #: Pairs on either side of the hold-out line; halved together, so that the newest count most.
    train_pairs = models.FloatField(default=0)
    eval_pairs = models.FloatField(default=0)
    #: Prompts that the engine does not refuse, as they were last counted.
    train_prompts = models.PositiveIntegerField(default=0)
    holdout_prompts = models.PositiveIntegerField(default=0)
    #: The newest prompt of all models when they were counted.
    counted_until = models.BigIntegerField(default=0)
    #: The judgement and the version that the weak spots take into account.
    judged_until = models.BigIntegerField(default=0)
    spots_of = models.IntegerField(default=-1)
    #: When they were computed; empty when something else changed since.
    spots_at = models.DateTimeField(null=True, blank=True)
    #: Pairs that a version was asked about, {"version": number, "agreed": [pair ids], "disagreed": […]}.
    disagreements = models.JSONField(default=dict, blank=True)

    def __str__(self) -> str:
        """Return whose it is."""
        return f"sampling of {self.model_id}"


class Import(models.Model):
    """A file of preference pairs on its way in. How far it is changes with what it stored, in one transaction.

    State: QUEUED -> RUNNING -> DONE | FAILED.
    """

    class Format(models.TextChoices):
        """What the file is."""

        JSONL = "jsonl", "JSONL"
        PARQUET = "parquet", "Parquet"

    class State(models.TextChoices):
        """How far it is."""

        QUEUED = "queued"
        RUNNING = "running"
        DONE = "done"
        FAILED = "failed"

    OPEN = (State.QUEUED, State.RUNNING)

    model = models.ForeignKey(RegisteredModel, models.PROTECT, related_name="imports")
    #: Empty when it came from the command line.
    started_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, blank=True, related_name="+"
    )
    filename = models.CharField(max_length=200)
    format = models.CharField(max_length=8, choices=Format)
    #: Of the file.
    sha256 = models.CharField(max_length=64)
    #: Name below settings.IMPORTS; empty when the file is deleted, which it is at the end.
    path = models.CharField(max_length=100, blank=True)
    state = models.CharField(max_length=8, choices=State, default=State.QUEUED)
    #: Bytes of JSONL; rows of Parquet, 0 until they are counted.
    total = models.PositiveBigIntegerField()
    #: Of the total; where the next batch begins.
    done = models.PositiveBigIntegerField(default=0)
    #: Lines or rows read so far.
    lines = models.PositiveBigIntegerField(default=0)
    created = models.PositiveBigIntegerField(default=0)
    duplicates = models.PositiveBigIntegerField(default=0)
    #: Of those created: on held-out prompts, which measure and are never trained on.
    held_out = models.PositiveBigIntegerField(default=0)
    rejected_count = models.PositiveBigIntegerField(default=0)
    #: The first ones: [[line number, reason as a sentence], …].
    rejected = models.JSONField(default=list, blank=True)
    #: Why it failed, as a sentence that says what to do.
    failure = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        """Database rules."""

        constraints = [
            models.CheckConstraint(
                condition=Q(format__in=["jsonl", "parquet"]), name="import_format_known"
            ),
            models.CheckConstraint(
                condition=Q(state__in=["queued", "running", "done"], failure="")
                | (Q(state="failed") & ~Q(failure="")),
                name="import_failed_says_why",
            ),
            models.CheckConstraint(
                condition=Q(done__lte=F("total")), name="import_done_within_total"
            ),
        ]
        indexes = [
            models.Index(
                fields=["id"], condition=Q(state__in=["queued", "running"]), name="import_open"
            ),
        ]

    def __str__(self) -> str:
        """Return its number."""
        return f"import {self.pk}"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state not in self.OPEN

    @property
    def progress(self) -> float:
        """How far it is, from 0 to 1."""
        return self.done / self.total if self.total else float(self.is_over)


class ImportedPreference(models.Model):
    """What a file says about a pair that came with it. It counts until somebody judges the pair."""

    pair = models.OneToOneField(
        Pair, models.PROTECT, primary_key=True, related_name="imported_preference"
    )
    model = models.ForeignKey(RegisteredModel, models.PROTECT, related_name="+")
    source = models.ForeignKey(Import, models.PROTECT, related_name="preferences")
    #: Number of the line or row in the file.
    line = models.PositiveBigIntegerField()
    preferred = models.ForeignKey(Completion, models.PROTECT, related_name="+")
    #: Probability that the preferred one is the better one, from .5.
    target = models.FloatField()
    #: Of prompt and both answers as canonical JSON: the same line makes one pair, however often it comes.
    sha256 = models.CharField(max_length=64)

    class Meta:
        """Database rules."""

        constraints = [
            models.UniqueConstraint(fields=["model", "sha256"], name="imported_preference_once"),
            models.CheckConstraint(
                condition=Q(target__gte=0.5, target__lte=1),
                name="imported_preference_target_bounds",
            ),
            models.CheckConstraint(
                condition=Q(sha256__regex=SHA256), name="imported_preference_has_hash"
            ),
        ]

    def __str__(self) -> str:
        """Return where it came from."""
        return f"line {self.line} of {self.source}"


class QueueEntry(models.Model):
    """A pair that still wants judgements: the narrow table that assignments are served from.

    Nobody has judged a fresh one (no opinions). One with opinions wants another person's: it rests in a band
    of its own, ordered by who judged last, so that nobody ever walks over what they judged themselves.
    """

    pair = models.OneToOneField(Pair, models.CASCADE, primary_key=True, related_name="queue_entry")
    model = models.ForeignKey(RegisteredModel, models.CASCADE, related_name="+")
    #: Higher is served first.
    priority = models.IntegerField(default=0)
    #: Judgements still wanted.
    wanted = models.PositiveSmallIntegerField()
    #: Assignments that are open now; never more than `wanted`.
    leased = models.PositiveSmallIntegerField(default=0)
    #: Standing judgements so far.
    opinions = models.PositiveSmallIntegerField(default=0)
    #: Whose was the last of them.
    last_labeler = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        db_index=False,
    )
    #: Only this labeler gets it, and before anything else.
    reserved_for = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        db_index=False,
    )

    class Meta:
        """Database rules."""

        verbose_name_plural = "queue entries"
        constraints = [
            models.CheckConstraint(
                condition=Q(leased__lte=F("wanted")), name="queue_leases_within_wanted"
            ),
        ]
        # One for each band of annotate.turns, whose conditions are these word for word.
        indexes = [
            models.Index(
                fields=["model", "-priority", "pair"],
                condition=Q(wanted__gt=F("leased"), opinions=0, reserved_for=None),
                name="queue_fresh",
            ),
            models.Index(
                fields=["model", "last_labeler", "pair"],
                condition=Q(wanted__gt=F("leased"), opinions=1, reserved_for=None),
                name="queue_second",
            ),
            models.Index(
                fields=["model", "pair"],
                condition=Q(wanted__gt=F("leased"), opinions__gt=1, reserved_for=None),
                name="queue_third",
            ),
            models.Index(
                fields=["reserved_for", "model", "pair"],
                condition=Q(wanted__gt=F("leased"), reserved_for__isnull=False),
                name="queue_reserved",
            ),
        ]

    def __str__(self) -> str:
        """Return what waits."""
        return f"{self.pair_id} wants {self.wanted}"


class Tally(models.Model):
    """What is counted of one labeler and model, so that nobody counts while somebody waits; also their lock."""

    model = models.ForeignKey(RegisteredModel, models.CASCADE, related_name="+")
    labeler = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    #: Standing judgements.
    judged = models.PositiveIntegerField(default=0)
    #: The day of the latest of them, and how many were made on it.
    day = models.DateField(null=True, blank=True)
    today = models.PositiveIntegerField(default=0)
    #: How much more often the pair's first completion was on the left than on the right.
    sides_lead = models.SmallIntegerField(default=0)
    #: The same for the candidate in comparisons.
    compare_lead = models.SmallIntegerField(default=0)
    #: Judgements since the last mirrored repeat.
    since_repeat = models.PositiveIntegerField(default=0)
    #: Goes up with every change: who had to wait for the lock sees whether what they read is old.
    turn = models.PositiveBigIntegerField(default=0)

    class Meta:
        """Database rules."""

        verbose_name_plural = "tallies"
        constraints = [
            models.UniqueConstraint(fields=["model", "labeler"], name="tally_once"),
        ]

    def __str__(self) -> str:
        """Return whose it is."""
        return f"{self.labeler_id} of {self.model_id}: {self.judged}"


class Assignment(models.Model):
    """A lease of one pair to one labeler, and the sides as that labeler sees them."""

    uuid = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    pair = models.ForeignKey(Pair, models.PROTECT, related_name="assignments")
    labeler = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="assignments"
    )
    #: Whether the pair's first completion is on the left.
    first_is_left = models.BooleanField()
    assigned_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    #: Set when it no longer counts as a lease: judged, or expired and given back to the queue.
    closed_at = models.DateTimeField(null=True, blank=True)
    #: Judged after the pair had been given back to the queue, which does not count it: it comes on top.
    is_on_top = models.BooleanField(default=False)
    #: When its labeler put it off until nothing else waits.
    set_aside_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        """Database rules."""

        constraints = [
            models.UniqueConstraint(fields=["pair", "labeler"], name="assignment_once_per_labeler"),
        ]
        indexes = [
            models.Index(fields=["labeler", "assigned_at"], name="assignment_of_labeler"),
            models.Index(fields=["labeler", "closed_at"], name="assignment_judged_last"),
            # What a labeler holds, and as a whole what is to be given back: there are never many.
            models.Index(
                fields=["labeler", "expires_at"],
                condition=Q(closed_at=None),
                name="assignment_held",
            ),
        ]

    def __str__(self) -> str:
        """Return its uuid."""
        return str(self.uuid)

    @property
    def left(self) -> Completion:
        """The completion on the left."""
        return self.pair.first if self.first_is_left else self.pair.second

    @property
    def right(self) -> Completion:
        """The completion on the right."""
        return self.pair.second if self.first_is_left else self.pair.first


class Verdict(models.TextChoices):
    """What a labeler can say."""

    LEFT_MUCH = "left_much", "Left is much better"
    LEFT = "left", "Left is slightly better"
    TIE = "tie", "Equally good"
    RIGHT = "right", "Right is slightly better"
    RIGHT_MUCH = "right_much", "Right is much better"
    BOTH_BAD = "both_bad", "Both are bad"
    CANNOT_JUDGE = "cannot_judge", "I can't judge"


DECIDED = (Verdict.LEFT_MUCH, Verdict.LEFT, Verdict.RIGHT, Verdict.RIGHT_MUCH)

#: Why one answer is better, as the keys 1 to 7 say it: (stored, shown).
REASONS = [
    ("correct", "more correct"),
    ("follows", "follows the prompt"),
    ("clear", "clearer"),
    ("complete", "more complete"),
    ("brief", "to the point"),
    ("tone", "better tone"),
    ("safe", "safer"),
]
#: Why somebody cannot judge.
CANNOT = [
    ("expertise", "not my field"),
    ("broken", "the prompt is broken"),
    ("identical", "they are the same"),
    ("unsafe", "unsafe to judge"),
    ("other", "another reason"),
]


def reasons_of(verdict: str) -> dict[str, str]:
    """Return the reasons that go with a verdict, stored and shown; one that prefers neither answer has none."""
    if verdict in DECIDED:
        return dict(REASONS)
    return dict(CANNOT) if verdict == Verdict.CANNOT_JUDGE else {}


class Judgement(models.Model):
    """One revision of what a labeler said about an assignment. Append-only by a trigger."""

    class Input(models.TextChoices):
        """How it was said."""

        KEY = "key"
        BUTTON = "button"
        API = "api"

    assignment = models.ForeignKey(Assignment, models.PROTECT, related_name="judgements")
    #: 1 for the first; the highest one counts.
    revision = models.PositiveSmallIntegerField(default=1)
    #: Empty: this revision takes the judgement back.
    verdict = models.CharField(max_length=12, choices=Verdict, blank=True)
    winner = models.ForeignKey(Completion, models.PROTECT, null=True, blank=True, related_name="+")
    reasons = ArrayField(models.CharField(max_length=40), default=list, blank=True)
    note = models.TextField(blank=True)
    #: Milliseconds of active reading; idle minutes left out.
    active_ms = models.PositiveIntegerField(default=0)
    guidelines_version = models.PositiveIntegerField()
    #: It arrived after the lease had ended; kept all the same.
    is_late = models.BooleanField(default=False)
    #: When the labeler's screen showed the pair, if it says so.
    shown_at = models.DateTimeField(null=True, blank=True)
    input = models.CharField(max_length=6, choices=Input, default=Input.API)
    judged_at = models.DateTimeField()

    class Meta:
        """Database rules."""

        constraints = [
            models.UniqueConstraint(
                fields=["assignment", "revision"], name="judgement_revision_once"
            ),
            models.CheckConstraint(
                condition=Q(verdict__in=["", *Verdict.values]), name="judgement_verdict_known"
            ),
            models.CheckConstraint(
                condition=Q(input__in=["key", "button", "api"]), name="judgement_input_known"
            ),
            models.CheckConstraint(
                condition=Q(verdict__in=DECIDED, winner__isnull=False)
                | (~Q(verdict__in=DECIDED) & Q(winner=None)),
                name="judgement_decided_has_winner",
            ),
        ]
        indexes = [
            # Who changes what they said long ago works on that day, and is to find it in their hours.
            models.Index(
                fields=["judged_at"], condition=Q(revision__gt=1), name="judgement_changed"
            ),
        ]

    def __str__(self) -> str:
        """Return what was said."""
        return f"{self.assignment_id}: {self.verdict or 'taken back'}"


class Drop(models.Model):
    """How many completions of a version were not queued, by reason."""

    class Reason(models.TextChoices):
        """Why a completion makes no pair."""

        TRUNCATED = "truncated", "cut off at the token limit"
        EMPTY = "empty", "empty"
        NEAR_IDENTICAL = "near_identical", "nearly the same as the other one"
        IDENTITY = "identity", "tells which model wrote it"

    version = models.ForeignKey(ModelVersion, models.CASCADE, related_name="drops")
    reason = models.CharField(max_length=20, choices=Reason)
    count = models.PositiveBigIntegerField(default=0)

    class Meta:
        """Database rules."""

        constraints = [
            models.UniqueConstraint(fields=["version", "reason"], name="drop_once_per_reason"),
            models.CheckConstraint(
                condition=Q(reason__in=["truncated", "empty", "near_identical", "identity"]),
                name="drop_reason_known",
            ),
        ]

    def __str__(self) -> str:
        """Return the count."""
        return f"{self.version}: {self.count} {self.reason}"


class ComparisonDrop(models.Model):
    """A held-out prompt that a comparison goes without: nobody has to judge two equal answers."""

    class Reason(models.TextChoices):
        """Why its answers make no pair."""

        NEAR_IDENTICAL = "near_identical", "both answered the same"
        TRUNCATED = "truncated", "an answer was cut off at the token limit"
        EMPTY = "empty", "an answer was empty"
        IDENTITY = "identity", "an answer tells which model wrote it"
        USED = "used", "their answers were judged in an earlier comparison"

    comparison = models.ForeignKey(Comparison, models.CASCADE, related_name="drops")
    prompt = models.ForeignKey(Prompt, models.CASCADE, related_name="+")
    reason = models.CharField(max_length=20, choices=Reason)

    class Meta:
        """Database rules."""

        constraints = [
            models.UniqueConstraint(
                fields=["comparison", "prompt"], name="comparison_drop_once_per_prompt"
            ),
            models.CheckConstraint(
                condition=Q(
                    reason__in=["near_identical", "truncated", "empty", "identity", "used"]
                ),
                name="comparison_drop_reason_known",
            ),
        ]

    def __str__(self) -> str:
        """Return which prompt is left out and why."""
        return f"{self.prompt}: {self.reason}"


class Gold(models.Model):
    """A pair of which staff knows the better completion: a copy of one that was judged, served silently."""

    #: Of purpose gold, with the original's completions.
    pair = models.OneToOneField(Pair, models.PROTECT, primary_key=True, related_name="gold")
    model = models.ForeignKey(RegisteredModel, models.PROTECT, related_name="+")
    original = models.OneToOneField(Pair, models.PROTECT, related_name="gold_copy")
    expected = models.ForeignKey(Completion, models.PROTECT, related_name="+")
    #: Why that one is better, for whoever looks at the answers later.
    why = models.TextField(blank=True)
    made_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    made_at = models.DateTimeField()
    #: Not served any more since; what was said about it is kept.
    retired_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        """Database rules."""

        indexes = [
            models.Index(
                fields=["model", "-pair"], condition=Q(retired_at=None), name="gold_served"
            ),
        ]

    def __str__(self) -> str:
        """Return what it is a copy of."""
        return f"gold of {self.original}"


class Repeat(models.Model):
    """An assignment that shows a labeler their own judged pair again, with its sides swapped."""

    assignment = models.OneToOneField(
        Assignment, models.PROTECT, primary_key=True, related_name="repeat"
    )
    model = models.ForeignKey(RegisteredModel, models.PROTECT, related_name="+")
    original = models.OneToOneField(Assignment, models.PROTECT, related_name="repeated")
    made_at = models.DateTimeField()

    class Meta:
        """Database rules."""

        indexes = [models.Index(fields=["model", "-made_at"], name="repeat_newest")]

    def __str__(self) -> str:
        """Return what it repeats."""
        return f"again {self.original}"


class Flag(models.Model):
    """A labeler's mark on an assignment that staff should look at. Open until taken back or resolved."""

    assignment = models.ForeignKey(Assignment, models.PROTECT, related_name="flags")
    model = models.ForeignKey(RegisteredModel, models.PROTECT, related_name="+")
    note = models.TextField(blank=True)
    raised_at = models.DateTimeField()
    taken_back_at = models.DateTimeField(null=True, blank=True)
    resolved_at = models.DateTimeField(null=True, blank=True)
    resolved_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, blank=True, related_name="+"
    )
    #: What staff says to it, a sentence.
    resolution = models.TextField(blank=True)

    class Meta:
        """Database rules."""

        constraints = [
            models.UniqueConstraint(
                fields=["assignment"],
                condition=Q(taken_back_at=None, resolved_at=None),
                name="flag_open_once",
            ),
            models.CheckConstraint(
                condition=Q(taken_back_at=None) | Q(resolved_at=None), name="flag_ends_once"
            ),
            models.CheckConstraint(
                condition=Q(resolved_at=None, resolved_by=None, resolution="")
                | (Q(resolved_at__isnull=False, resolved_by__isnull=False) & ~Q(resolution="")),
                name="flag_resolved_by_somebody",
            ),
        ]
        indexes = [
            models.Index(
                fields=["model", "-raised_at"],
                condition=Q(taken_back_at=None),
                name="flag_raised",
            ),
        ]

    def __str__(self) -> str:
        """Return where it is."""
        return f"flag on {self.assignment_id}"
