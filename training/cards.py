"""A version's card: what it is, what it learned from and what was measured, as a Hugging Face README."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from models_registry import bases
from models_registry.models import ModelVersion
from models_registry.queries import average_said
from training import measures, presets, reports
from training.learned import Learned, learned_by
from training.queries import LEAST_HOLDOUT, steps_of

#: Heads of the tables that only list.
FACTS = ("Fact", "Value")
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~])")


@dataclass(frozen=True, slots=True)
class Card:
    """The two parts of a card."""

    #: What machines read: Hugging Face's YAML.
    head: dict[str, Any]
    #: What people read, as markdown.
    body: str

    @property
    def text(self) -> str:
        """The whole file. JSON is YAML, and quotes whatever a name may hold."""
        lines = [
            f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in self.head.items()
        ]
        return "\n".join(["---", *lines, "---", "", self.body])


def card_of(version: ModelVersion, *, merged: bool = False) -> Card:
    """Write the card of a version, for its adapter or for the whole model with the adapter merged in."""
    learned = learned_by(version)
    sections = [
        _what(version, merged=merged),
        _base(version),
        *(
            [_data(version, learned), _training(version, learned), _measured(learned)]
            if learned
            else []
        ),
        _limits(version, learned),
        _loading(version, merged=merged),
    ]
    return Card(head=_head(version, merged=merged), body="\n".join(sections))


def _head(version: ModelVersion, *, merged: bool) -> dict[str, Any]:
    """Return what the hub indexes. No licence: only the base's owner can say it."""
    is_whole = merged or version.is_base
    return {
        "base_model": bases.public_name(version.model.base_source),
        "library_name": "transformers" if is_whole else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["pairloop"] if version.is_base else ["dpo", "lora", "pairloop"],
    }


def _what(version: ModelVersion, *, merged: bool) -> str:
    model = version.model
    if version.is_base:
        what = "The base model that this loop began with, unchanged."
    elif version.average:
        what = (
            f"A LoRA adapter that is the weighted mean of {average_said(version.average)}, brought back to their"
            f" rank, which cost {version.average['lost']:.2%} of its norm. Nothing was trained."
            + (" It is merged into the base." if merged else "")
        )
    elif merged:
        what = (
            "The base with a LoRA adapter merged into it. The adapter was trained by Direct Preference"
            " Optimization on preferences between two answers, counted below."
        )
    else:
        what = (
            "A LoRA adapter, trained by Direct Preference Optimization on preferences between two answers,"
            " counted below."
        )
    return f"# {plain(model.name)} {version.label}\n\n{what}\n"


def _base(version: ModelVersion) -> str:
    model = version.model
    rows = [
        ("base", plain(bases.public_name(model.base_source))),
        ("parameters", f"{model.parameters / 1e6:.0f} million" if model.parameters else "unknown"),
        ("SHA-256 of the base's weights", _code(model.base_sha256)),
        ("SHA-256 of the tokenizer", _code(model.tokenizer_sha256)),
        ("SHA-256 of the chat template", _code(model.chat_template_sha256)),
        (f"SHA-256 of {version.label} in the registry", _code(version.sha256)),
        ("made", f"{version.created_at:%Y-%m-%d}"),
    ]
    if version.parent:
        rows.insert(1, ("parent", f"{version.parent.label}, {_code(version.parent.sha256)}"))
    note = f"\n{bases.DEMO_NOTE}\n" if model.base_source == bases.DEMO else ""
    return f"## Base\n\n{_table(FACTS, rows)}{note}"


def _data(version: ModelVersion, learned: Learned) -> str:
    dropped = ", ".join(
        f"{count} {plain(why)}" for why, count in measures.dropped_rows(version.metrics)
    )
    tags = ", ".join(f"{plain(tag)} {count}" for tag, count in learned.tags)
    rows = [
        ("round", str(learned.round.number)),
        ("SHA-256 of the snapshot", _code(learned.round.snapshot.sha256)),
        ("new triples", str(learned.new)),
        ("replayed triples", str(learned.replay)),
        ("of them from files, not judged here", str(learned.imported)),
        ("left out by the trainer", dropped or "none"),
        ("labelers", str(learned.labelers)),
        ("judged", _dates(learned)),
        ("triples by tag", tags or "no prompt has a tag"),
    ]
    return f"## What it learned from\n\n{_table(FACTS, rows)}"


