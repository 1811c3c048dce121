"""The version a round makes: an adapter that PEFT and vLLM load, a canary and a card. No time, no machine's path."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save

from training.dpo import files, model
from training.dpo.data import Data, Row
from training.dpo.failures import RoundFailed
from training.dpo.pack import pack
from training.dpo.score import Scorer
from training.dpo.spec import Spec

CANARY_ROWS = 3


@dataclass(frozen=True, slots=True)
class Report:
    """What the card tells beyond the settings."""

    snapshot: Data
    holdout: Data
    steps: int
    before: dict[str, Any] | None
    after: dict[str, Any] | None


def write(folder: Path, *, policy: PeftModel, by: Scorer, spec: Spec, report: Report) -> None:
    """Write the version's folder, whole or not at all. Raises RoundFailed."""
    rows = list(dict.fromkeys(triple.chosen for triple in report.snapshot.triples))[:CANARY_ROWS]
    with files.folder(folder) as draft:
        tensors = save(model.adapter_get(policy), metadata={"format": "pt"})
        files.write(draft / "adapter_model.safetensors", tensors)
        files.write_json(draft / "adapter_config.json", _config(spec))
        files.write_json(draft / "canary.json", canary(by, rows))
        files.write(draft / "README.md", card(spec, report).encode())


def canary(by: Scorer, rows: list[Row]) -> dict[str, Any]:
    """Return what an engine must reproduce to have proved that it applies the adapter. Raises RoundFailed."""
    found: list[dict[str, Any]] = []
    with torch.no_grad():
        for row in rows:
            whole = pack([Row(row.prompt, row.completion)])
            found.append(
                {
                    "prompt_ids": list(row.prompt),
                    "completion_ids": list(row.completion),
                    "base": by.log_probs(whole, adapter=False).tolist(),
                    "adapter": by.log_probs(whole).tolist(),
                }
            )
    # Without held-out pairs nothing has looked at what the last step left.
    if not all(math.isfinite(value) for each in found for value in each["adapter"]):
        raise RoundFailed(
            "loss_not_finite",
            "The version scores its own answers with numbers that are not finite; lower the learning rate.",
        )
    return {"rows": found}


def card(spec: Spec, report: Report) -> str:
    """Return the version's card as markdown."""
    parent = f"v{spec.parent.number} (`{spec.parent.sha256}`)"
    dropped = ", ".join(
        f"{count} {reason}" for reason, count in sorted(report.snapshot.dropped.items())
    )
    lora = spec.lora
    settings = ", ".join(
        f"{name.replace('_', ' ')} {value:g}" for name, value in asdict(spec.optimizer).items()
    )
    lines = [
        f"# {spec.round.model}, round {spec.round.number}",
        "",
        "A LoRA adapter, trained by Direct Preference Optimization on people's judgements.",
        "",
        "| | |",
        "| --- | --- |",
        f"| base | `{spec.base.sha256}` |",
        f"| parent | {parent} |",
        f"| reference | {_reference(spec)} |",
        f"| pairs | {len(report.snapshot.triples)}, of which {report.snapshot.tokenised} tokenised by the trainer |",
        f"| dropped | {dropped or 'none'} |",
        f"| loss | {_loss(spec)} |",
        f"| optimizer | AdamW, {settings} |",
        f"| steps | {report.steps}: {spec.epochs} epochs, up to {spec.batch_pairs} pairs a step, seed {spec.seed} |",
        f"| LoRA | rank {lora.rank}, alpha {lora.alpha}, {', '.join(lora.target_modules)} |",
        f"| held-out pairs | {len(report.holdout.triples)} |",
        f"| held-out before | {_measured(report.before)} |",
        f"| held-out after | {_measured(report.after)} |",
    ]
    return "\n".join(lines) + "\n"


def _reference(spec: Spec) -> str:
    if spec.reference is None:
        return "none: the loss needs none"
    return f"{spec.reference.kind} (`{spec.reference.sha256}`)"


def _loss(spec: Spec) -> str:
    """Return the loss with every option that is set."""
    options = {name: value for name, value in asdict(spec.loss).items() if name != "name" and value}
    told = (
        name.replace("_", " ") if value is True else f"{name} {value:g}"
        for name, value in options.items()
    )
    return ", ".join([spec.loss.name, *told])


def _measured(values: dict[str, Any] | None) -> str:
    if values is None:
        return "not measured"
    return ", ".join(
        f"{name} {'-' if value is None else format(value, '.4f')}" for name, value in values.items()
    )


def _config(spec: Spec) -> dict[str, Any]:
    """Return adapter_config.json, with sets as sorted lists, so that equal rounds write equal bytes."""
    config = model.lora_config(spec.lora).to_dict() | {
        "target_modules": sorted(spec.lora.target_modules),
        "inference_mode": True,
        "base_model_name_or_path": None,
    }
    # PEFT's enums are strings to json, but not to everybody.
    plain: dict[str, Any] = json.loads(json.dumps(config, default=str))
    return plain
