"""From one line of an import to a prompt with a better and a worse answer; no ORM."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from annotate import prompts
from pairloop.lib.errors import Refused

#: How probable it is that the preferred answer is the better one, where a file does not say: as sure as the
#: surest judgement, since whoever wrote "chosen" gave no degree, and no surer, since nobody is.
TARGET = 0.98
#: Bytes of UTF-8 that one answer may have.
LARGEST = 256 * 1024
#: Names of the better and the worse answer; every line uses one of the two ways.
KEYS = (("chosen", "rejected"), ("good", "bad"))


class PreferenceRefused(Refused):
    """This line is not a preference."""

    code = "preference_refused"


class Unread:
    """Stands for a line that could not even be read, and says why."""

    def __init__(self, reason: str) -> None:
        """Take the sentence for the report."""
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PreferenceLine:
    """A preference that may be stored."""

    prompt: prompts.PromptLine
    good: str
    bad: str
    target: float

    @property
    def sha256(self) -> str:
        """The hex SHA-256 of prompt and answers as canonical JSON; tags and target do not count."""
        text = json.dumps(
            [self.prompt.messages, self.good, self.bad], ensure_ascii=False, sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()


def parse(raw: Any) -> PreferenceLine:
    """Read a line with "prompt", "chosen" and "rejected" as texts or as lists of messages.

    "good" and "bad" are other names of "chosen" and "rejected"; without "prompt", both are conversations
    that begin alike. Keys that Pairloop does not know are ignored. Raises Refused.
    """
    if isinstance(raw, Unread):
        raise PreferenceRefused(raw.reason)
    if raw is prompts.NOT_JSON:
        raise PreferenceRefused("This is not JSON.")
    if not isinstance(raw, Mapping):
        raise PreferenceRefused(
            'A line is an object such as {"prompt": …, "chosen": …, "rejected": …}.'
        )
    good, bad = _answers(raw)
    if raw.get("prompt") is None:
        asked, good, bad = _split(good, bad)
    else:
        asked = _prompt(raw)
    prompt = prompts.PromptLine(
        messages=prompts.messages_of([_plain(message) for message in asked]),
        tags=prompts.tags_of(raw.get("tags") or []),
    )
    line = PreferenceLine(
        prompt=prompt,
        good=_answer(good, asked, "better"),
        bad=_answer(bad, asked, "worse"),
        target=_target(raw.get("target")),
    )
    if line.good.strip() == line.bad.strip():
        raise PreferenceRefused("Both answers are the same.")
    return line


def _answers(raw: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the better and the worse answer as they were given."""
    found = [
        (raw[good], raw[bad])
        for good, bad in KEYS
        if raw.get(good) is not None and raw.get(bad) is not None
    ]
    if len(found) != 1:
        raise PreferenceRefused('Give either "chosen" and "rejected" or "good" and "bad".')
    return found[0]


def _prompt(raw: Mapping[str, Any]) -> Sequence[Any]:
    asked = raw["prompt"]
    if isinstance(asked, str):
        return prompts.typed(asked, raw.get("system"))
    if isinstance(asked, list) and asked:
        return asked
    raise PreferenceRefused('"prompt" is a text or a list of messages.')


def _split(good: Any, bad: Any) -> tuple[Sequence[Any], Any, Any]:
    """Take what two conversations share at their beginning for the prompt."""
    if not isinstance(good, list) or not isinstance(bad, list):
        raise PreferenceRefused(
            'Without "prompt", both answers are whole conversations: lists of messages.'
        )
    shared = 0
    while shared < min(len(good), len(bad)) - 1 and good[shared] == bad[shared]:
        shared += 1
    if not shared:
        raise PreferenceRefused('The conversations do not begin alike; give the "prompt".')
    return good[:shared], good[shared:], bad[shared:]


def _answer(raw: Any, asked: Sequence[Any], which: str) -> str:
    """Read one answer: a text, one message of the assistant, or the conversation up to it."""
    if isinstance(raw, list):
        raw = _said(raw, asked, which)
    if not isinstance(raw, str) or not raw.strip():
        raise PreferenceRefused(f"The {which} answer is a text that is not empty.")
    if not prompts.is_text(raw):
        raise PreferenceRefused(f"The {which} answer has characters that are not text.")
    if len(raw.encode()) > LARGEST:
        raise PreferenceRefused(f"An answer may have at most {LARGEST // 1024} kB.")
    return raw


def _said(messages: list[Any], asked: Sequence[Any], which: str) -> Any:
    # Some data sets give the prompt as a text and begin each answer with it all the same.
    own = messages[len(asked) :] if messages[: len(asked)] == asked else messages
    if len(own) != 1:
        raise PreferenceRefused(f"The {which} answer is one message of the assistant.")
    message = _plain(own[0])
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        raise PreferenceRefused('A message has exactly "role" and "content".')
    if message["role"] != "assistant":
        raise PreferenceRefused(f"The {which} answer is the assistant's.")
    return message["content"]


def _plain(message: Any) -> Any:
    """Leave out what a table must give every message though this one does not have it."""
    if not isinstance(message, Mapping):
        return message
    return {key: value for key, value in message.items() if value is not None}


def _target(raw: Any) -> float:
    if raw is None:
        return TARGET
    is_number = isinstance(raw, int | float) and not isinstance(raw, bool)
    if not is_number or not 0.5 <= raw <= 1:
        raise PreferenceRefused('"target" is a number from 0.5 to 1.')
    return float(raw)
