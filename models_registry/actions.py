"""Everything that is written about models, members, versions and aliases."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Max, ProtectedError, Q, QuerySet

from models_registry import bases, canary, queries, store
from models_registry.engine.types import Engine, EngineError, EngineUnreachable
from models_registry.models import (
    Alias,
    AliasMove,
    Comparison,
    ModelVersion,
    Outcome,
    RegisteredModel,
    Serving,
)
from models_registry.store import Artifact
from pairloop.lib import edits
from pairloop.lib.errors import Refused

logger = logging.getLogger(__name__)


#: An engine that lives may fail once for reasons of its own; after this many times it is the version's fault.
MOST_TRIES = 3
#: Prompts of one comparison.
MOST_BUDGET = 1000


class ModelExists(Refused):
    """A model with this slug is registered already."""

    code = "model_exists"


class ModelInvalid(Refused):
    """The model's fields are not valid."""

    code = "model_invalid"


class VersionUnverified(Refused):
    """The engine has not confirmed this version yet; wait until it is verified."""

    code = "version_unverified"


class AlreadyChampion(Refused):
    """This version is the champion already."""

    code = "already_champion"


class ReasonMissing(Refused):
    """Say why: the reason stays in the champion's history."""

    code = "reason_missing"


class AliasFollowsPolicy(Refused):
    """Only champion is moved by hand."""

    code = "alias_follows_policy"


class ChampionMoved(Refused):
    """The champion is another version by now. Look at the history before you roll back."""

    code = "champion_moved"


class NothingToRollBack(Refused):
    """The champion never was another version, so there is nothing to roll back to."""

    code = "nothing_to_roll_back"


class RollbackUnusable(Refused):
    """The version before cannot be champion again."""

    code = "rollback_unusable"


class SameVersion(Refused):
    """A version cannot be compared with itself. Choose two versions."""

    code = "same_version"


class ComparisonOpen(Refused):
    """These two versions are being compared already. Wait for it, or close it first."""

    code = "comparison_open"


class BudgetInvalid(Refused):
    """Choose another number of prompts."""

    code = "budget_invalid"


@transaction.atomic
def model_prepare(*, slug: str, name: str, source: str, lora_rank: int = 16) -> RegisteredModel:
    """Announce a model whose base is about to be made. Raises ModelExists once its base is there."""
    model = RegisteredModel.objects.select_for_update().filter(slug=slug).first()
    if model is None:
        model = RegisteredModel(slug=slug)
    elif model.is_ready:
        raise ModelExists(f"A model {slug} is registered already; choose another slug.")
    model.name, model.base_source = name, source
    model.lora_rank, model.lora_alpha = lora_rank, 2 * lora_rank
    model.state, model.failure = RegisteredModel.State.PREPARING, ""
    try:
        model.full_clean()
    except ValidationError as error:
        raise ModelInvalid(" ".join(error.messages)) from error
    model.save()
    return model


@transaction.atomic
def model_change(*, model: RegisteredModel, values: Mapping[str, Any], seen: str) -> None:
    """Change a model's name. `seen` is as in `edits.save`. Raises ChangedMeanwhile, SettingsInvalid."""
    edits.save(_locked(model), values=values, seen=seen)


@transaction.atomic
def base_register(*, model: RegisteredModel, base: bases.Base, now: datetime) -> ModelVersion:
    """Record a base that is in the store as v0, and let `sampler` and `champion` point at it."""
    locked = RegisteredModel.objects.select_for_update().get(pk=model.pk)
    if locked.is_ready:
        raise ModelExists(f"A model {model} is registered already; choose another slug.")
    locked.base_path = base.sha256
    locked.base_sha256 = base.base_sha256
    locked.tokenizer_sha256 = base.tokenizer_sha256
    locked.chat_template_sha256 = base.chat_template_sha256
    locked.parameters = base.parameters
    locked.context_length = base.context_length
    locked.state = RegisteredModel.State.READY
    locked.save()
    version = ModelVersion.objects.create(
        model=locked,
        number=0,
        kind=ModelVersion.Kind.BASE,
        artifact_path=base.sha256,
        sha256=base.sha256,
        size_bytes=base.size_bytes,
        # It was loaded and has answered a prompt before it came here.
        state=ModelVersion.State.VERIFIED,
    )
    for name in (Alias.SAMPLER, Alias.CHAMPION):
        alias_move(model=locked, name=name, version=version, by=None, reason="The base.", now=now)
    return version


