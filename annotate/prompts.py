"""From the lines of an import to prompts' messages; no ORM."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import PurePath
from typing import Any

from pairloop.lib.errors import Refused

#: Bytes of UTF-8 that one prompt may have, all messages together.
LARGEST = 32 * 1024
MOST_TAGS = 20
#: Stand for a line that is not JSON at all, and for a row that is not CSV.
NOT_JSON = object()
NOT_CSV = object()
#: A line's number and what it says.
Numbered = tuple[int, Any]
ROLES = ("system", "user", "assistant")


class PromptRefused(Refused):
    """This line is not a prompt."""

    code = "prompt_refused"


class FileRefused(Refused):
    """This is not a file of prompts."""

    code = "file_refused"


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


def lines_of(text: str) -> Iterator[Numbered]:
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


def typed_lines(text: str) -> Iterator[Numbered]:
    """Yield each line that is not blank as a prompt of its own."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, {"prompt": line}


def pasted(text: str) -> Iterator[Numbered]:
    """Return number and value of each line that is not blank: JSONL when all are JSON objects, else prompts.

    Raises FileRefused when only some are: whoever pasted them wants no JSON for a prompt.
    """
    kinds = {number: isinstance(value, dict) for number, value in lines_of(text)}
    if not any(kinds.values()):
        return typed_lines(text)
    if not all(kinds.values()):
        other = next(number for number, is_object in kinds.items() if not is_object)
        first = next(number for number, is_object in kinds.items() if is_object)
        raise FileRefused(
            f"Line {first} is a JSON object and line {other} is not. Give either JSON objects only, as in"
            ' {"prompt": "…"}, or prompts only.'
        )
    return lines_of(text)


def json_list(text: str) -> Iterator[Numbered]:
    """Yield number and value of each item of a JSON list. Raises FileRefused."""
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileRefused("The file is not JSON. Write a list of prompts, or JSONL.") from error
    if not isinstance(items, list):
        raise FileRefused('The file is not a list such as [{"prompt": "…"}].')
    return enumerate(items, start=1)


def csv_rows(text: str) -> Iterator[Numbered]:
    """Yield each row of a table by the line it begins on; tags of a cell are separated by semicolons.

    Raises FileRefused when the first line does not name a column "prompt".
    """
    reader = csv.reader(StringIO(text, newline=""))
    header = [name.strip().lower() for name in next(_rows(reader), (0, []))[1] or []]
    if "prompt" not in header:
        raise FileRefused(
            "The first line of a CSV file names the columns: prompt and, if you like, system and tags."
        )
    return (
        (number, _row(dict(zip(header, cells, strict=False))) if cells is not None else NOT_CSV)
        for number, cells in _rows(reader)
        if cells != []
    )


def _rows(reader: Any) -> Iterator[tuple[int, list[str] | None]]:
    """Yield where each row begins and its cells; None for one that cannot be read."""
    while True:
        number = reader.line_num + 1
        try:
            yield number, next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield number, None


def _row(cells: Mapping[str, str]) -> dict[str, Any]:
    tags = [tag.strip() for tag in cells.get("tags", "").split(";")]
    return {
        "prompt": cells.get("prompt", ""),
        "system": cells.get("system", "").strip(),
        "tags": [tag for tag in tags if tag],
    }


#: How a file of prompts is read, by the end of its name.
READERS: dict[str, Callable[[str], Iterator[Numbered]]] = {
    ".jsonl": lines_of,
    ".ndjson": lines_of,
    ".csv": csv_rows,
    ".json": json_list,
    ".txt": typed_lines,
}


def file_lines(filename: str, content: bytes) -> Iterator[Numbered]:
    """Return number and value of each prompt of a file. Raises FileRefused."""
    ending = PurePath(filename).suffix.lower()
    if ending not in READERS:
        raise FileRefused(f"The file's name must end with one of {', '.join(READERS)}.")
    try:
        # With or without the byte order mark that some editors write.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileRefused("The file is not UTF-8 text. Save it as UTF-8 first.") from error
    return READERS[ending](text)


def parse(raw: Any, *, tags: Sequence[str] = (), system: str = "") -> PromptLine:
    """Read {"prompt": "…"} or {"messages": […]}, each with optional "tags"; "system" goes with "prompt".

    `tags` are added to it, and `system` is what a prompt without a system message gets. Raises PromptRefused.
    """
    if raw is NOT_JSON:
        raise PromptRefused("This is not JSON.")
    if raw is NOT_CSV:
        raise PromptRefused("This row is not CSV, or one of its cells is too long.")
    if not isinstance(raw, Mapping):
        raise PromptRefused('A prompt is an object such as {"prompt": "…"}.')
    if ("prompt" in raw) == ("messages" in raw):
        raise PromptRefused('Give either "prompt" or "messages".')
    if raw.get("system") and "messages" in raw:
        raise PromptRefused('Put the system message into "messages", as the first one.')
    messages = raw["messages"] if "messages" in raw else typed(raw["prompt"], raw.get("system"))
    own = raw.get("tags", [])
    return PromptLine(
        messages=messages_of(_with_system(messages, system)),
        tags=tags_of([*own, *tags] if isinstance(own, list) else own),
    )


def _with_system(messages: Any, system: str) -> Any:
    if not system.strip() or not isinstance(messages, list) or not messages:
        return messages
    has_one = isinstance(messages[0], Mapping) and messages[0].get("role") == "system"
    return messages if has_one else [{"role": "system", "content": system}, *messages]


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
