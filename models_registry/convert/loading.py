"""Load a base once and let it answer, so that a broken one is refused today and not in a round."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from models_registry.convert.checks import BaseRefused

QUESTION = [{"role": "user", "content": "Say hello."}]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is only known after loading."""

    chat_template_sha256: str
    parameters: int
    #: Tokens that prompt and completion may have together.
    context_length: int


def load_check(folder: Path) -> Loaded:
    """Load tokenizer and model without code of their own and run one forward pass. Raises BaseRefused."""
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise _not_loading("tokenizer", error) from error
    template = tokenizer.chat_template
    if not isinstance(template, str) or not template.strip():
        raise BaseRefused(
            "base_chat_template_missing",
            "The tokenizer has no chat template, so Pairloop cannot ask this model anything; "
            "take the instruct variant of the model.",
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        ids = tokenizer.apply_chat_template(
            QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]  # (1, T)
        with torch.no_grad():
            logits = model(ids).logits  # (1, T, V)
    except Exception as error:
        raise _not_loading("model", error) from error
    if not torch.isfinite(logits).all():
        raise BaseRefused("base_not_finite", "The model answers with numbers that are not finite.")
    return Loaded(
        chat_template_sha256=hashlib.sha256(template.encode()).hexdigest(),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        context_length=int(getattr(model.config, "max_position_embeddings", 0) or 0),
    )


def _not_loading(what: str, error: Exception) -> BaseRefused:
    reason = " ".join(str(error).split())[:300]
    return BaseRefused(
        "base_not_loading", f"The {what} does not load: {type(error).__name__}: {reason}"
    )
