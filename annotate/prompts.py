"""From one line of an import to a prompt's messages; no ORM."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pairloop.lib.errors import Refused

#: Bytes of UTF-8 that one prompt may have, all messages together.
LARGEST = 32 * 1024
MOST_TAGS = 20
#: Stands for a line that is not JSON at all.
NOT_JSON = object()
ROLES = ("system", "user", "assistant")


class PromptRefused(Refused):
    """This line is not a prompt."""

    code = "prompt_refused"


@dataclass(frozen=True, slots=True)
class PromptLine:
    """A prompt that may be stored."""

    messages: list[dict[str, str]]
    tags: list[str]

    @property
    def sha256(self) -> str:
        """The hex SHA-256 of the messages as canonical JSON; tags do not count."""
        text = json.dumps(self.messages, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def lines_of(text: str) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each line of JSONL that is not blank.

    A line that is not JSON is passed on as what makes the import say so.
    """
    # Not splitlines: a JSON text may hold other line separators, such as U+2028, as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, NOT_JSON


def parse(raw: Any) -> PromptLine:
    """Read {"prompt": "…"} or {"messages": […]}, each with optional "tags"; "system" goes with "prompt".

    Raises PromptRefused.
    """
    if raw is NOT_JSON:
        raise PromptRefused("This is not JSON.")
    if not isinstance(raw, Mapping):
        raise PromptRefused('A prompt is an object such as {"prompt": "…"}.')
    if ("prompt" in raw) == ("messages" in raw):
        raise PromptRefused('Give either "prompt" or "messages".')
    if raw.get("system") and "messages" in raw:
        raise PromptRefused('Put the system message into "messages", as the first one.')
    messages = raw["messages"] if "messages" in raw else typed(raw["prompt"], raw.get("system"))
    return PromptLine(messages=messages_of(messages), tags=tags_of(raw.get("tags", [])))


def typed(prompt: Any, system: Any) -> list[dict[str, Any]]:
    """Return the messages of a prompt that is one text, with an optional system message before it."""
    asked = [{"role": "user", "content": prompt}]
    # An empty cell of a table says the same as no cell at all.
    return asked if system in (None, "") else [{"role": "system", "content": system}, *asked]


def messages_of(raw: Any) -> list[dict[str, str]]:
    """Read the messages of a prompt. Raises PromptRefused."""
    if not isinstance(raw, list) or not raw:
        raise PromptRefused('"messages" is a list with at least one message.')
    messages = [_message(message) for message in raw]
    if messages[-1]["role"] != "user":
        raise PromptRefused("The last message must be the user's.")
    if any(message["role"] == "system" for message in messages[1:]):
        raise PromptRefused("Only the first message may be a system message.")
    if sum(len(message["content"].encode()) for message in messages) > LARGEST:
        raise PromptRefused(f"A prompt may have at most {LARGEST // 1024} kB.")
    return messages


def _message(raw: Any) -> dict[str, str]:
    if not isinstance(raw, Mapping) or set(raw) != {"role", "content"}:
        raise PromptRefused('A message has exactly "role" and "content".')
    if raw["role"] not in ROLES:
        raise PromptRefused(f"A message's role is one of {', '.join(ROLES)}.")
    content = raw["content"]
    if not isinstance(content, str) or not content.strip():
        raise PromptRefused("A message's content is a text that is not empty.")
    if not is_text(content):
        raise PromptRefused("A message's content has characters that are not text.")
    return {"role": str(raw["role"]), "content": content.strip()}


def tags_of(raw: Any) -> list[str]:
    """Read a list of tags. Raises PromptRefused."""
    if not isinstance(raw, list) or len(raw) > MOST_TAGS:
        raise PromptRefused(f'"tags" is a list of at most {MOST_TAGS} short texts.')
    tags = [tag.strip() if isinstance(tag, str) else "" for tag in raw]
    if not all(0 < len(tag) <= 50 and is_text(tag) for tag in tags):
        raise PromptRefused("A tag is a text of 1 to 50 characters.")
    return sorted(set(tags))


def is_text(value: str) -> bool:
    """Whether PostgreSQL can store it: no NUL, no lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in value


def is_held_out(sha256: str, *, share: float) -> bool:
    """Decide by the prompt's hash alone, so that the same prompt is on the same side everywhere."""
    return int(sha256[:8], 16) < share * 2**32