def base_refused(*, model: RegisteredModel, reason: str) -> None:
    """Forget a model that nobody waits for; otherwise keep why its base could not be made, for their page."""
    if not model.memberships.exists():
        try:
            with transaction.atomic():
                RegisteredModel.objects.exclude(state=RegisteredModel.State.READY).get(
                    pk=model.pk
                ).delete()
        except (ProtectedError, RegisteredModel.DoesNotExist):
            pass  # It has prompts, or it became ready meanwhile.
        else:
            return
    RegisteredModel.objects.filter(pk=model.pk).exclude(state=RegisteredModel.State.READY).update(
        state=RegisteredModel.State.FAILED, failure=reason
    )


@transaction.atomic
def version_register(
    *,
    model: RegisteredModel,
    parent: ModelVersion,
    artifact: Artifact,
    metrics: dict[str, Any],
    card: str,
    now: datetime,
    reason: str = "The newest round's result.",
) -> ModelVersion:
    """Record an adapter that is in the store as the model's next version and as `challenger`.

    Locks the model until the caller's transaction ends, so two at once get two numbers.
    """
    locked = _locked(model)
    number = locked.versions.aggregate(last=Max("number"))["last"] + 1
    version = ModelVersion.objects.create(
        model=locked,
        number=number,
        parent=parent,
        kind=ModelVersion.Kind.ADAPTER,
        artifact_path=artifact.path.name,
        sha256=artifact.sha256,
        size_bytes=artifact.size_bytes,
        metrics=metrics,
        card=card,
    )
    alias_move(
        model=locked, name=Alias.CHALLENGER, version=version, by=None,
        reason=reason, now=now,
    )  # fmt: skip
    return version


def version_measured(*, version: ModelVersion, metrics: dict[str, Any]) -> None:
    """Add what was measured on a version to its metrics; the same name replaces what was there."""
    with transaction.atomic():
        locked = ModelVersion.objects.select_for_update().get(pk=version.pk)
        ModelVersion.objects.filter(pk=locked.pk).update(metrics=locked.metrics | metrics)


# --- Aliases -------------------------------------------------------------------------------------------


def _locked(model: RegisteredModel) -> RegisteredModel:
    """Lock a model, and with it where its aliases point and what they may point at."""
    return RegisteredModel.objects.select_for_update(no_key=True).get(pk=model.pk)


@transaction.atomic
def alias_move(
    *,
    model: RegisteredModel,
    name: str,
    version: ModelVersion,
    by: User | None,
    reason: str,
    now: datetime,
    gate_result: dict[str, Any] | None = None,
) -> AliasMove:
    """Point an alias at a version and keep who, when and why; of a promotion also what people proved."""
    alias = Alias.objects.select_for_update().filter(model=model, name=name).first()
    before = alias.version if alias else None
    Alias.objects.update_or_create(model=model, name=name, defaults={"version": version})
    return AliasMove.objects.create(
        model=model,
        name=name,
        from_version=before,
        to_version=version,
        moved_by=by,
        reason=reason,
        gate_result=gate_result or {},
        moved_at=now,
    )


@transaction.atomic
def sampler_settle(*, model: RegisteredModel, policy: str, now: datetime) -> AliasMove | None:
    """Point `sampler` where the policy wants it; None when it is there, or nothing is fit for it.

    "latest": the newest verified version that no guardrail stopped; "champion": the champion.
    """
    locked = _locked(model)
    version = queries.sampler_wanted(model=locked, policy=policy)
    now_at = Alias.objects.filter(model=locked, name=Alias.SAMPLER).first()
    if version is None or (now_at and now_at.version_id == version.pk):
        return None
    reason = (
        "The champion samples." if policy == "champion" else "The newest verified version samples."
    )
    return alias_move(
        model=locked, name=Alias.SAMPLER, version=version, by=None, reason=reason, now=now
    )


