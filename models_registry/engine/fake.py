"""An engine without a model, for tests: it refuses what vLLM refuses and repeats itself exactly."""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from models_registry import canary
from models_registry.engine import types

#: The id that ends a completion which was not cut.
END_ID = 0
#: Ids of words are below this.
VOCABULARY = 50_000
WORDS = (
    "calm",
    "days",
    "end",
    "as",
    "old",
    "ships",
    "come",
    "home",
    "and",
    "we",
    "read",
    "letters",
)


class FakeEngine:
    """Answers in words that depend on nothing but model, messages, seed and index."""

    def __init__(self, *, base: str = "base") -> None:
        """Serve one base, with nothing loaded beside it."""
        self.base = base
        #: False: every call finds nobody there.
        self.up = True
        #: What was asked, in order: (model, messages, sampling).
        self.asked: list[tuple[str, tuple[types.Message, ...], types.Sampling]] = []
        #: Served name -> path, in order of loading.
        self.adapters: dict[str, str] = {}
        #: True: adapters load, and then answer as the base would.
        self.ignores_adapters = False
        self._used: set[str] = set()
        #: (served name, all ids, start of the completion) -> what a canary.json says.
        self._recorded: dict[tuple[str, tuple[int, ...], int], tuple[float, ...]] = {}
        self._next: deque[Sequence[str] | types.EngineError] = deque()
        self._lock = threading.Lock()

    def enqueue(self, *answers: Sequence[str] | types.EngineError) -> None:
        """Script the next calls of `sample`: the texts each returns, one per completion, or its error."""
        self._next.extend(answers)

    def restart(self) -> None:
        """Forget every adapter, as an engine does that was started again."""
        with self._lock:
            self.adapters.clear()
            self._used.clear()

    def ready(self) -> bool:
        """Return whether the engine is up."""
        return self.up

    def models(self) -> tuple[str, ...]:
        """Return the served names: the base first, then the adapters loaded."""
        self._reach()
        with self._lock:
            return (self.base, *self.adapters)

    def sample(
        self, *, model: str, messages: Sequence[types.Message], sampling: types.Sampling
    ) -> types.Sampled:
        """Return what was enqueued, or words of a hash."""
        types.served_name(model)
        self._reach()
        if model not in self.models():
            raise types.EngineModelUnknown(f"The model {model!r} does not exist.")
        _check(messages, sampling)
        with self._lock:
            self.asked.append((model, tuple(dict(message) for message in messages), sampling))
            scripted = self._next.popleft() if self._next else None
        if isinstance(scripted, types.EngineError):
            raise scripted
        if scripted is None:
            # The likeliest words need no chance.
            seed = sampling.seed if sampling.temperature else None
            scripted = [_words(model, messages, seed, index) for index in range(sampling.n)]
        if len(scripted) != sampling.n:
            raise AssertionError(f"{len(scripted)} texts were enqueued, {sampling.n} are asked")
        turns = " ".join(f"<{message['role']}> {message['content']}" for message in messages)
        return types.Sampled(
            model=model,
            prompt_ids=_ids(f"{turns} <assistant>"),
            completions=tuple(_completion(text, sampling.max_tokens) for text in scripted),
        )

    def score(
        self, *, model: str, prompt_ids: Sequence[int], completion_ids: Sequence[int]
    ) -> tuple[float, ...]:
        """Return what the canary.json of an adapter records, or else numbers of a hash."""
        ids = tuple(types.scored_ids(prompt_ids, completion_ids))
        types.served_name(model)
        self._reach()
        if model not in self.models():
            raise types.EngineModelUnknown(f"The model {model!r} does not exist.")
        if len(ids) >= types.CONTEXT_LENGTH or max(ids) >= VOCABULARY:
            raise types.EngineRejected("There are too many tokens, or one is unknown.")
        answering = self.base if self.ignores_adapters else model
        start = len(prompt_ids)
        with self._lock:
            recorded = self._recorded.get((answering, ids, start))
        return recorded or tuple(
            _log_prob(answering, ids[: end + 1]) for end in range(start, len(ids))
        )

    def adapter_load(self, *, name: str, path: str) -> None:
        """Serve a folder that holds an adapter_config.json; fail a test that uses a name twice."""
        types.served_name(name)
        types.adapter_path(path)
        self._reach()
        with self._lock:
            if name == self.base or name in self.adapters:
                raise types.EngineRejected(f"{name!r} has already been loaded.")
            if not (Path(path) / "adapter_config.json").is_file():
                raise types.EngineRejected(f"No adapter found for {path!r}.")
            # vLLM takes the name again and may answer from the old weights' cache.
            if name in self._used:
                raise AssertionError(f"the served name {name!r} was used before")
            self._used.add(name)
            self.adapters[name] = path
            if (Path(path) / canary.FILE).is_file():
                self._record(name, canary.rows_read(Path(path)))

    def adapter_unload(self, *, name: str) -> None:
        """Forget a served name."""
        types.served_name(name)
        self._reach()
        with self._lock:
            if name not in self.adapters:
                raise types.EngineModelUnknown(f"The adapter {name!r} cannot be found.")
            del self.adapters[name]

    def _record(self, name: str, rows: Sequence[canary.Row]) -> None:
        for row in rows:
            ids, start = (*row.prompt_ids, *row.completion_ids), len(row.prompt_ids)
            self._recorded[name, ids, start] = row.adapter
            self._recorded[self.base, ids, start] = row.base

    def _reach(self) -> None:
        if not self.up:
            raise types.EngineUnreachable


#: Most characters of a conversation; a real engine counts tokens.
CONTEXT = 8_000


def _check(messages: Sequence[types.Message], sampling: types.Sampling) -> None:
    """Refuse what vLLM answers with 400."""
    good = {
        "messages": bool(messages) and sum(len(one["content"]) for one in messages) <= CONTEXT,
        "temperature": sampling.temperature >= 0,
        "top_p": 0 < sampling.top_p <= 1,
        "max_tokens": sampling.max_tokens >= 1,
        "n": sampling.n >= 1,
    }
    for name, is_good in good.items():
        if not is_good:
            raise types.EngineRejected(f"{name} is out of range.")


def _log_prob(model: str, ids: tuple[int, ...]) -> float:
    """Return a number between -8 and 0 for the last of the ids."""
    digest = hashlib.sha256(repr((model, ids)).encode()).digest()
    return -8 * int.from_bytes(digest[:4]) / 2**32


def _words(model: str, messages: Sequence[types.Message], seed: int | None, index: int) -> str:
    """Return 8 to 23 words that look random."""
    key = repr((model, [sorted(message.items()) for message in messages], seed, index))
    digest = hashlib.sha256(key.encode()).digest()
    return " ".join(WORDS[number % len(WORDS)] for number in digest[1 : 9 + digest[0] % 16])


def _completion(text: str, max_tokens: int) -> types.SampledCompletion:
    words = text.split(" ")
    if len(words) >= max_tokens:
        cut = " ".join(words[:max_tokens])
        return types.SampledCompletion(text=cut, token_ids=_ids(cut), finish_reason="length")
    return types.SampledCompletion(text=text, token_ids=(*_ids(text), END_ID), finish_reason="stop")


def _ids(text: str) -> tuple[int, ...]:
    """Return one id per word, blanks between them not counted."""
    return tuple(1 + zlib.crc32(word.encode()) % (VOCABULARY - 1) for word in text.split(" "))
