"""What everything above reads about models, members, versions and the engine's start-up."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db.models import Count, Exists, OuterRef, Q, QuerySet

from models_registry import serving
from models_registry.engine.types import EngineError
from models_registry.models import (
    Alias,
    AliasMove,
    Comparison,
    ModelVersion,
    Outcome,
    Play,
    RegisteredModel,
    Serving,
)
from models_registry.stats import evidence
from models_registry.stats.evidence import Evidence, Vote
from pairloop.lib import files
from pairloop.lib.statements import Columns, Statement

#: Adapters that an engine keeps in memory; with more, it would read them from disk again and again.
MOST_WANTED = 8


def models_of(user: User) -> QuerySet[RegisteredModel]:
    """Select the models that a user may see: all for admins, their memberships for labelers."""
    models = RegisteredModel.objects.order_by("created_at", "id")
    return models if user.is_staff else models.filter(memberships__user=user)


_MODEL = Columns("model", RegisteredModel)
#: By the rule of models_of, for nearly every request.
MODEL_OF = Statement(
    "registry_model_of",
    f"""
    SELECT {_MODEL.sql} FROM models_registry_registeredmodel model
    WHERE model.slug = %(slug)s AND (%(is_staff)s::bool OR EXISTS (
        SELECT FROM models_registry_membership member
        WHERE member.model_id = model.id AND member.user_id = %(user)s))
""",  # noqa: S608 columns of ours
)


def model_of(*, user: User, slug: str) -> RegisteredModel:
    """Return a model that the user may see; raises RegisteredModel.DoesNotExist for any other."""
    row = MODEL_OF.row({"slug": slug, "user": user.pk, "is_staff": user.is_staff})
    if row is None:
        raise RegisteredModel.DoesNotExist
    found: RegisteredModel = _MODEL.instance(row)
    return found


def model_announced(slug: str) -> RegisteredModel | None:
    """Return the model of this name, whether its base is there yet or not."""
    return RegisteredModel.objects.filter(slug=slug).first()


def base_version(slug: str) -> ModelVersion | None:
    """Return v0 of a model, once its base is in the store."""
    return ModelVersion.objects.select_related("model").filter(model__slug=slug, number=0).first()


def models_all() -> list[RegisteredModel]:
    """Return every model, the oldest first."""
    return list(RegisteredModel.objects.order_by("created_at", "id"))


def models_ready() -> list[RegisteredModel]:
    """Return the models whose base is in the store."""
    return list(RegisteredModel.objects.filter(state=RegisteredModel.State.READY).order_by("id"))


def models_served(names: Sequence[str]) -> list[RegisteredModel]:
    """Return the ready models whose sampler version an engine of ours serves, and has been checked to.

    `names` are that engine's served names. Two queries.
    """
    samplers = Alias.objects.select_related("version__model").filter(name=Alias.SAMPLER)
    loaded = _loaded_ids()
    return [
        alias.version.model
        for alias in samplers.order_by("model_id")
        if alias.version.served_name in names
        and (alias.version.is_base or alias.version_id in loaded)
    ]


def bases_served(names: Sequence[str]) -> list[ModelVersion]:
    """Return the bases among an engine's served names."""
    bases = ModelVersion.objects.filter(kind=ModelVersion.Kind.BASE).order_by("id")
    return [base for base in bases if base.served_name in names]


