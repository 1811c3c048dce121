"""What the pages about versions read: the registry's rows, and which round made them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from models_registry import queries as registry
from models_registry import serving
from models_registry.models import ModelVersion, RegisteredModel, Serving
from training.models import Round

STATES = {
    ModelVersion.State.REGISTERED: "waits for its check",
    ModelVersion.State.VERIFIED: "verified",
    ModelVersion.State.RETIRED: "retired",
    ModelVersion.State.CORRUPT: "corrupt",
}


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A version as its pages show it."""

    version: ModelVersion
    aliases: tuple[str, ...]
    #: The number of the round that made it; None for the base.
    round: int | None
    serving: Serving | None

    @property
    def state(self) -> str:
        """How far it may be trusted, in words."""
        if self.is_waiting and self.has_failed:
            return "failed its check"
        return STATES[ModelVersion.State(self.version.state)]

    @property
    def unverified(self) -> str:
        """Why it cannot become champion, to go on after "this one"."""
        return self.state if self.is_waiting else f"is {self.state}"

    @property
    def is_waiting(self) -> bool:
        """Whether no engine has checked it yet."""
        return self.version.state == ModelVersion.State.REGISTERED

    @property
    def is_bad(self) -> bool:
        """Whether somebody should look at it."""
        return self.is_corrupt or self.has_failed

    @property
    def is_corrupt(self) -> bool:
        """Whether its files are not what was stored."""
        return self.version.state == ModelVersion.State.CORRUPT

    @property
    def has_failed(self) -> bool:
        """Whether the engine that runs now did not compute what the trainer did."""
        return bool(self.serving and self.serving.canary.get("passed") is False)

    @property
    def is_champion(self) -> bool:
        """Whether people proved it best."""
        return "champion" in self.aliases

    @property
    def canary(self) -> str:
        """What its last check on the engine found, as a phrase."""
        if self.version.is_base:
            return "not needed: it is the base itself"
        found = self.serving.canary if self.serving else {}
        if self.is_corrupt:
            return "not possible any more"
        if "passed" not in found:
            return "not done yet: the worker does it once the engine runs"
        if not found["passed"]:
            return f"failed: {found['note']}"
        if found["note"]:
            return f"passed, {found['note']}"
        share = found["difference"] / found["effect"]
        return f"passed: the engine is off by {share:.1%} of what training changed"


def version_rows(model: RegisteredModel) -> list[VersionRow]:
    """Return every version of a model, the newest first. Four queries."""
    rounds = dict(
        Round.objects.filter(model=model, version__isnull=False).values_list("version", "number")
    )
    return [
        _row(version, round_number=rounds.get(version.pk))
        for version in registry.versions_of(model)
    ]


def version_row(*, model: RegisteredModel, number: int) -> VersionRow:
    """Return one version; raises ModelVersion.DoesNotExist for a number that the model has not."""
    version = registry.versions_of(model).get(number=number)
    made_by = Round.objects.filter(version=version).values_list("number", flat=True).first()
    return _row(version, round_number=made_by)


def _row(version: ModelVersion, *, round_number: int | None) -> VersionRow:
    ours = (one for one in version.servings.all() if one.engine in serving.urls())
    return VersionRow(
        version=version,
        aliases=tuple(sorted(alias.name for alias in version.aliases.all())),
        round=round_number,
        serving=next(ours, None),
    )


def facts(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a version's metrics, however deep, as names and readable values."""
    return sorted(_facts(metrics, ""))


def _facts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _facts(inner, f"{name} · {key}" if name else str(key).replace("_", " "))
    elif isinstance(value, list):
        yield name, ", ".join(str(one) for one in value) or "none"
    elif isinstance(value, float):
        yield name, f"{value:.4g}"
    else:
        yield name, "—" if value is None else str(value)
