from __future__ import annotations

from typing import Any

import pytest

from annotate import prompts
from pairloop.up import seed

USER = {"role": "user", "content": "Say hello."}


class TestParse:
    def test_turns_a_prompt_into_one_user_message(self) -> None:
        line = prompts.parse({"prompt": " Say hello. ", "tags": ["b", "a", "b"]})

        assert line.messages == [USER]
        assert line.tags == ["a", "b"]

    def test_keeps_a_conversation(self) -> None:
        messages = [
            {"role": "system", "content": "Be brief."},
            USER,
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Again."},
        ]

        assert prompts.parse({"messages": messages}).messages == messages

    @pytest.mark.parametrize(
        "raw",
        [
            "Say hello.",
            {},
            {"prompt": "a", "messages": [USER]},
            {"prompt": ""},
            {"prompt": " \n"},
            {"prompt": 3},
            {"prompt": None},
            {"prompt": "a\x00b"},
            {"prompt": "a\ud800b"},
            {"prompt": "x" * (prompts.LARGEST + 1)},
            {"messages": []},
            {"messages": "Say hello."},
            {"messages": [USER, {"role": "assistant", "content": "Hello."}]},
            {"messages": [USER, {"role": "system", "content": "Be brief."}, USER]},
            {"messages": [{"role": "tool", "content": "x"}, USER]},
            {"messages": [USER | {"name": "x"}]},
            {"prompt": "a", "tags": "b"},
            {"prompt": "a", "tags": [""]},
            {"prompt": "a", "tags": ["x" * 51]},
            {"prompt": "a", "tags": [str(number) for number in range(21)]},
            {"prompt": "a", "tags": [1]},
        ],
    )
    def test_refuses_with_a_sentence(self, raw: Any) -> None:
        with pytest.raises(prompts.PromptRefused) as refused:
            prompts.parse(raw)

        assert str(refused.value).endswith(".")


class TestSha256:
    def test_depends_on_messages_and_not_on_tags_or_key_order(self) -> None:
        one = prompts.PromptLine(messages=[{"role": "user", "content": "é"}], tags=["a"])
        other = prompts.PromptLine(messages=[{"content": "é", "role": "user"}], tags=[])

        assert one.sha256 == other.sha256
        assert one.sha256 != prompts.parse({"prompt": "e"}).sha256


class TestIsHeldOut:
    def test_takes_the_share_by_the_first_eight_digits(self) -> None:
        # 0x33333333 / 2**32 is just below one fifth.
        assert prompts.is_held_out("33333333" + "0" * 56, share=0.2)
        assert not prompts.is_held_out("33333334" + "0" * 56, share=0.2)

    def test_holds_about_a_fifth_of_the_starter_prompts_out(self) -> None:
        lines = [prompts.parse(raw) for raw in seed.starter_prompts()]

        held_out = sum(prompts.is_held_out(line.sha256, share=0.2) for line in lines)

        assert len(lines) >= 150
        assert 0.12 < held_out / len(lines) < 0.3
