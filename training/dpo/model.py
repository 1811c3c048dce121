"""The base in float32 and one LoRA adapter on it; safetensors only, and no code that a model brings along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from training.dpo.data import Tokeniser
from training.dpo.failures import RoundFailed
from training.dpo.spec import Base, Lora, Parent, Spec

#: What of an adapter's config must be empty for vLLM to load it.
PLAIN = (
    "use_dora", "use_rslora", "use_qalora", "use_bdlora", "lora_bias", "modules_to_save", "rank_pattern", "alpha_pattern",
    "target_parameters", "trainable_token_indices", "layer_replication", "fan_in_fan_out",
)  # fmt: skip


def policy_load(spec: Spec) -> PeftModel:
    """Return the base with the parent's adapter, or with a fresh one that changes nothing. Raises RoundFailed.

    Everything is in evaluation mode and stays there: without dropout policy and reference cannot differ by
    chance. Only the adapter has gradients.
    """
    base = _base_load(spec.base)
    _check_targets(base, spec.lora)
    # The fresh adapter's A is random.
    torch.manual_seed(spec.seed)
    policy = get_peft_model(base, lora_config(spec.lora))
    if spec.parent.path is not None:
        adapter_set(policy, parent_read(spec.parent, spec.parent.path, spec.lora))
    return policy.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def lora_config(lora: Lora) -> LoraConfig:
    """Return the plain LoRA that vLLM loads."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(lora.target_modules),
        lora_dropout=0.0,
        bias="none",
    )


def adapter_get(policy: PeftModel) -> dict[str, Tensor]:
    """Return the adapter's tensors by the names PEFT gives them in files."""
    found: dict[str, Tensor] = get_peft_model_state_dict(policy)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(found.items())}


def adapter_set(policy: PeftModel, tensors: dict[str, Tensor]) -> None:
    """Put tensors into the adapter. Raises RoundFailed when they are not exactly its own."""
    own = {name: tensor.shape for name, tensor in adapter_get(policy).items()}
    if own != {name: tensor.shape for name, tensor in tensors.items()}:
        raise _parent_mismatch("its tensors are not those of the base with this rank and targets")
    set_peft_model_state_dict(policy, {name: tensor.float() for name, tensor in tensors.items()})


def trainable(policy: PeftModel) -> dict[str, torch.nn.Parameter]:
    """Return the parameters that are trained, by name."""
    return {name: weight for name, weight in policy.named_parameters() if weight.requires_grad}


def vocabulary(policy: PeftModel) -> int:
    """Return how many token ids the model knows."""
    return int(policy.get_input_embeddings().num_embeddings)


def context(policy: PeftModel) -> int | None:
    """Return how many tokens the model can read, None when its config does not say."""
    found: int | None = getattr(policy.config, "max_position_embeddings", None)
    return found


def tokeniser_load(base: Base) -> Tokeniser:
    """Return how the base turns messages and answers into ids, for triples that came without. Raises RoundFailed."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            base.path, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise _base_mismatch("tokenizer", error) from error

    def prompt(messages: list[dict[str, str]]) -> list[int]:
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        return list(ids["input_ids"])

    def answer(text: str, finish: str | None) -> list[int]:
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        # An answer that was cut off did not end, and must not be taught to; imported ones may bring their end along.
        ended = finish == "length" or ids[-1:] == [tokenizer.eos_token_id]
        return ids if ended else [*ids, tokenizer.eos_token_id]

    return Tokeniser(prompt=prompt, answer=answer, special=_special(tokenizer))


def _special(tokenizer: Any) -> frozenset[int]:
    """Return the ids of all special tokens, also of those without a role, such as the headers of Llama 3."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added.union(tokenizer.all_special_ids))


def _base_load(base: Base) -> torch.nn.Module:
    logging.disable_progress_bar()
    try:
        model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
            base.path, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )  # fmt: skip
    except MemoryError:
        raise
    except Exception as error:
        raise _base_mismatch("model", error) from error
    return model


def _check_targets(base: torch.nn.Module, lora: Lora) -> None:
    linear = {
        name.rpartition(".")[2]
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    missing = [target for target in lora.target_modules if target not in linear]
    if missing:
        raise RoundFailed(
            "adapter_unsupported",
            f"The base has no linear layers called {', '.join(missing)}; change the model's target modules.",
        )


def parent_read(parent: Parent, path: Path, lora: Lora) -> dict[str, Tensor]:
    """Read the parent's adapter after comparing its config with the round's. Raises RoundFailed."""
    try:
        config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
        tensors: dict[str, Tensor] = load_file(path / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise _parent_mismatch(f"it cannot be read ({error})") from error
    fancy = [name for name in PLAIN if config.get(name)]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or fancy:
        raise RoundFailed(
            "adapter_unsupported",
            f"The parent v{parent.number} is no plain LoRA adapter ({', '.join(fancy) or 'type or bias'}); "
            "start the round from the base.",
        )
    wanted: dict[str, Any] = {
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": sorted(lora.target_modules),
    }
    found = {name: config.get(name) for name in wanted}
    if isinstance(found["target_modules"], list):
        found["target_modules"] = sorted(found["target_modules"])
    if found != wanted:
        raise _parent_mismatch(f"it has {found}, the model {wanted}")
    return tensors


def _base_mismatch(what: str, error: Exception) -> RoundFailed:
    reason = " ".join(str(error).split())[:300]
    return RoundFailed(
        "base_mismatch",
        f"The base's {what} does not load ({type(error).__name__}: {reason}); register the base again.",
    )


def _parent_mismatch(why: str) -> RoundFailed:
    return RoundFailed(
        "parent_mismatch", f"The parent cannot be continued: {why}. Start the round from the base."
    )
