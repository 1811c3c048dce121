"""run.json: everything a round does is written there, and nothing written there is passed over.

Standard library only.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.dpo.failures import RoundFailed

SCHEMA = 2
SHA256 = re.compile(r"[0-9a-f]{64}")
#: What vLLM can load.
RANKS = (1, 8, 16, 32, 64, 128, 256)
TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
#: Every loss, and what the options must be that not all of them have; see losses.py.
LOSSES: dict[str, dict[str, str]] = {
    "dpo": {"ties": "true or false", "smoothing": "at least 0 and below 0.5"},
    # Without smoothing it is dpo.
    "robust": {"smoothing": "above 0 and below 0.5"},
    "ipo": {},
    "ln": {},
    "apo_zero": {},
    "dpop": {"penalty": "above 0"},
    "simpo": {"gamma": "0 or more"},
}
#: What those options are with the losses that do not have them.
UNUSED: dict[str, float | bool | None] = {
    "ties": False,
    "smoothing": 0.0,
    "gamma": None,
    "penalty": None,
}
#: The losses that compare with no reference.
REFERENCE_FREE = ("simpo",)


@dataclass(frozen=True, slots=True)
class RoundName:
    """Which round this is; it names the round's file of reference scores and stands in the card."""

    model: str
    number: int


@dataclass(frozen=True, slots=True)
class Base:
    """The model that every version is an adapter on; its folder is named by its hash."""

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Parent:
    """The version to go on from; without a path a fresh adapter on the base."""

    path: Path | None
    sha256: str
    number: int


@dataclass(frozen=True, slots=True)
class Reference:
    """The policy whose log-probabilities are the reference: `base` or `parent`."""

    kind: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Lora:
    """The adapter; belongs to the registered model."""

    rank: int
    alpha: int
    target_modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Loss:
    """What is minimised, see losses.py."""

    name: str
    beta: float
    #: Davidson's model, in which a target of 1/2 is an outcome of its own.
    ties: bool
    #: How probable it is that a judgement is the wrong way round.
    smoothing: float
    #: How much of the better completion's negative log-likelihood, a mean over its tokens, is added.
    nll: float
    #: How far apart SimPO wants the two completions to be.
    gamma: float | None
    #: DPOP's lambda.
    penalty: float | None
    #: Special tokens of a completion, such as the end of a turn, are read but not scored.
    mask_special: bool


@dataclass(frozen=True, slots=True)
class Optimizer:
    """AdamW. `warmup` is a share of all steps; then the rate falls linearly to 0."""

    learning_rate: float
    weight_decay: float
    warmup: float
    clip: float


@dataclass(frozen=True, slots=True)
class Machine:
    """How much of the machine the round may take."""

    threads: int
    nice: int


@dataclass(frozen=True, slots=True)
class Spec:
    """One round."""

    schema: int
    round: RoundName
    base: Base
    parent: Parent
    #: None with the losses that compare with none.
    reference: Reference | None
    scores: Path
    lora: Lora
    loss: Loss
    optimizer: Optimizer
    epochs: int
    batch_pairs: int
    #: Of prompt and completion together.
    max_tokens: int
    seed: int
    checkpoint_steps: int
    machine: Machine


