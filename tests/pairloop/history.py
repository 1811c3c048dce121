"""A model with six versions, one of them on a branch, as weeks of rounds leave it."""

from __future__ import annotations

from typing import Any

from annotate.models import Prompt, Split
from models_registry.models import Alias, ModelVersion, RegisteredModel
from tests import factories
from training.models import Round, SnapshotItem

STATES = ModelVersion.State
#: Number, parent, state, new triples and replayed ones.
VERSIONS = (
    (1, 0, STATES.VERIFIED, 3, 0),
    (2, 1, STATES.CORRUPT, 2, 2),
    (3, 1, STATES.VERIFIED, 2, 1),
    (4, 3, STATES.RETIRED, 2, 1),
    (5, 3, STATES.VERIFIED, 2, 2),
    (6, 5, STATES.REGISTERED, 1, 2),
)
SPEC: dict[str, Any] = {
    "lora": {"rank": 16, "alpha": 32, "target_modules": ["q_proj", "v_proj"]},
    "loss": {"name": "dpo", "beta": 0.1, "ties": True},
    "optimizer": {"learning_rate": 2e-4, "weight_decay": 0.0, "warmup": 0.1, "clip": 1.0},
    "epochs": 3,
    "batch_pairs": 8,
    "seed": 1,
}
TAGS = (["prose"], ["arithmetic", "short"], [])


def answers(*, tokens: float, eos: float, distinct2: float) -> dict[str, Any]:
    """Return what an evaluation measures on one version's answers."""
    return {"answers": 72, "tokens_mean": tokens, "eos_rate": eos, "distinct2": distinct2}


def evaluation(number: int) -> dict[str, Any]:
    """Return what was measured on the version of a round."""
    return {
        "prompts": 24, "changed": 20, "shorter": 12, "longer": 8, "examples": [],
        "kl_base": {"answers": 24, "k1": 0.8 * number, "k3": 0.9 * number},
        "version": answers(tokens=74 - 6.5 * number, eos=0.62 + 0.05 * number, distinct2=0.71 + 0.01 * number),
        "parent": answers(tokens=80 - 6.5 * number, eos=0.6 + 0.05 * number, distinct2=0.7),
        "base": answers(tokens=81.4, eos=0.58, distinct2=0.69),
        "guardrails": [
            {"name": "kl_base", "value": 0.8 * number, "bound": "at most 40 nats", "is_kept": True},
            {"name": "length", "value": 0.6, "bound": "0.7 to 1.4 times the parent's", "is_kept": number != 4},
        ],
        "seconds": 80.0,
    }  # fmt: skip


def history_make(slug: str = "demo") -> RegisteredModel:
    """Make the model, its versions and the rounds that made them."""
    model: RegisteredModel = factories.RegisteredModelFactory.create(
        slug=slug, name="SmolLM2-135M-Instruct", parameters=134_515_008
    )
    made = {0: model.versions.get(number=0)}
    pairs: list[Any] = []
    for number, parent, state, new, replay in VERSIONS:
        made[number] = _version(model, number, made[parent], state)
        round_ = _round(model, number, made)
        _lessons(round_, pairs, new=new, replay=replay)
    _ratings(made[5])
    for name, number in ((Alias.CHAMPION, 3), (Alias.SAMPLER, 5), (Alias.CHALLENGER, 6)):
        Alias.objects.update_or_create(model=model, name=name, defaults={"version": made[number]})
    return model


def _version(model: RegisteredModel, number: int, parent: ModelVersion, state: str) -> ModelVersion:
    version: ModelVersion = factories.ModelVersionFactory.create(
        model=model,
        number=number,
        kind=ModelVersion.Kind.ADAPTER,
        parent=parent,
        state=state,
        size_bytes=19_553_280,
        metrics={
            "training": {
                "loss": 0.41, "margin": 1.32, "accuracy": 0.875, "drift_chosen": 0.8, "drift_rejected": -12.4,
                "grad_norm": 2.1, "learning_rate": 1e-6,
            },
            "dropped": {"too_long": 2} if number == 3 else {},
        },
    )  # fmt: skip
    return version


def _round(model: RegisteredModel, number: int, made: dict[int, ModelVersion]) -> Round:
    parent = made[number].parent
    pairs = 18 if number == 1 else 30 + 4 * number
    before = {"loss": 0.69, "accuracy": 0.5, "margin": 0.0}
    after = {"loss": 0.55, "accuracy": 0.52 + 0.04 * number, "margin": 0.6}
    is_done = made[number].state != STATES.REGISTERED
    round_: Round = factories.RoundFactory.create(
        model=model,
        number=number,
        parent=parent,
        version=made[number],
        state=Round.State.SUCCEEDED if is_done else Round.State.EVALUATING,
        spec=SPEC,
        holdout={"pairs": pairs, "before": before, "after": after, "reference": "base"},
        evaluation=evaluation(number) if is_done else {},
        snapshot__holdout_count=pairs,
    )
    factories.RoundMetricFactory.create(round=round_, step=48)
    return round_


def _lessons(round_: Round, pairs: list[Any], *, new: int, replay: int) -> None:
    """Have new pairs judged, and take older ones once more."""
    for pair in pairs[-replay:] if replay else []:
        _item(round_, pair, SnapshotItem.Role.REPLAY)
    for _ in range(new):
        pair = factories.PairFactory.create(prompt__model=round_.model)
        Prompt.objects.filter(pk=pair.prompt_id).update(tags=TAGS[len(pairs) % len(TAGS)])
        factories.JudgementFactory.create(assignment__pair=pair)
        pairs.append(pair)
        _item(round_, pair, SnapshotItem.Role.NEW)
    round_.snapshot.count = new + replay
    round_.snapshot.save()


#: Rewards of v5, over β, of good answers and bad ones of held-out pairs.
RATINGS = ((-6.1, 2.4), (3.1, 3.9), (4.2, -7.5), (8.8, -1.2), (2.0, -11.6))


def _ratings(version: ModelVersion) -> None:
    """Have held-out pairs judged, and let a version rate their answers."""
    for good, bad in RATINGS:
        pair = factories.PairFactory.create(
            prompt__model=version.model, prompt__split=Split.HOLDOUT
        )
        said = factories.JudgementFactory.create(assignment__pair=pair)
        for completion in (pair.first, pair.second):
            factories.AnswerScoreFactory.create(
                completion=completion,
                version=version,
                log_ratio=good if completion == said.winner else bad,
            )


def _item(round_: Round, pair: Any, role: str) -> None:
    factories.SnapshotItemFactory.create(
        snapshot=round_.snapshot,
        pair=pair,
        role=role,
        is_consumed=True,
        judgement_ids=[
            said.pk for assignment in pair.assignments.all() for said in assignment.judgements.all()
        ],
    )