def versions_wanted(names: Sequence[str]) -> list[ModelVersion]:
    """Return the adapters that an engine with these served names should have loaded, at most eight.

    Those behind an alias come first, then those that somebody waits for in the playground, then those that
    are compared or wait to be measured against their parent; the newest first among equals.
    """
    models = [base.model_id for base in bases_served(names)]
    compared = Comparison.objects.filter(
        Q(candidate=OuterRef("pk")) | Q(incumbent=OuterRef("pk")), state=Comparison.State.OPEN
    )
    played = Play.objects.filter(
        Q(left_version=OuterRef("pk")) | Q(right_version=OuterRef("pk")), state=Play.State.WAITING
    )
    unmeasured = ModelVersion.objects.filter(
        ~Q(metrics__has_key="evaluation"),
        kind=ModelVersion.Kind.ADAPTER,
        state__in=[ModelVersion.State.REGISTERED, ModelVersion.State.VERIFIED],
    )
    return list(
        ModelVersion.objects.select_related("model")
        .annotate(
            is_aliased=Exists(Alias.objects.filter(version=OuterRef("pk"))),
            is_compared=Exists(compared),
            is_played=Exists(played),
        )
        .filter(
            Q(is_aliased=True)
            | Q(is_played=True)
            | Q(is_compared=True)
            | Q(pk__in=unmeasured)
            | Q(pk__in=unmeasured.values("parent")),
            model__in=models,
            kind=ModelVersion.Kind.ADAPTER,
            state__in=[ModelVersion.State.REGISTERED, ModelVersion.State.VERIFIED],
        )
        .order_by("-is_aliased", "-is_played", "-number", "-id")[:MOST_WANTED]
    )


def engine_is_complete(names: Sequence[str]) -> bool:
    """Whether an engine of ours, with these served names, has everything wanted, loaded and checked."""
    loaded, failed = _loaded_ids(), _failed_ids()
    return all(
        version.served_name in names and version.pk in loaded
        for version in versions_wanted(names)
        if version.pk not in failed
    )


def version_is_served(version: ModelVersion, names: Sequence[str]) -> bool:
    """Whether an engine of ours, with these served names, answers as a version does, and was checked to."""
    return version.served_name in names and (version.is_base or version.pk in _loaded_ids())


def versions_unloaded(versions: Sequence[ModelVersion]) -> list[ModelVersion]:
    """Return which of these versions no engine of ours has loaded and checked."""
    loaded = _loaded_ids()
    return [version for version in versions if version.pk not in loaded]


def _loaded_ids() -> set[int]:
    """Return the adapters that our engines serve and that passed their check there."""
    return _ids(serving.urls(), Q(loaded_at__isnull=False))


def _failed_ids() -> set[int]:
    """Return the adapters that did not pass their check in our engines' present processes."""
    return _ids(serving.urls(), Q(canary__passed=False))


def settled_ids(engine_url: str) -> set[int]:
    """Return the adapters with which nothing is left to do in an engine's present process."""
    return _ids([engine_url], Q(loaded_at__isnull=False) | Q(canary__passed=False))


def _ids(engine_urls: list[str], which: Q) -> set[int]:
    servings = Serving.objects.filter(which, engine__in=engine_urls)
    return set(servings.values_list("version_id", flat=True))


def canary_failure(version: ModelVersion) -> str:
    """Say why the engine cannot serve a version as it was trained; empty while it has not found so."""
    failed = version.servings.filter(
        engine__in=serving.urls(), loaded_at=None, canary__passed=False
    ).first()
    if failed is None:
        return ""
    return f"The engine does not compute with {version.label} what the trainer did: {failed.canary['note']}"


def ancestor_verified(version: ModelVersion) -> ModelVersion | None:
    """Return the newest verified version that this one was made from; a query per generation."""
    ancestor = version.parent
    while ancestor and not ancestor.is_verified:
        ancestor = ancestor.parent
    return ancestor


def versions_of(model: RegisteredModel) -> QuerySet[ModelVersion]:
    """Select a model's versions, the newest first, with parent, aliases and where they are served."""
    return (
        ModelVersion.objects.select_related("model", "parent")
        .prefetch_related("aliases", "servings")
        .filter(model=model)
        .order_by("-number")
    )


def version_of_alias(*, model: RegisteredModel, name: str) -> ModelVersion:
    """Return the version behind an alias; raises Alias.DoesNotExist before the model is ready."""
    return Alias.objects.select_related("version__model").get(model=model, name=name).version


