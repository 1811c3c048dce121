from __future__ import annotations

import random
from collections import Counter

import pytest

from annotate import screening
from models_registry.engine.types import SampledCompletion


def completion(text: str, finish_reason: str = "stop") -> SampledCompletion:
    return SampledCompletion(text=text, token_ids=(1, 2), finish_reason=finish_reason)


FOUR = [completion(text) for text in ("The sea is calm.", "Waves roll in.", "Blue water.", "Salt.")]


class TestScreen:
    def test_makes_up_to_the_number_of_pairs_it_is_asked_for(self) -> None:
        screened = screening.screen(FOUR, most=3, chance=random.Random(1))

        assert len(screened.pairs) == 3
        assert len({frozenset(pair) for pair in screened.pairs}) == 3
        assert not screened.drops

    def test_uses_every_completion_before_it_repeats_one(self) -> None:
        screened = screening.screen(FOUR, most=2, chance=random.Random(1))

        assert Counter(position for pair in screened.pairs for position in pair) == Counter(
            range(4)
        )

    def test_counts_what_it_leaves_out_by_reason(self) -> None:
        completions = [
            completion("The sea is calm."),
            completion("", "stop"),
            completion("The sea is so calm that", "length"),
            completion("Hello! I'm SmolLM, how can I help?"),
        ]

        screened = screening.screen(completions, most=3, chance=random.Random(1))

        assert screened.pairs == []
        assert screened.drops == {"empty": 1, "truncated": 1, "identity": 1}

    def test_leaves_out_pairs_that_say_the_same(self) -> None:
        completions = [completion("The sea is calm."), completion("the  sea is calm.")]

        screened = screening.screen(completions, most=3, chance=random.Random(1))

        assert screened.pairs == []
        assert screened.drops == {"near_identical": 1}

    @pytest.mark.parametrize("count", [0, 1])
    def test_makes_no_pair_of_fewer_than_two(self, count: int) -> None:
        assert screening.screen(FOUR[:count], most=3, chance=random.Random(1)).pairs == []


class TestUnusable:
    @pytest.mark.parametrize(
        "text",
        [
            "I am ChatGPT.",
            "I\u2019m Claude, made by Anthropic.",
            "My name is SmolLM2 and I help.",
            "As a model trained by Hugging Face, I cannot.",
            "I was developed by OpenAI.",
        ],
    )
    def test_knows_who_gives_itself_away(self, text: str) -> None:
        assert screening.unusable(completion(text)) == "identity"

    @pytest.mark.parametrize(
        "text",
        ["I am a gray cat.", "Gemini is a sign of the zodiac.", "Claude Monet painted lilies."],
    )
    def test_lets_ordinary_sentences_pass(self, text: str) -> None:
        assert screening.unusable(completion(text)) == ""


class TestNearIdentical:
    def test_counts_words_in_order(self) -> None:
        long = " ".join(f"word{number}" for number in range(40))

        assert screening.near_identical(long, f"{long} end")
        assert not screening.near_identical("Blue is calm.", "Red is calm.")
