"""The token contract: which tokens a round learns from, byte for byte, with a ChatML tokenizer of bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.training.dpo import rounds, tiny

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<s>", "<|im_start|>", "<|im_end|>"]
#: Across the boundary of prompt and answer, and within an answer.
MERGES = [("Ċ", "H"), ("H", "e")]
BETA = 0.1


def base_save(folder: Path) -> PreTrainedTokenizerFast:
    """Save a random model that reads bytes where tiny.spec() looks for the base; return its tokenizer.

    Its tokenizer puts <s> in front of whatever it is not told to leave alone, and merges across the boundary.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *("".join(pair) for pair in MERGES)]
    tokenizer = Tokenizer(models.BPE({piece: n for n, piece in enumerate(pieces)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in SPECIAL])
    first = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", first)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|im_end|>"
    )
    fast.chat_template = CHATML
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, eos_token_id=fast.eos_token_id,
        bos_token_id=fast.bos_token_id, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / tiny.BASE)
    fast.save_pretrained(folder / tiny.BASE)
    return fast


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    base_save(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(place: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(place / tiny.BASE)


def line(chosen: str, rejected: str, **changes: Any) -> dict[str, Any]:
    """Return a line as an import makes it: text, no ids, finished by nobody."""
    return {
        "prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "prompt_ids": None,
        "chosen_ids": None,
        "rejected_ids": None,
        "target": 1.0,
        "weight": 1.0,
        "finish": {"chosen": None, "rejected": None},
        "pair": 1,
        "role": "new",
    } | changes


def train(place: Path, folder: Path, *lines: dict[str, Any], **loss: Any) -> Path:
    """Run a short round whose held-out lines are its lines too, so that it reports their margin."""
    return rounds.run(
        folder,
        "round",
        list(lines),
        holdout=list(lines),
        base={"path": str(place / tiny.BASE), "sha256": tiny.BASE},
        loss=rounds.loss(beta=BETA, **loss),
        lora={"rank": 8, "alpha": 16, "target_modules": rounds.ALL_LINEAR},
        optimizer=rounds.optimizer(),
        max_tokens=128,
        epochs=3,
    )


def trained_on(folder: Path) -> list[tuple[list[int], list[int]]]:
    """Return prompt and completion of the rows that the version's canary was taken from."""
    rows = json.loads((folder / "version" / "canary.json").read_text())["rows"]
    return [(each["prompt_ids"], each["completion_ids"]) for each in rows]


def margin(
    place: Path, folder: Path, prompt: list[int], chosen: list[int], rejected: list[int]
) -> float:
    """Return d of a pair by plain transformers: every token of an answer scored, no other one."""
    model = rounds.loaded(place, folder / "version")
    drifts = [rounds.drift(model, prompt, completion) for completion in (chosen, rejected)]
    return BETA * (drifts[0] - drifts[1])


def reported(folder: Path, name: str = "margin") -> float:
    """Return what the round measured on its held-out pair after its last step."""
    found: float = json.loads((folder / "eval.json").read_text())["after"][name]
    return found


class TestIdsOfTheEngine:
    def test_are_trained_on_as_they_are(
        self, place: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        # An engine may sample H and e where the tokenizer would write He.
        h, e, end = (tokenizer.convert_tokens_to_ids(each) for each in ("H", "e", "<|im_end|>"))
        prompt, chosen, rejected = [5, 6, 7], [h, e, h, end], [e, e]
        assert tokenizer(tokenizer.decode(chosen), add_special_tokens=False)["input_ids"] != chosen
        given = {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        finish = {"chosen": "stop", "rejected": "length"}

        folder = train(place, tmp_path, line("HeH", "ee", **given, finish=finish))

        assert trained_on(folder) == [(prompt, chosen)]
        assert tiny.events(folder, "start")[0]["tokenised"] == 0
        expected = margin(place, folder, prompt, chosen, rejected)
        assert abs(expected) > 0.05
        assert reported(folder) == pytest.approx(expected, abs=1e-5)
        # The chosen one's end was sampled and is scored; the rejected one was cut off and has none.
        for other in ((chosen[:-1], rejected), (chosen, [*rejected, end])):
            assert abs(margin(place, folder, prompt, *other) - expected) > 1e-4
        # In a margin what both have in common cancels out; in a drift tokens of the prompt would show.
        drift = rounds.drift(rounds.loaded(place, folder / "version"), prompt, chosen)
        assert reported(folder, "drift_chosen") == pytest.approx(drift, abs=1e-5)

    def test_may_leave_out_what_only_the_template_reads(
        self, place: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
        prompt, chosen, rejected = [5, 6, 7], [8, start, 9, end], [10, 11, end]
        given = {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}

        folder = train(place, tmp_path, line("?", "?", **given), mask_special=True)

        model = rounds.loaded(place, folder / "version")
        adapted = rounds.log_probs(model, prompt, chosen)
        with model.disable_adapter():
            drifts = (adapted - rounds.log_probs(model, prompt, chosen)).tolist()
        assert reported(folder, "drift_chosen") == pytest.approx(drifts[0] + drifts[2], abs=1e-5)
        assert abs(drifts[1] + drifts[3]) > 1e-3


class TestText:
    @pytest.mark.parametrize(
        "text",
        [
            "Hello",
            "  spaces before, and after  ",
            "\n\nlines\r\nand\ttabs\n",
            "é as one, e\u0301 as two",
            "\u2028 \x85 \x00",
            "漢字 🙂",
        ],
    )
    def test_is_the_answer_to_the_byte(
        self, place: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast, text: str
    ) -> None:
        folder = train(place, tmp_path, line(text, "no"))

        ((prompt, completion),) = trained_on(folder)
        assert completion[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(completion[:-1], clean_up_tokenization_spaces=False) == text
        assert (
            tokenizer.decode(prompt) == "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        )

    def test_is_not_merged_across_the_boundary(
        self, place: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        folder = train(place, tmp_path, line("Hello", "no"))

        ((prompt, completion),) = trained_on(folder)
        together = tokenizer.decode([*prompt, *completion])
        assert tokenizer(together, add_special_tokens=False)["input_ids"] != [*prompt, *completion]
        assert tokenizer.convert_ids_to_tokens(prompt[-1]) == "Ċ"
        assert tokenizer.convert_ids_to_tokens(completion[0]) == "He"

    def test_begins_once(
        self, place: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        turns = [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "And?"},
        ]
        # This tokenizer would begin every text that it is given.
        assert tokenizer("Hi")["input_ids"][0] == tokenizer.bos_token_id

        folder = train(place, tmp_path, line("yes", "no", prompt=turns))

        ((prompt, completion),) = trained_on(folder)
        assert prompt[0] == tokenizer.bos_token_id
        assert [*prompt, *completion].count(tokenizer.bos_token_id) == 1

    @pytest.mark.parametrize(("finish", "ends"), [("stop", 1), (None, 1), ("length", 0)])
    def test_ends_once_unless_it_was_cut_off(
        self, place: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast,
        finish: str | None, ends: int,
    ) -> None:  # fmt: skip
        folder = train(
            place, tmp_path, line("yes", "no", finish={"chosen": finish, "rejected": finish})
        )

        ((prompt, completion),) = trained_on(folder)
        assert completion.count(tokenizer.eos_token_id) == ends
        # The template would go on with a line feed, which the model never writes.
        assert completion == [
            *tokenizer("yes", add_special_tokens=False)["input_ids"],
            *[tokenizer.eos_token_id] * ends,
        ]
        no = [
            *tokenizer("no", add_special_tokens=False)["input_ids"],
            *[tokenizer.eos_token_id] * ends,
        ]
        assert reported(folder) == pytest.approx(
            margin(place, folder, prompt, completion, no), abs=1e-5
        )

    def test_that_brings_its_own_end_is_not_ended_twice(
        self, place: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        folder = train(place, tmp_path, line("yes<|im_end|>", "no"))

        ((_, completion),) = trained_on(folder)
        assert completion.count(tokenizer.eos_token_id) == 1

    def test_is_flagged(self, place: Path, tmp_path: Path) -> None:
        folder = train(place, tmp_path, line("yes", "no"))

        assert tiny.events(folder, "start")[0]["tokenised"] == 2
        assert (
            "1, of which 1 tokenised by the trainer"
            in (folder / "version" / "README.md").read_text()
        )
