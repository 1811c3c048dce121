"""The mean of adapters, against the whole matrices that the program never makes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from tests.training.dpo import tiny
from training.dpo import average
from training.dpo.failures import RoundFailed

ROOT = Path(__file__).resolve().parents[3]
RANK, ALPHA = 4, 8
ROWS = [([1, 5, 6, 2], [7, 8, tiny.END]), ([1, 9, 2], [10, 11])]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base."""
    return tiny.base_save(tmp_path_factory.mktemp("base"))


def adapter_save(
    folder: Path, base: Path, *, seed: int, rank: int = RANK, targets: tuple[str, ...] = ("q_proj",)
) -> Path:
    """Write a random adapter on the base with everything that a round leaves beside it."""
    torch.manual_seed(seed)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=ALPHA, target_modules=list(targets)
    )
    policy = get_peft_model(LlamaForCausalLM.from_pretrained(base), config).eval()
    for name, weight in policy.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    policy.save_pretrained(folder)
    (folder / "README.md").write_text("# An adapter\n")
    (folder / "canary.json").write_text(
        json.dumps({"rows": [canary_row(policy, *row) for row in ROWS]})
    )
    return folder


def canary_row(policy: PeftModel, prompt: list[int], completion: list[int]) -> dict[str, Any]:
    with policy.disable_adapter():
        plain = average.log_probs(policy, prompt, completion).tolist()
    return {
        "prompt_ids": prompt,
        "completion_ids": completion,
        "base": plain,
        "adapter": average.log_probs(policy, prompt, completion).tolist(),
    }


def updates(folder: Path) -> dict[str, Tensor]:
    """Return the whole matrices that an adapter adds, by the layer's name; in float64."""
    tensors = {
        name: tensor.double() for name, tensor in load_file(folder / average.WEIGHTS).items()
    }
    config = json.loads((folder / average.CONFIG).read_text())
    return {
        name.removesuffix(average.A): config["lora_alpha"]
        / config["r"]
        * tensors[name.removesuffix(average.A) + average.B]
        @ tensors[name]
        for name in tensors
        if name.endswith(average.A)
    }


def run(out: Path, *folders: Path, base: Path, weights: str | None = None) -> float:
    shares = average.shares_of(weights, len(folders))
    return average.average(out, list(folders), base=base, shares=shares).lost