def aliases_of(model: RegisteredModel) -> dict[str, str]:
    """Return the label of the version behind each alias, by the alias's name."""
    aliases = Alias.objects.select_related("version").filter(model=model)
    return {alias.name: alias.version.label for alias in aliases}


def version_numbered(*, model: RegisteredModel, number: int) -> ModelVersion:
    """Return a model's version by its number; raises ModelVersion.DoesNotExist."""
    return ModelVersion.objects.select_related("model").get(model=model, number=number)


def sampler_wanted(*, model: RegisteredModel, policy: str) -> ModelVersion | None:
    """Return the version that a policy lets sample, None when none is fit for it.

    "latest": the newest verified version of a round that no guardrail stopped; "champion": the champion. What failed
    its check in the engine's present process is passed over, for the champion's nearest good ancestor.
    """
    failed = _failed_ids()
    if policy == "champion":
        found = champion_of(model)
        while found and (not found.is_verified or found.pk in failed):
            found = found.parent
        return found
    verified = model.versions.filter(state=ModelVersion.State.VERIFIED).exclude(pk__in=failed)
    return next(
        (version for version in verified.order_by("-number") if _may_sample(version)),
        None,
    )


def _may_sample(version: ModelVersion) -> bool:
    """Whether no guardrail stopped a version. On a mean of others none is measured, so people must prove it."""
    return not version.average and not guardrails_failed(version)


def average_said(average: Mapping[str, Any]) -> str:
    """Write of which versions one is the mean, as in v2 (50%) and v3 (50%)."""
    parts = [f"v{part['number']} ({part['share']:.0%})" for part in average["versions"]]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def guardrails_failed(version: ModelVersion) -> bool:
    """Whether a version's evaluation broke one of the automatic limits."""
    return bool(version.metrics.get("guardrails", {}).get("failed"))


def champion_of(model: RegisteredModel) -> ModelVersion | None:
    """Return the champion, None before the model is ready."""
    return model.versions.filter(aliases__name=Alias.CHAMPION).first()


def champion_before(model: RegisteredModel) -> ModelVersion | None:
    """Return the version that was champion before the last move, None when there was none."""
    last = _champion_moves(model).first()
    return last.from_version if last else None


def champion_moves(model: RegisteredModel) -> list[AliasMove]:
    """Return who moved a model's champion where, when and why, the newest first."""
    return list(_champion_moves(model))


def _champion_moves(model: RegisteredModel) -> QuerySet[AliasMove]:
    return (
        AliasMove.objects.select_related("from_version__model", "to_version__model", "moved_by")
        .filter(model=model, name=Alias.CHAMPION)
        .order_by("-id")
    )


# --- Comparisons ---------------------------------------------------------------------------------------


def comparisons_of(model: RegisteredModel) -> QuerySet[Comparison]:
    """Select a model's comparisons, the newest first."""
    return (
        Comparison.objects.select_related(
            "model", "candidate__model", "incumbent__model", "created_by"
        )
        .filter(model=model)
        .order_by("-pk")
    )


def comparisons_open(model: RegisteredModel) -> list[Comparison]:
    """Return the comparisons of a model that still collect judgements, the oldest first."""
    return list(comparisons_of(model).filter(state=Comparison.State.OPEN).order_by("pk"))


def comparison_of(*, model: RegisteredModel, pk: int) -> Comparison:
    """Return a model's comparison by its id; raises Comparison.DoesNotExist."""
    return comparisons_of(model).get(pk=pk)


@dataclass(frozen=True, slots=True)
class ComparisonCount:
    """A comparison in a line."""

    versions: str
    outcomes: int
    budget: int


def comparison_newest(model: RegisteredModel) -> ComparisonCount | None:
    """Return a model's newest comparison with how many of its outcomes stand. One query."""
    standing = Count("outcomes", filter=Q(outcomes__withdrawn_at=None))
    found = comparisons_of(model).annotate(standing=standing).first()
    if found is None:
        return None
    versions = f"{found.candidate.label} against {found.incumbent.label}"
    return ComparisonCount(versions=versions, outcomes=found.standing, budget=found.budget)


