from __future__ import annotations

from typing import Any

import pytest

from annotate import preferences
from annotate.preferences import TARGET, PreferenceLine
from annotate.prompts import PromptLine
from annotate.triples import CONFIDENCE
from pairloop.lib.errors import Refused

ASKED = [{"role": "user", "content": "Two plus two?"}]
GOOD, BAD = "Four.", "Five."


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


LINE = {"prompt": "Two plus two?", "chosen": GOOD, "rejected": BAD}
PLAIN = PreferenceLine(PromptLine(ASKED, []), GOOD, BAD, TARGET)


class TestParse:
    @pytest.mark.parametrize(
        "raw",
        [
            LINE,
            {"prompt": "Two plus two?", "good": GOOD, "bad": BAD},
            {"prompt": ASKED, "chosen": said(GOOD), "rejected": said(BAD)},
            {"prompt": ASKED, "good": said(GOOD), "bad": said(BAD)},
            # The prompt is what both conversations begin with.
            {"chosen": ASKED + said(GOOD), "rejected": ASKED + said(BAD)},
            {"prompt": None, "chosen": ASKED + said(GOOD), "rejected": ASKED + said(BAD)},
            # Given twice.
            {
                "prompt": "Two plus two?",
                "chosen": ASKED + said(GOOD),
                "rejected": ASKED + said(BAD),
            },
            # Keys that only others know, and cells that a table leaves empty.
            LINE | {"chosen_model": "x", "dataset": {"a": [1]}, "tags": None, "target": None},
            {
                "prompt": [ASKED[0] | {"name": None}],
                "chosen": [said(GOOD)[0] | {"tool_calls": None}],
                "rejected": said(BAD),
                "good": None,
                "bad": None,
            },
        ],
    )
    def test_reads_the_forms_that_are_about(self, raw: dict[str, Any]) -> None:
        assert preferences.parse(raw) == PLAIN

    def test_keeps_a_long_conversation_tags_target_and_blanks_of_answers(self) -> None:
        asked = [
            {"role": "system", "content": "Be brief."}, *ASKED, *said("Four."),
            {"role": "user", "content": "Sure?"},
        ]  # fmt: skip
        line = preferences.parse(
            {
                "prompt": asked,
                "chosen": " Yes.\n",
                "rejected": "No",
                "tags": ["b", "a"],
                "target": 0.7,
            }
        )

        assert line == PreferenceLine(PromptLine(asked, ["a", "b"]), " Yes.\n", "No", 0.7)

    def test_puts_a_system_message_before_a_text(self) -> None:
        line = preferences.parse(LINE | {"system": "Be brief."})

        assert line.prompt.messages == [{"role": "system", "content": "Be brief."}, *ASKED]

    def test_is_as_sure_as_the_surest_judgement(self) -> None:
        assert preferences.parse(LINE).target == max(CONFIDENCE.values())

    @pytest.mark.parametrize(
        ("raw", "reason"),
        [
            (7, "A line is an object"),
            ([], "A line is an object"),
            ({}, "Give either"),
            (LINE | {"good": GOOD, "bad": BAD}, "Give either"),
            ({"prompt": "a", "chosen": GOOD, "bad": BAD}, "Give either"),
            ({"prompt": "a", "chosen": GOOD}, "Give either"),
            ({"chosen": GOOD, "rejected": BAD}, "whole conversations"),
            ({"chosen": said(GOOD), "rejected": said(BAD)}, "do not begin alike"),
            ({"chosen": ASKED + said(GOOD), "rejected": ASKED + said(GOOD)}, "the same"),
            ({"chosen": [], "rejected": []}, "do not begin alike"),
            (LINE | {"prompt": 3}, '"prompt" is'),
            (LINE | {"prompt": []}, '"prompt" is'),
            (LINE | {"prompt": ""}, "not empty"),
            (LINE | {"prompt": said("Hello.")}, "must be the user's"),
            (LINE | {"prompt": "a\x00"}, "not text"),
            (LINE | {"prompt": "x" * 40_000}, "at most 32 kB"),
            (LINE | {"chosen": ""}, "better answer"),
            (LINE | {"rejected": " \n"}, "worse answer"),
            (LINE | {"rejected": 3}, "worse answer"),
            (LINE | {"rejected": {"content": "x"}}, "worse answer"),
            (LINE | {"chosen": "a\ud800"}, "not text"),
            (LINE | {"rejected": "a\x00"}, "not text"),
            (LINE | {"chosen": "x" * (256 * 1024 + 1)}, "at most 256 kB"),
            (LINE | {"chosen": BAD + " "}, "the same"),
            (LINE | {"chosen": said("a") + said("b")}, "one message"),
            (LINE | {"chosen": []}, "one message"),
            (LINE | {"chosen": [[]]}, "exactly"),
            (LINE | {"chosen": [{"role": "user", "content": "a"}]}, "assistant's"),
            (LINE | {"chosen": [said("a")[0] | {"tool_calls": [{}]}]}, "exactly"),
            (LINE | {"tags": "a;b"}, '"tags" is'),
            (LINE | {"target": 0.4}, '"target" is'),
            (LINE | {"target": 1.1}, '"target" is'),
            (LINE | {"target": float("nan")}, '"target" is'),
            (LINE | {"target": True}, '"target" is'),
            (LINE | {"target": "0.9"}, '"target" is'),
            (LINE | {"target": 10**400}, '"target" is'),
        ],
    )
    def test_refuses_in_a_sentence(self, raw: object, reason: str) -> None:
        with pytest.raises(Refused, match=reason):
            preferences.parse(raw)


class TestSha256:
    def test_is_of_prompt_and_answers_alone(self) -> None:
        same = preferences.parse(LINE | {"tags": ["a"], "target": 0.6})
        other = preferences.parse({"prompt": LINE["prompt"], "chosen": BAD, "rejected": GOOD})

        assert same.sha256 == PLAIN.sha256 != other.sha256