def _training(version: ModelVersion, learned: Learned) -> str:
    spec = learned.round.spec
    loss, lora, optimizer = (spec.get(name, {}) for name in ("loss", "lora", "optimizer"))
    settings = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in optimizer.items())
    rows = [
        ("loss", presets.words(loss)),
        ("ties", "take part as ties" if loss.get("ties") else "count as half a win each"),
        ("reference", learned.round.reference),
        ("optimizer", f"AdamW, {settings}"),
        ("steps", str(steps_of(learned.round) or "unknown")),
        ("epochs", str(spec.get("epochs", "?"))),
        ("pairs of a step", f"up to {spec.get('batch_pairs', '?')}"),
        ("LoRA", f"rank {lora.get('rank', '?')}, alpha {lora.get('alpha', '?')}"),
        ("LoRA on", ", ".join(_code(name) for name in lora.get("target_modules", ()))),
        ("seed", str(spec.get("seed", "?"))),
    ]
    rows += [
        (f"{title.lower()} at the last step", f"{value} ({hint})" if hint else value)
        for title, value, hint in measures.training_rows(version.metrics, loss)
    ]
    return f"## How it was trained\n\n{_table(FACTS, rows)}"


def _measured(learned: Learned) -> str:
    """Write what is known about its answers, and how sure that is."""
    round_ = learned.round
    lines = ["## What was measured", ""]
    accuracy = measures.values_of(round_).get("accuracy")
    if accuracy and accuracy.interval:
        least, most = accuracy.interval
        lines += [
            (
                f"On {accuracy.cases} held-out triples, the good answer gained on the bad one, against the"
                f" reference, in {accuracy.value:.0%} (95 % interval {least:.0%} to {most:.0%})."
            ),
            "",
        ]
    rows = reports.measured_rows(round_.evaluation)
    if rows:
        answers = round_.evaluation["version"]["answers"]
        lines += [
            f"{answers} answers to {round_.evaluation['prompts']} held-out prompts, which nobody trained on:",
            "",
            _table(
                ("", "this version", "its parent", "base", ""),
                [(row.title.lower(), *row.cells) for row in rows],
            ),
        ]
    elif not accuracy:
        lines += ["Nothing yet: its answers to held-out prompts were not measured.", ""]
    return "\n".join(lines)


def _limits(version: ModelVersion, learned: Learned | None) -> str:
    limits = []
    if learned:
        limits += _limits_of_round(learned)
    if version.average:
        limits.append(
            "What its parts learned from is in their cards. Its own answers were measured by no guardrail."
        )
    if version.state in {ModelVersion.State.RETIRED, ModelVersion.State.CORRUPT}:
        limits.append(f"It is {version.state} in the registry.")
    limits += [
        "It was not tested for safety, bias or facts, and keeps whatever limits the base has.",
        "This card names no licence: the base's licence and the rights to the prompts decide.",
    ]
    return "## Known limits\n\n" + "".join(f"- {limit}\n" for limit in limits)


def _limits_of_round(learned: Learned) -> list[str]:
    evaluation = learned.round.evaluation
    limits = [
        (
            f"It knows the taste of {learned.labelers} labeler{'' if learned.labelers == 1 else 's'}. How far they"
            " agree with each other was not measured."
        )
    ]
    pairs = int(learned.round.holdout.get("pairs") or 0)
    if pairs < LEAST_HOLDOUT:
        limits.append(
            f"Only {pairs or 'no'} held-out triple{'' if pairs == 1 else 's'} had been judged before its round;"
            f" below {LEAST_HOLDOUT}, how often it prefers the good answer is chance."
        )
    broken = [check["name"] for check in evaluation.get("guardrails", []) if not check["is_kept"]]
    if broken:
        names = ", ".join(reports.GUARDRAILS.get(name, name).lower() for name in broken)
        limits.append(f"It broke automatic guardrails: {names}.")
    return limits


def _loading(version: ModelVersion, *, merged: bool) -> str:
    """Show how the exported folder is loaded."""
    if merged or version.is_base:
        code = [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'folder = "."  # this one',
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
            "model = AutoModelForCausalLM.from_pretrained(folder)",
        ]
    else:
        name = json.dumps(bases.public_name(version.model.base_source), ensure_ascii=False)
        code = [
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM",
            "",
            f"base = AutoModelForCausalLM.from_pretrained({name})",
            'model = PeftModel.from_pretrained(base, ".")  # this folder',
        ]
    return "\n".join(["## How to load it", "", "```python", *code, "```", ""])


def _dates(learned: Learned) -> str:
    if not learned.first_at or not learned.last_at:
        return "unknown"
    first, last = f"{learned.first_at:%Y-%m-%d}", f"{learned.last_at:%Y-%m-%d}"
    return first if first == last else f"{first} to {last}"


def plain(text: str) -> str:
    """Return what somebody typed as markdown that shows it as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    return f"`{text}`" if text else "unknown"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