def read(path: Path) -> Spec:
    """Read and check run.json. Raises RoundFailed."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _invalid(f"run.json cannot be read ({error})") from error
    # First of all, since another schema may have other keys.
    if not isinstance(given, dict) or given.get("schema") != SCHEMA:
        raise _invalid(f"schema must be {SCHEMA}")
    spec: Spec = _taken(Spec, given, "")
    _check_ranges(spec)
    _check_loss(spec.loss)
    _check_lora(spec.lora)
    _check_lineage(spec)
    return spec


def _taken(kind: Any, given: Any, where: str) -> Any:
    """Turn JSON into a dataclass with exactly its keys, and every value of its type."""
    if not isinstance(given, dict):
        raise _invalid(f"{where} must be an object")
    hints = typing.get_type_hints(kind)
    prefix = f"{where}." if where else ""
    unknown = sorted(given.keys() - hints.keys())
    if unknown:
        # Options of an adapter we do not know are options that vLLM may not load.
        code = "adapter_unsupported" if kind is Lora else "spec_invalid"
        raise _invalid(f"{prefix}{unknown[0]} is unknown", code=code)
    missing = sorted(hints.keys() - given.keys())
    if missing:
        raise _invalid(f"{prefix}{missing[0]} is missing")
    return kind(**{name: _value(hints[name], given[name], prefix + name) for name in hints})


def _value(kind: Any, given: Any, where: str) -> Any:
    if isinstance(kind, types.UnionType):  # of something and None
        return None if given is None else _value(typing.get_args(kind)[0], given, where)
    if dataclasses.is_dataclass(kind):
        return _taken(kind, given, where)
    if kind is Path:
        return _path(given, where)
    if kind == tuple[str, ...]:
        if isinstance(given, list) and all(isinstance(item, str) for item in given):
            return tuple(given)
        raise _invalid(f"{where} must be a list of strings")
    if kind is float and type(given) is int:
        return float(given)
    # Not isinstance: True is an int.
    if type(given) is not kind:
        raise _invalid(f"{where} must be of type {kind.__name__}")
    return given


def _path(given: Any, where: str) -> Path:
    if isinstance(given, str) and Path(given).is_absolute():
        return Path(given)
    raise _invalid(f"{where} must be an absolute path")


def _check_ranges(spec: Spec) -> None:
    """Refuse numbers nobody can mean."""
    rate, decay = spec.optimizer.learning_rate, spec.optimizer.weight_decay
    rules = {
        "round.model must be a slug": re.fullmatch(r"[a-z0-9-]+", spec.round.model),
        "optimizer.learning_rate must be above 0": _positive(rate),
        "optimizer.weight_decay must be 0 or more": decay == 0 or _positive(decay),
        "optimizer.warmup must be at least 0 and below 1": 0 <= spec.optimizer.warmup < 1,
        "optimizer.clip must be above 0": _positive(spec.optimizer.clip),
        "epochs must be 1 or more": spec.epochs >= 1,
        "batch_pairs must be 1 or more": spec.batch_pairs >= 1,
        "max_tokens must be 2 or more": spec.max_tokens >= 2,
        "seed must be 0 or more": spec.seed >= 0,
        "checkpoint_steps must be 1 or more": spec.checkpoint_steps >= 1,
        "machine.threads must be 1 or more": spec.machine.threads >= 1,
        "machine.nice must be from 0 to 19": 0 <= spec.machine.nice <= 19,
    }
    for sentence, holds in rules.items():
        if not holds:
            raise _invalid(sentence)


def _check_loss(loss: Loss) -> None:
    """Refuse an unknown loss, numbers that its equation does not allow and options it would pass over."""
    if loss.name not in LOSSES:
        raise _invalid(f"loss.name must be one of {', '.join(LOSSES)}")
    rules = {"beta": "above 0", "nll": "0 or more"} | LOSSES[loss.name]
    for option, rule in rules.items():
        if not _obeys(getattr(loss, option), rule):
            raise _invalid(f"loss.{option} must be {rule} with {loss.name}")
    for option, unused in UNUSED.items():
        if option not in rules and getattr(loss, option) != unused:
            raise _invalid(f"loss.{option} must be {json.dumps(unused)} with {loss.name}")


def _obeys(given: float | bool | None, rule: str) -> bool:
    """Return whether an option of a loss is what the rule says."""
    if given is None or not math.isfinite(given):
        return False
    return {
        "true or false": True,
        "above 0": given > 0,
        "0 or more": given >= 0,
        "at least 0 and below 0.5": 0 <= given < 0.5,
        "above 0 and below 0.5": 0 < given < 0.5,
    }[rule]


def _check_lora(lora: Lora) -> None:
    """Refuse adapters that vLLM does not load."""
    targets = lora.target_modules
    strange = sorted(set(targets) - set(TARGET_MODULES))
    rules = {
        f"lora.rank must be one of {', '.join(map(str, RANKS))}": lora.rank in RANKS,
        "lora.alpha must be 1 or more": lora.alpha >= 1,
        "lora.target_modules must name at least one, and none twice": targets
        and len(set(targets)) == len(targets),
        f"lora.target_modules cannot hold {', '.join(strange)}, only {', '.join(TARGET_MODULES)}": not strange,
    }
    for sentence, holds in rules.items():
        if not holds:
            raise _invalid(sentence, code="adapter_unsupported")


def _check_lineage(spec: Spec) -> None:
    """Refuse a base, a parent or a reference that is not the one its hash names.

    Whoever writes run.json has verified the content of folders that are named by their hash.
    """
    hashes = {"base": spec.base.sha256, "parent": spec.parent.sha256}
    if spec.reference is not None:
        hashes["reference"] = spec.reference.sha256
    for name, sha256 in hashes.items():
        if not SHA256.fullmatch(sha256):
            raise _invalid(f"{name}.sha256 must be 64 hex digits")
    if spec.base.path.name != spec.base.sha256:
        raise _invalid("base.path must end with base.sha256", code="base_mismatch")
    if spec.parent.path is None and spec.parent.sha256 != spec.base.sha256:
        raise _invalid("a parent without a path must be the base", code="parent_mismatch")
    if spec.parent.path is not None and spec.parent.path.name != spec.parent.sha256:
        raise _invalid("parent.path must end with parent.sha256", code="parent_mismatch")
    _check_reference(spec)


def _check_reference(spec: Spec) -> None:
    """Refuse a reference where the loss has none, none where it has one, and one that is another's."""
    if spec.loss.name in REFERENCE_FREE:
        if spec.reference is not None:
            raise _invalid(f"reference must be null with {spec.loss.name}")
        return
    if spec.reference is None:
        raise _invalid(f"reference must be an object with {spec.loss.name}")
    kinds = {"base": spec.base.sha256, "parent": spec.parent.sha256}
    if spec.reference.kind not in kinds:
        raise _invalid("reference.kind must be base or parent")
    if spec.reference.sha256 != kinds[spec.reference.kind]:
        raise _invalid(f"reference.sha256 must be that of the {spec.reference.kind}")


def _positive(number: float) -> bool:
    return number > 0 and math.isfinite(number)


def _invalid(sentence: str, *, code: str = "spec_invalid") -> RoundFailed:
    return RoundFailed(code, f"The round's settings do not hold: {sentence}.")
