"""Merging an adapter into its base, in the environment with torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from models_registry.convert import merge
from tests.convert import tiny

IDS = torch.tensor([[1, 4, 5, 6, 2, 3]])  # (1, T)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    tiny.model_save(folder)
    return folder


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """An adapter that changes something."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=8, lora_alpha=16, target_modules=["q_proj", "down_proj"], init_lora_weights=False
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(
        tmp_path / "adapter"
    )
    return tmp_path / "adapter"


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits  # (1, T, V)
    return found


class TestMain:
    def test_computes_what_base_and_adapter_do(
        self, base: Path, adapter: Path, tmp_path: Path
    ) -> None:
        target = tmp_path / "merged"

        assert merge.main([str(base), str(adapter), str(target)]) == 0

        plain = AutoModelForCausalLM.from_pretrained(base)
        before = logits(plain)
        with_adapter = logits(PeftModel.from_pretrained(plain, adapter))
        merged = AutoModelForCausalLM.from_pretrained(
            target, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        assert torch.allclose(logits(merged), with_adapter, atol=1e-4)
        assert not torch.allclose(before, with_adapter, atol=1e-2)

    def test_keeps_the_bases_tokenizer_and_template(
        self, base: Path, adapter: Path, tmp_path: Path
    ) -> None:
        (base / "generation_config.json").write_text(json.dumps({"max_new_tokens": 7}))
        (base / "LICENSE").write_text("Mine.")
        target = tmp_path / "merged"

        merge.main([str(base), str(adapter), str(target)])

        for name in (
            "tokenizer.json",
            "tokenizer_config.json",
            "generation_config.json",
            "LICENSE",
        ):
            assert (target / name).read_bytes() == (base / name).read_bytes()
        tokenizer = AutoTokenizer.from_pretrained(target)
        hello = [{"role": "user", "content": "hello"}]
        assert tokenizer.apply_chat_template(hello, tokenize=False) == "<user> hello <assistant>"
        assert {path.suffix for path in target.iterdir()} <= {".json", ".safetensors", ".jinja", ""}
        assert json.loads((target / "config.json").read_text())["dtype"] == "float32"