@transaction.atomic
def version_promote(
    *, model: RegisteredModel, version: ModelVersion, by: User, reason: str, now: datetime
) -> AliasMove:
    """Make a verified version the champion, and keep what the newest comparison with the old one proves.

    Without a comparison it is kept that there was none. Raises ReasonMissing, VersionUnverified,
    AlreadyChampion.
    """
    if not reason.strip():
        raise ReasonMissing
    locked = _locked(model)
    version = locked.versions.get(pk=version.pk)
    if not version.is_verified:
        raise VersionUnverified(_why_unverified(version))
    if Alias.objects.filter(model=locked, name=Alias.CHAMPION, version=version).exists():
        raise AlreadyChampion
    gate = queries.gate_result(version, champion=queries.champion_of(locked))
    return alias_move(
        model=locked, name=Alias.CHAMPION, version=version, by=by, reason=reason.strip(), now=now,
        gate_result=gate,
    )  # fmt: skip


@transaction.atomic
def version_rollback(
    *,
    model: RegisteredModel,
    by: User,
    reason: str,
    now: datetime,
    champion: int | None = None,
) -> AliasMove:
    """Make the version champion that was it before the last move.

    `champion` is the number of the version that the caller takes for the champion: the same request sent
    twice must not go there and back. Raises ReasonMissing, ChampionMoved, NothingToRollBack,
    RollbackUnusable.
    """
    if not reason.strip():
        raise ReasonMissing
    locked = _locked(model)
    at = Alias.objects.filter(model=locked, name=Alias.CHAMPION)
    if champion is not None and not at.filter(version__number=champion).exists():
        raise ChampionMoved
    before = queries.champion_before(locked)
    if before is None:
        raise NothingToRollBack
    if not before.is_verified:
        raise RollbackUnusable(
            f"The champion before was {before.label}, which is {before.state} now. "
            "Promote another version instead."
        )
    return alias_move(
        model=locked, name=Alias.CHAMPION, version=before, by=by, reason=reason.strip(), now=now
    )


def _why_unverified(version: ModelVersion) -> str:
    if version.state == ModelVersion.State.REGISTERED:
        return (
            f"{version.label} is not verified: no engine has confirmed yet that it computes what the "
            "trainer did. Wait for it, or see on its page why the check failed."
        )
    return f"{version.label} is {version.state}; only a verified version can be champion."


# --- Comparisons ---------------------------------------------------------------------------------------


@transaction.atomic
def comparison_open(
    *,
    model: RegisteredModel,
    candidate: ModelVersion,
    incumbent: ModelVersion,
    budget: int,
    available: int,
    by: User,
) -> Comparison:
    """Begin to compare two verified versions on `budget` of the `available` held-out prompts.

    Locks the model. Raises SameVersion, VersionUnverified, BudgetInvalid, ComparisonOpen.
    """
    locked = _locked(model)
    versions = [locked.versions.get(pk=version.pk) for version in (candidate, incumbent)]
    if versions[0] == versions[1]:
        raise SameVersion
    for version in versions:
        if not version.is_verified:
            raise VersionUnverified(
                f"{version.label} is {version.state}; only verified versions can be compared."
            )
    _budget_check(budget, available)
    both = Q(candidate=candidate, incumbent=incumbent) | Q(candidate=incumbent, incumbent=candidate)
    if locked.comparisons.filter(both, state=Comparison.State.OPEN).exists():
        raise ComparisonOpen
    return Comparison.objects.create(
        model=locked, candidate=candidate, incumbent=incumbent, budget=budget, created_by=by
    )


def _budget_check(budget: int, available: int) -> None:
    if available == 0:
        raise BudgetInvalid(
            "No prompt is held out yet. Import prompts: about one in five is held out, and only those can"
            " prove something about a version."
        )
    most = min(available, MOST_BUDGET)
    if not 1 <= budget <= most:
        raise BudgetInvalid(f"Choose 1 to {most} prompts; {available} are held out.")