def versions_by_id(ids: Sequence[int]) -> list[ModelVersion]:
    """Return versions by their ids, in this order; raises KeyError for an unknown one."""
    found = ModelVersion.objects.select_related("model").in_bulk(ids)
    return [found[one] for one in ids]


def comparison_last(*, candidate: ModelVersion, incumbent: ModelVersion) -> Comparison | None:
    """Return the newest comparison of a candidate with an incumbent."""
    found = comparisons_of(candidate.model).filter(candidate=candidate, incumbent=incumbent)
    return found.first()


def comparison_evidence(comparison: Comparison) -> Evidence:
    """Weigh the outcomes of a comparison that stand, in the order in which they were recorded. Two queries."""
    standing = Outcome.objects.filter(withdrawn_at=None)
    outcomes = standing.filter(comparison=comparison).order_by("recorded_at", "pk")
    earlier = standing.filter(
        Q(comparison__candidate=comparison.incumbent_id)
        | Q(comparison__incumbent=comparison.incumbent_id),
        comparison__lt=comparison.pk,
    )
    kinds = earlier.order_by("pk").values_list("kind", flat=True)
    return evidence.evidence_of(
        [_vote(outcome, comparison) for outcome in outcomes],
        earlier=[kind == Outcome.Kind.BOTH_BAD for kind in kinds],
    )


def _vote(outcome: Outcome, comparison: Comparison) -> Vote:
    tokens = outcome.candidate_tokens, outcome.incumbent_tokens
    return Vote(
        prompt=outcome.prompt_key,
        labeler=outcome.labeler_id,
        kind=_kind(outcome, comparison),
        tags=tuple(outcome.tags),
        candidate_left=outcome.candidate_left,
        length=log(tokens[0] / tokens[1]) if tokens[0] and tokens[1] else None,
    )


def _kind(outcome: Outcome, comparison: Comparison) -> evidence.Kind:
    match outcome.kind:
        case Outcome.Kind.TIE:
            return "tie"
        case Outcome.Kind.BOTH_BAD:
            return "both_bad"
        case _:
            return "win" if outcome.winner_id == comparison.candidate_id else "loss"


def gate_result(version: ModelVersion, *, champion: ModelVersion | None) -> dict[str, Any]:
    """Return what the newest comparison of a version with the champion proves, as a promotion keeps it."""
    comparison = comparison_last(candidate=version, incumbent=champion) if champion else None
    if comparison is None:
        return {"comparison": None, "passed": False}
    found = comparison_evidence(comparison)
    if not (found.wins or found.losses or found.ties or found.both_bad):
        # Asked, but nobody has answered.
        return {"comparison": None, "passed": False}
    return {
        "comparison": comparison.pk,
        "incumbent": comparison.incumbent.number,
        "passed": found.passed,
        "evidence": found.evidence,
        "wins": found.wins,
        "losses": found.losses,
        "ties": found.ties,
        "both_bad": found.both_bad,
        "checks": [asdict(check) for check in found.checks],
        "left_out": list(found.left_out),
    }


# --- Engine --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stage:
    """One step on the way from a start to an engine that samples."""

    title: str
    #: "waiting", "running", "done" or "failed".
    state: str
    #: One sentence for whoever waits.
    detail: str
    #: Seconds it should still take; None when nobody knows.
    seconds_left: int | None

    @property
    def is_running(self) -> bool:
        """Whether it is under way."""
        return self.state == "running"

    @property
    def is_done(self) -> bool:
        """Whether it is over."""
        return self.state == "done"

    @property
    def has_failed(self) -> bool:
        """Whether somebody has to look at it."""
        return self.state == "failed"


