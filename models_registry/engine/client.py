"""The engine behind vLLM's HTTP API, over a unix socket or a URL."""

from __future__ import annotations

import asyncio
import json
import math
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import httpx

from models_registry.engine import types

#: A unix socket or a machine of ours accepts at once, or not at all.
CONNECT_SECONDS = 5.0
#: Health is asked often and by people who wait.
HEALTH_SECONDS = 5.0
#: 32 completions of 2,048 tokens with their ids are about 1 MiB.
ANSWER_LIMIT = 32 * 2**20
#: Most characters of the engine's own message that reach an error.
MESSAGE_LIMIT = 300


class VllmEngine:
    """One vLLM at `unix:///path/to.sock`, `http://host:port` or `https://host:port`.

    Nothing is kept between two calls, so threads may share one engine.
    """

    def __init__(self, url: str, *, key: str = "", timeout: float = 300) -> None:
        """Take the address; nothing is sent yet. `timeout` bounds one whole call, in seconds."""
        self._url, self._socket = _address(url)
        self._timeout = timeout
        self._headers = {"Accept-Encoding": "identity"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        # Reading the certificates takes longer than a health check, so it is done once.
        self._tls: ssl.SSLContext | bool = (
            self._url.startswith("https:") and ssl.create_default_context()
        )

    def __enter__(self) -> Self:
        """Return the engine itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the engine."""
        self.close()

    def close(self) -> None:
        """Let go of the engine. Every call closes its own connection, so this has nothing left to do."""

    def ready(self) -> bool:
        """Return whether the engine answers and is healthy; never raises."""
        try:
            self._call("GET", "/health", seconds=min(self._timeout, HEALTH_SECONDS))
        except types.EngineError:
            return False
        return True

    def models(self) -> tuple[str, ...]:
        """Return the served names: the base first, then the adapters loaded."""
        cards = _list(_object(self._call("GET", "/v1/models")), "data")
        # An adapter's card names its base as the parent; the base has none.
        cards.sort(key=lambda card: isinstance(card, dict) and card.get("parent") is not None)
        return tuple(_text(card, "id") for card in cards)

    def sample(
        self, *, model: str, messages: Sequence[types.Message], sampling: types.Sampling
    ) -> types.Sampled:
        """Draw `sampling.n` completions of one conversation from the served name `model`."""
        body = {
            # vLLM answers with the base when the name is empty.
            "model": types.served_name(model),
            "messages": [dict(message) for message in messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_completion_tokens": sampling.max_tokens,
            "n": sampling.n,
            "seed": sampling.seed,
            # Neutral values, or else those of the model's generation_config.json would change the policy.
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "return_token_ids": True,
        }
        answer = self._call("POST", "/v1/chat/completions", body, missing=types.EngineModelUnknown)
        return _sampled(_object(answer), model=model, count=sampling.n)

    def score(
        self, *, model: str, prompt_ids: Sequence[int], completion_ids: Sequence[int]
    ) -> tuple[float, ...]:
        """Return each completion token's log-probability, in nat, given all before it, at temperature 1."""
        ids = types.scored_ids(prompt_ids, completion_ids)
        body = {
            "model": types.served_name(model),
            "prompt": ids,
            # The one token that comes with it is thrown away; vLLM does not take 0.
            "max_tokens": 1,
            "temperature": 0.0,
            # Of the token itself, and of no other.
            "prompt_logprobs": 0,
            "seed": 0,
        }
        answer = self._call("POST", "/v1/completions", body, missing=types.EngineModelUnknown)
        return _scored(_object(answer), model=model, ids=ids, start=len(prompt_ids))

    def adapter_load(self, *, name: str, path: str) -> None:
        """Load the adapter folder `path`, as the engine sees it, under a served name never used before."""
        body = {"lora_name": types.served_name(name), "lora_path": types.adapter_path(path)}
        self._call("POST", "/v1/load_lora_adapter", body)

    def adapter_unload(self, *, name: str) -> None:
        """Forget a served name. The engine may keep the weights in memory until it needs the room."""
        body = {"lora_name": types.served_name(name)}
        self._call("POST", "/v1/unload_lora_adapter", body, missing=types.EngineModelUnknown)

    def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        seconds: float | None = None,
        missing: type[types.EngineError] = types.EngineRejected,
    ) -> bytes:
        """Return the body of a good answer; raise `missing` where vLLM says it has no such thing.

        httpx limits each read and write, but not their sum; a loop of our own can end the whole call.
        """
        seconds = seconds or self._timeout
        try:
            status, answer = asyncio.run(self._exchange(method, path, body, seconds))
        except (TimeoutError, httpx.TimeoutException) as error:
            raise types.EngineTimeout(f"The engine did not answer within {seconds:g} s.") from error
        except httpx.ConnectError as error:
            raise types.EngineUnreachable from error
        except httpx.TransportError as error:
            raise types.EngineFailed("The engine broke off its answer.") from error
        _check(status, answer, missing=missing)
        return answer

    async def _exchange(
        self, method: str, path: str, body: dict[str, Any] | None, seconds: float
    ) -> tuple[int, bytes]:
        async with (
            asyncio.timeout(seconds),
            httpx.AsyncClient(
                base_url=self._url,
                headers=self._headers,
                transport=httpx.AsyncHTTPTransport(uds=self._socket, verify=self._tls),
                timeout=httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS)),
                follow_redirects=False,
                trust_env=False,
            ) as client,
            client.stream(method, path, json=body) as response,
        ):
            return response.status_code, await _read(response)