def comparison_close(*, comparison: Comparison, now: datetime) -> None:
    """Stop collecting judgements for a comparison; one that has ended stays as it is."""
    _comparison_end(comparison, state=Comparison.State.CLOSED, now=now)


def comparison_settle(*, comparison: Comparison, is_spent: bool, now: datetime) -> None:
    """End a comparison that more judgements would not change, or that has used up its prompts."""
    if queries.comparison_evidence(comparison).is_decided:
        _comparison_end(comparison, state=Comparison.State.DECIDED, now=now)
    elif is_spent:
        _comparison_end(comparison, state=Comparison.State.CLOSED, now=now)


def _comparison_end(comparison: Comparison, *, state: str, now: datetime) -> None:
    Comparison.objects.filter(pk=comparison.pk, state=Comparison.State.OPEN).update(
        state=state, ended_at=now
    )


@dataclass(frozen=True, slots=True)
class Judged:
    """What is kept of the pair that a compare-judgement is about."""

    prompt_key: str
    tags: list[str]
    candidate_left: bool
    candidate_tokens: int | None
    incumbent_tokens: int | None


def outcome_record(
    *,
    comparison_id: int,
    source: UUID,
    labeler_id: int,
    kind: str,
    winner_id: int | None,
    judged: Judged,
    now: datetime,
) -> Outcome:
    """Record what one judgement said about two versions; also after the comparison has ended.

    Everything goes by id: whoever judges should not wait for rows that are only named.
    """
    return Outcome.objects.create(
        comparison_id=comparison_id,
        source=source,
        labeler_id=labeler_id,
        kind=kind,
        winner_id=winner_id,
        recorded_at=now,
        **asdict(judged),
    )


def outcome_withdraw(*, source: UUID, now: datetime) -> None:
    """Let the outcome of a judgement that was taken back count no more."""
    Outcome.objects.filter(source=source, withdrawn_at=None).update(withdrawn_at=now)


# --- Engine --------------------------------------------------------------------------------------------


def engine_reconcile(*, engine: Engine, engine_url: str, now: datetime) -> None:
    """Load every wanted adapter that an engine lacks, and check that it computes what the trainer did.

    Level-triggered: it compares what is wanted with what the engine lists, so it may run at any time. The
    engine is never called inside a transaction.
    """
    try:
        names = engine.models()
    except EngineUnreachable:
        # The process is gone, and with it whatever was loaded into it.
        _engine_forget(engine_url)
        return
    except EngineError as error:
        logger.warning("the engine at %s could not be asked: %s", engine_url, error)
        return
    servings = Serving.objects.select_related("version").filter(engine=engine_url)
    if any(serving.loaded_at and serving.version.served_name not in names for serving in servings):
        # Nothing is ever unloaded that passed, so this is another process than last time.
        _engine_forget(engine_url)
    for base in queries.bases_served(names):
        _loaded(base, engine_url=engine_url, now=now)
    settled = queries.settled_ids(engine_url)
    for version in queries.versions_wanted(names):
        if version.pk not in settled:
            _adapter_bring(
                version, engine=engine, engine_url=engine_url,
                is_listed=version.served_name in names, now=now,
            )  # fmt: skip


def _engine_forget(engine_url: str) -> None:
    _forget(Serving.objects.filter(engine=engine_url))


def engines_forget() -> None:
    """Take nothing for loaded on any engine: this database came from another machine."""
    _forget(Serving.objects.all())


def _forget(servings: QuerySet[Serving]) -> None:
    """Take nothing for loaded any more, and give what failed its check another try."""
    servings.filter(loaded_at__isnull=False).update(loaded_at=None)
    servings.filter(canary__passed=False).update(canary={})