class TestAverage:
    def test_is_exact_where_the_rank_is_enough(self, tmp_path: Path, base: Path) -> None:
        # Two adapters of rank 2 written as rank 4: their mean has rank 4 at most.
        folders = [adapter_save(tmp_path / str(n), base, seed=n) for n in (1, 2)]
        for folder in folders:
            tensors = load_file(folder / average.WEIGHTS)
            for name in tensors:
                if name.endswith(average.A):
                    tensors[name][2:] = 0
            save_file(tensors, folder / average.WEIGHTS)

        lost = run(tmp_path / "mean", *folders, base=base, weights="3,1")

        assert lost < 1e-7
        one, other = (updates(folder) for folder in folders)
        for name, found in updates(tmp_path / "mean").items():
            torch.testing.assert_close(
                found, 0.75 * one[name] + 0.25 * other[name], atol=1e-6, rtol=0
            )

    def test_is_the_best_of_its_rank_and_says_what_is_lost(
        self, tmp_path: Path, base: Path
    ) -> None:
        targets = ("q_proj", "v_proj", "down_proj")
        folders = [
            adapter_save(tmp_path / str(n), base, seed=n, targets=targets) for n in (1, 2, 3)
        ]

        lost = run(tmp_path / "mean", *folders, base=base, weights="0.2,0.3,0.5")

        parts = [updates(folder) for folder in folders]
        found = updates(tmp_path / "mean")
        assert len(found) == 6
        gone = whole = 0.0
        for name in found:
            exact = sum(
                share * part[name] for share, part in zip((0.2, 0.3, 0.5), parts, strict=True)
            )
            # Eckart and Young: no matrix of this rank is nearer than the cut singular values are long.
            sizes = torch.linalg.svdvals(exact)
            least = sizes[RANK:].square().sum().sqrt()
            distance = torch.linalg.norm(found[name] - exact)
            assert distance.item() == pytest.approx(least.item(), rel=1e-5)
            gone += least.item() ** 2
            whole += torch.linalg.norm(exact).item() ** 2
        assert 0.1 < lost < 0.9
        assert lost == pytest.approx(math.sqrt(gone / whole), rel=1e-6)

    def test_of_one_thing_twice_is_that_thing(self, tmp_path: Path, base: Path) -> None:
        folder = adapter_save(tmp_path / "1", base, seed=1)

        assert run(tmp_path / "mean", folder, folder, base=base) < 1e-7

        recorded = json.loads((folder / "canary.json").read_text())["rows"]
        fresh = json.loads((tmp_path / "mean" / "canary.json").read_text())["rows"]
        for one, other in zip(recorded, fresh, strict=True):
            assert one["adapter"] == pytest.approx(other["adapter"], abs=1e-5)

    def test_of_nothing_is_nothing(self, tmp_path: Path, base: Path) -> None:
        folder = adapter_save(tmp_path / "1", base, seed=1)
        tensors = load_file(folder / average.WEIGHTS)
        save_file(
            {name: torch.zeros_like(t) for name, t in tensors.items()}, folder / average.WEIGHTS
        )

        assert run(tmp_path / "mean", folder, folder, base=base) == 0.0

        assert all(not matrix.any() for matrix in updates(tmp_path / "mean").values())

    def test_fills_up_a_layer_that_is_narrower_than_the_rank(
        self, tmp_path: Path, base: Path
    ) -> None:
        # The values are 16 wide.
        folders = [
            adapter_save(tmp_path / str(n), base, seed=n, rank=32, targets=("v_proj",))
            for n in (1, 2)
        ]

        assert run(tmp_path / "mean", *folders, base=base) < 1e-7

        one, other = (updates(folder) for folder in folders)
        for name, found in updates(tmp_path / "mean").items():
            torch.testing.assert_close(found, (one[name] + other[name]) / 2, atol=1e-5, rtol=0)

    def test_writes_what_peft_loads_and_how_it_scores(self, tmp_path: Path, base: Path) -> None:
        folders = [adapter_save(tmp_path / str(n), base, seed=n) for n in (1, 2)]
        run(tmp_path / "mean", *folders, base=base)

        mean = tmp_path / "mean"
        assert sorted(path.name for path in mean.iterdir()) == [
            "README.md", "adapter_config.json", "adapter_model.safetensors", "canary.json",
        ]  # fmt: skip
        policy = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), mean).eval()
        rows = json.loads((mean / "canary.json").read_text())["rows"]
        assert len(rows) == 2
        for row in rows:
            scores = average.log_probs(policy, row["prompt_ids"], row["completion_ids"])
            assert row["adapter"] == pytest.approx(scores.tolist(), abs=1e-6)
            assert row["adapter"] != pytest.approx(row["base"], abs=1e-3)
        card = (mean / "README.md").read_text()
        assert "| `1` | 0.5 |" in card
        assert str(tmp_path) not in card + (mean / "adapter_config.json").read_text()


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "says"),
        [({"rank": 8}, "rank 4, 2 8"), ({"targets": ("q_proj", "o_proj")}, "change other layers")],
    )
    def test_of_adapters_that_differ(
        self, tmp_path: Path, base: Path, change: dict[str, Any], says: str
    ) -> None:
        folders = [
            adapter_save(tmp_path / "1", base, seed=1),
            adapter_save(tmp_path / "2", base, seed=2, **change),
        ]

        with pytest.raises(RoundFailed, match=says):
            run(tmp_path / "mean", *folders, base=base)

        assert not (tmp_path / "mean").exists()

    def test_of_an_adapter_on_another_base(self, tmp_path: Path, base: Path) -> None:
        other = tmp_path / "other"
        model = LlamaForCausalLM.from_pretrained(base)
        with torch.no_grad():
            model.model.embed_tokens.weight.add_(0.05)
        model.save_pretrained(other)
        folders = [
            adapter_save(tmp_path / "1", base, seed=1),
            adapter_save(tmp_path / "2", other, seed=2),
        ]

        with pytest.raises(RoundFailed, match="2 was made on another base"):
            run(tmp_path / "mean", *folders, base=base)

        assert not (tmp_path / "mean").exists()

    def test_of_an_adapter_that_is_no_plain_one(self, tmp_path: Path, base: Path) -> None:
        folder = adapter_save(tmp_path / "1", base, seed=1)
        config = json.loads((folder / average.CONFIG).read_text()) | {"use_rslora": True}
        (folder / average.CONFIG).write_text(json.dumps(config))

        with pytest.raises(RoundFailed, match="1 is no plain LoRA adapter"):
            run(tmp_path / "mean", folder, folder, base=base)

    @pytest.mark.parametrize("weights", ["", "x,1", "1", "1,-1", "1,0", "1,nan", "1,inf"])
    def test_of_weights_that_are_none(self, weights: str) -> None:
        with pytest.raises(RoundFailed):
            average.shares_of(weights, 2)


class TestMain:
    pytestmark = pytest.mark.timeout(300)

    def test_tells_a_program_what_is_lost(self, tmp_path: Path, base: Path) -> None:
        folders = [adapter_save(tmp_path / str(n), base, seed=n) for n in (1, 2)]

        done = self.run(tmp_path / "mean", *folders, "--base", base, "--weights", "2,6")

        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        assert told["shares"] == [0.25, 0.75]
        assert 0 < told["lost"] < 1

    def test_refuses_in_a_sentence(self, tmp_path: Path, base: Path) -> None:
        done = self.run(tmp_path / "mean", tmp_path / "nowhere", "--base", base)

        assert done.returncode == 1
        assert done.stderr.strip() == "These adapters cannot be averaged: it takes two at least."

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "training.dpo.average", *map(str, arguments)],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