@dataclass(frozen=True, slots=True)
class EngineProgress:
    """Where the engine's start is. Empty stages: no supervisor runs here."""

    stages: tuple[Stage, ...]

    @property
    def is_ready(self) -> bool:
        """Whether nothing is left to wait for."""
        return all(stage.is_done for stage in self.stages)

    @property
    def failed(self) -> Stage | None:
        """The stage that somebody has to look at."""
        return next((stage for stage in self.stages if stage.has_failed), None)

    @property
    def seconds_left(self) -> int | None:
        """Seconds until the engine answers; None when nobody knows or nothing is left."""
        left = [stage.seconds_left for stage in self.stages if not stage.is_done]
        known = [seconds for seconds in left if seconds is not None]
        return sum(known) if known and len(known) == len(left) else None


#: Seconds that a page waits for an engine that somebody else runs.
PAGE_PATIENCE_S = 2
TITLES = {
    "environment": "Set up the model environment",
    "base": "Prepare the base model",
    "engine": "Start vLLM",
}
#: The supervisor's words -> a stage's.
STATES = {
    "ready": "done",
    "done": "done",
    "failed": "failed",
    "stopped": "failed",
    "running": "running",
}


def engine_progress(slug: str) -> EngineProgress:
    """Tell how far the start of a model's engine is, from the supervisor's file; or ask somebody else's."""
    if not settings.ENGINE_IS_OURS:
        return EngineProgress((_stage_elsewhere(slug),))
    components = files.read_json(settings.STATUS_FILE).get("components", {})
    if components and slug not in settings.MODELS:
        return EngineProgress((_stage_unserved(slug),))
    found = {title: components.get(part_name(part, slug)) for part, title in TITLES.items()}
    return EngineProgress(
        tuple(_stage(title, component) for title, component in found.items() if component)
    )


def part_name(part: str, slug: str) -> str:
    """Return what the supervisor calls a part that every model has one of; the first model's has no suffix."""
    is_shared = part == "environment" or slug == settings.MODELS[0]
    return part if is_shared else f"{part}-{slug}"


def _stage_unserved(slug: str) -> Stage:
    others = ",".join([*settings.MODELS, slug])
    detail = (
        f"Pairloop was started for {' and '.join(settings.MODELS)} only. Stop it and start it with"
        f" PAIRLOOP_MODEL={others} make run, if the memory is enough for one engine more, or with"
        f" PAIRLOOP_MODEL={slug} make run."
    )
    return Stage(title=TITLES["engine"], state="failed", detail=detail, seconds_left=None)


def _stage_elsewhere(slug: str) -> Stage:
    """Ask an engine that somebody else runs; a page waits for it for two seconds at most."""
    title, version = "Reach the engine", base_version(slug)
    try:
        with serving.engine(serving.url_of(slug), timeout=PAGE_PATIENCE_S) as engine:
            served = engine.models()
    except EngineError as error:
        detail = f"{error} Check PAIRLOOP_ENGINE_URL, or start it; Pairloop keeps asking."
        return Stage(title=title, state="running", detail=detail, seconds_left=None)
    if version and version.served_name not in served:
        detail = (
            f"It answers, but does not serve {version}. `manage.py engine_command {slug}` "
            "says how to start it."
        )
        return Stage(title=title, state="failed", detail=detail, seconds_left=None)
    return Stage(title=title, state="done", detail="", seconds_left=0)


def _stage(title: str, component: dict[str, object]) -> Stage:
    state = STATES.get(str(component.get("state")), "waiting")
    expected = component.get("expected_s")
    since = component.get("since")
    seconds_left = None
    if state == "done":
        seconds_left = 0
    elif isinstance(expected, int | float):
        started = float(since) if isinstance(since, int | float) else time.time()
        spent = time.time() - started if state == "running" else 0.0
        # Once it takes longer than it ever did, promise nothing but "soon".
        seconds_left = max(round(expected - spent), 1)
    return Stage(
        title=title, state=state, detail=str(component.get("detail", "")), seconds_left=seconds_left
    )