def _adapter_bring(
    version: ModelVersion, *, engine: Engine, engine_url: str, is_listed: bool, now: datetime
) -> None:
    """Load an adapter, unless a tick that was cut short did, and let it sing."""
    name, folder = version.served_name, store.path_of(version)
    try:
        is_whole = store.artifact_is_whole(version)
    except OSError as error:
        # That says nothing about the version; a condemned one would never be used again.
        logger.warning("%s could not be read: %s", version, error)
        return
    if not is_whole:
        version_condemn(version=version, now=now)
        return
    try:
        if not is_listed:
            engine.adapter_load(name=name, path=str(folder))
        found = canary.measure(engine, name=name, folder=folder)
    except EngineError as error:
        if not error.permanent and _tries(version, engine_url) < MOST_TRIES:
            logger.warning("%s is not loaded yet: %s", version, error)
            return
        found = canary.Canary(passed=False, note=str(error))
    except ValueError as error:
        # The store takes no such artifact, but a version may have been written past it.
        found = canary.Canary(passed=False, note=str(error))
    if not found.passed:
        logger.error("%s failed its check on %s: %s", version, engine_url, found.note)
        _adapter_drop(name, engine)
    canary_record(version=version, engine_url=engine_url, found=found, now=now)


def _tries(version: ModelVersion, engine_url: str) -> int:
    """Count one more attempt at a version on an engine, until it passes or the engine is started anew."""
    serving, _ = Serving.objects.get_or_create(version=version, engine=engine_url)
    tries = int(serving.canary.get("tries", 0)) + 1
    Serving.objects.filter(pk=serving.pk).update(canary={"tries": tries})
    return tries


def _adapter_drop(name: str, engine: Engine) -> None:
    try:
        engine.adapter_unload(name=name)
    except EngineError as error:
        # It was never loaded, or it stays listed under a name that nobody asks.
        logger.info("%s could not be unloaded: %s", name, error)


@transaction.atomic
def canary_record(
    *, version: ModelVersion, engine_url: str, found: canary.Canary, now: datetime
) -> None:
    """Keep what an adapter's check on an engine found; the first good one verifies the version."""
    Serving.objects.update_or_create(
        version=version,
        engine=engine_url,
        defaults={"loaded_at": now if found.passed else None, "canary": asdict(found)},
    )
    if found.passed:
        ModelVersion.objects.filter(pk=version.pk, state=ModelVersion.State.REGISTERED).update(
            state=ModelVersion.State.VERIFIED
        )


def _loaded(base: ModelVersion, *, engine_url: str, now: datetime) -> None:
    """Keep since when an engine serves a base."""
    serving, _ = Serving.objects.get_or_create(version=base, engine=engine_url)
    if serving.loaded_at is None:
        Serving.objects.filter(pk=serving.pk).update(loaded_at=now)


def version_condemn(*, version: ModelVersion, now: datetime) -> None:
    """Mark a version as corrupt for good; its aliases fall back to the newest verified ancestor."""
    logger.error("%s is corrupt: %s is not what was stored", version, store.path_of(version))
    reason = f"{version.label} is corrupt: its files are not what was stored."
    _version_drop(version, state=ModelVersion.State.CORRUPT, reason=reason, now=now)


def version_retire(*, version: ModelVersion, now: datetime) -> None:
    """Give up a version that no engine serves as it was trained; its aliases fall back like those of a corrupt one."""
    reason = f"No engine serves {version.label} as it was trained."
    _version_drop(version, state=ModelVersion.State.RETIRED, reason=reason, now=now)


@transaction.atomic
def _version_drop(version: ModelVersion, *, state: str, reason: str, now: datetime) -> None:
    locked = _locked(version.model)
    gone = [ModelVersion.State.CORRUPT, ModelVersion.State.RETIRED]
    dropped = locked.versions.filter(pk=version.pk).exclude(state__in=gone).update(state=state)
    if not dropped:
        return
    Serving.objects.filter(version=version).update(loaded_at=None)
    ancestor = queries.ancestor_verified(version)
    for alias in Alias.objects.filter(version=version).order_by("name"):
        if ancestor:
            alias_move(
                model=locked, name=alias.name, version=ancestor, by=None, reason=reason, now=now
            )
