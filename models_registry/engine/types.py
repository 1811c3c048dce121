"""What travels between Pairloop and an engine, and what can go wrong on the way."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

#: One turn of a conversation: {"role": ..., "content": ...}.
Message = Mapping[str, str]

#: vLLM joins a model's name to a path in some configurations, so no other names are ever sent.
SERVED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


#: Tokens that prompt and completion share; our engine answers nothing longer.
CONTEXT_LENGTH = 2048


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn."""

    #: 0 takes the likeliest token each time.
    temperature: float = 1.0
    top_p: float = 1.0
    #: Most tokens of one completion.
    max_tokens: int = 128
    #: Completions of the one prompt, all in one request.
    n: int = 1
    #: None: the engine draws its own. A seed does not make vLLM repeat itself in another batch.
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class SampledCompletion:
    """One completion as the engine returned it."""

    text: str
    token_ids: tuple[int, ...]
    #: "stop" when the model ended by itself, "length" when it ran into max_tokens.
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Sampled:
    """The engine's answer to one prompt."""

    #: The served name that really answered; checked to be the one that was asked.
    model: str
    #: The prompt after the chat template, generation prompt included.
    prompt_ids: tuple[int, ...]
    completions: tuple[SampledCompletion, ...]


class EngineError(Exception):
    """The engine did not do what it was asked."""

    #: For machines; stable, snake_case.
    code = "engine_error"
    #: True: the same request will fail again, so nobody should retry it.
    permanent = False

    def __init__(self, message: str | None = None) -> None:
        """Take a sentence; the class docstring is the default one."""
        super().__init__(message or (self.__doc__ or "").strip())


class EngineUnreachable(EngineError):
    """No engine answers. It may still be starting."""

    code = "engine_unreachable"


class EngineTimeout(EngineError):
    """The engine took too long to answer."""

    code = "engine_timeout"


class EngineFailed(EngineError):
    """The engine answered with an error of its own."""

    code = "engine_failed"


class EngineRejected(EngineError):
    """The engine refused the request as it is."""

    code = "engine_rejected"
    permanent = True


class EngineModelUnknown(EngineRejected):
    """The engine does not serve this model."""

    code = "engine_model_unknown"


class EngineModelMismatch(EngineError):
    """Another model answered than the one that was asked."""

    code = "engine_model_mismatch"
    permanent = True


class EngineAnswerInvalid(EngineError):
    """The engine's answer could not be read."""

    code = "engine_answer_invalid"


class EngineAnswerTooLarge(EngineError):
    """The engine's answer was larger than the limit."""

    code = "engine_answer_too_large"
    permanent = True


def served_name(name: str) -> str:
    """Return the name; raise ValueError when it cannot have come from the registry."""
    if not SERVED_NAME.fullmatch(name):
        raise ValueError(f"{name[:120]!r} is not a served name")
    return name


def adapter_path(path: str) -> str:
    """Return the path; raise ValueError when it is relative.

    vLLM takes a relative one for the name of a repository to download.
    """
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"{path[:120]!r} is not an absolute path")
    return path


def scored_ids(prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> list[int]:
    """Return both after each other; raise ValueError when one is empty."""
    if not prompt_ids or not completion_ids:
        raise ValueError("a prompt and a completion have at least one token each")
    return [*prompt_ids, *completion_ids]


class Engine(Protocol):
    """One vLLM: a base model and the adapters loaded beside it. Every method may raise EngineError.

    ValueError before anything is sent: a name, path or ids that the registry cannot have made.
    """

    def ready(self) -> bool:
        """Return whether the engine answers and is healthy; never raises."""
        ...

    def models(self) -> tuple[str, ...]:
        """Return the served names: the base first, then the adapters loaded."""
        ...

    def sample(self, *, model: str, messages: Sequence[Message], sampling: Sampling) -> Sampled:
        """Draw `sampling.n` completions of one conversation from the served name `model`."""
        ...

    def score(
        self, *, model: str, prompt_ids: Sequence[int], completion_ids: Sequence[int]
    ) -> tuple[float, ...]:
        """Return each completion token's log-probability, in nat, given all before it, at temperature 1."""
        ...

    def adapter_load(self, *, name: str, path: str) -> None:
        """Load the adapter folder `path`, as the engine sees it, under a served name never used before."""
        ...

    def adapter_unload(self, *, name: str) -> None:
        """Forget a served name. The engine may keep the weights in memory until it needs the room."""
        ...