async def _read(response: httpx.Response) -> bytes:
    """Return the body as it came, or refuse it while it comes."""
    pieces = bytearray()
    async for piece in response.aiter_raw():
        pieces += piece
        if len(pieces) > ANSWER_LIMIT:
            raise types.EngineAnswerTooLarge
    return bytes(pieces)


def _address(url: str) -> tuple[str, str | None]:
    """Split an engine's URL into what HTTP is told and the socket's path, if it is one."""
    parts = urlsplit(url)
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return "http://engine", unquote(parts.path)
    if parts.scheme in {"http", "https"} and parts.hostname:
        return url.rstrip("/"), None
    raise ValueError(f"{url!r} is not an engine's address: write unix:///path, http:// or https://")


def _check(status: int, answer: bytes, *, missing: type[types.EngineError]) -> None:
    """Raise the error that a status stands for."""
    if 200 <= status < 300:
        return
    if 300 <= status < 400:
        raise types.EngineFailed(
            f"The engine answered with a redirect ({status}); none is followed."
        )
    message, kind = _complaint(answer)
    said = (
        f"The engine answered {status}: {message}" if message else f"The engine answered {status}."
    )
    # 408 and 429 are about this moment, not about the request.
    if status >= 500 or status in {408, 429}:
        raise types.EngineFailed(said)
    # Any server answers 404 for a path it does not know; only vLLM gives it this type.
    raise missing(said) if kind == "NotFoundError" else types.EngineRejected(said)


def _complaint(answer: bytes) -> tuple[str, str]:
    """Return the message and type of vLLM's error; both may be empty."""
    try:
        found = json.loads(answer)["error"]
        message, kind = (str(found.get(key) or "") for key in ("message", "type"))
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return "", ""
    return " ".join(message.split())[:MESSAGE_LIMIT], kind


def _choices(answer: dict[str, Any], *, model: str, count: int) -> list[Any]:
    """Return the completions of an answer that came from the model that was asked."""
    answered = _text(answer, "model")
    if answered != model:
        raise types.EngineModelMismatch(f"{answered[:120]!r} answered, {model!r} was asked.")
    choices = _list(answer, "choices")
    if len(choices) != count:
        raise types.EngineAnswerInvalid(f"{count} completions were asked, {len(choices)} came.")
    return choices


def _scored(answer: dict[str, Any], *, model: str, ids: list[int], start: int) -> tuple[float, ...]:
    """Read the log-probabilities of the ids from `start` on, believing nothing."""
    (choice,) = _choices(answer, model=model, count=1)
    found = _list(choice, "prompt_logprobs") if isinstance(choice, dict) else []
    if len(found) != len(ids):
        raise types.EngineAnswerInvalid(f"{len(ids)} tokens were asked, {len(found)} came back.")
    return tuple(
        _log_prob(entry, number) for entry, number in zip(found[start:], ids[start:], strict=True)
    )


def _log_prob(entry: Any, number: int) -> float:
    """Return the log-probability of one token out of what vLLM says about its place."""
    token = entry.get(str(number)) if isinstance(entry, dict) else None
    value = token.get("logprob") if isinstance(token, dict) else None
    # A bool is an int, too; NaN is in no order; rounding may lift a certain token's a little above 0.
    if (
        isinstance(value, bool)
        or not isinstance(value, float | int)
        or not -math.inf < value < 1e-3
    ):
        raise types.EngineAnswerInvalid(f"The answer has no log-probability of token {number}.")
    return min(float(value), 0.0)


def _sampled(answer: dict[str, Any], *, model: str, count: int) -> types.Sampled:
    """Read a chat completion, believing nothing."""
    choices = _choices(answer, model=model, count=count)
    return types.Sampled(
        model=model,
        prompt_ids=_ids(answer, "prompt_token_ids"),
        completions=tuple(_completion(choice) for choice in choices),
    )


def _completion(choice: Any) -> types.SampledCompletion:
    finish_reason = _text(choice, "finish_reason")
    if finish_reason not in {"stop", "length"}:
        raise types.EngineAnswerInvalid(f"A completion ended by {finish_reason[:40]!r}.")
    return types.SampledCompletion(
        text=_text(choice.get("message"), "content"),
        token_ids=_ids(choice, "token_ids"),
        finish_reason=finish_reason,
    )


def _object(answer: bytes) -> dict[str, Any]:
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise types.EngineAnswerInvalid("The engine's answer is not JSON.") from error
    if not isinstance(found, dict):
        raise types.EngineAnswerInvalid("The engine's answer is not a JSON object.")
    return found


def _text(found: Any, key: str) -> str:
    value = found.get(key) if isinstance(found, dict) else None
    if not isinstance(value, str):
        raise types.EngineAnswerInvalid(f"The engine's answer has no text {key!r}.")
    return value


def _list(found: dict[str, Any], key: str) -> list[Any]:
    value = found.get(key)
    if not isinstance(value, list):
        raise types.EngineAnswerInvalid(f"The engine's answer has no list {key!r}.")
    return value


def _ids(found: dict[str, Any], key: str) -> tuple[int, ...]:
    """Return token ids; a prompt and a completion have at least one."""
    ids = _list(found, key)
    # bool is a kind of int, hence no isinstance.
    if not ids or any(type(number) is not int or number < 0 for number in ids):
        raise types.EngineAnswerInvalid(f"The engine's answer has no token ids in {key!r}.")
    return tuple(ids)
