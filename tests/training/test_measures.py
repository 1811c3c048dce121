from __future__ import annotations

import pytest

from tests.pairloop import history
from training import measures
from training.models import Round


def round_of(*, pairs: int = 40, accuracy: float | None = 0.75, **fields: object) -> Round:
    after = {"loss": 0.5, "margin": 0.6, "accuracy": accuracy}
    return Round(number=1, holdout={"pairs": pairs, "before": None, "after": after}, **fields)


class TestValuesOf:
    def test_tells_what_was_measured(self) -> None:
        found = measures.values_of(round_of(evaluation=history.evaluation(2)))

        assert found["tokens"].value == 61.0
        assert found["kl"].value == 1.6
        assert found["accuracy"].cases == 40

    @pytest.mark.parametrize("holdout", [{"pairs": 29}, {"accuracy": None}])
    def test_leaves_out_what_chance_would_decide(self, holdout: dict[str, object]) -> None:
        assert "accuracy" not in measures.values_of(round_of(**holdout))

    @pytest.mark.parametrize("evaluation", [{}, {"done": 3, "of": 15}, {"prompts": 0}])
    def test_is_empty_before_anything_was_measured(self, evaluation: dict[str, object]) -> None:
        assert measures.values_of(round_of(pairs=0, evaluation=evaluation)) == {}


class TestValuesOfBase:
    def test_are_the_newest_rounds(self) -> None:
        rounds = [
            Round(number=number, evaluation=history.evaluation(number) if number < 3 else {})
            for number in (1, 3, 2)
        ]
        rounds[2].evaluation["base"]["tokens_mean"] = 99.0

        found = measures.values_of_base(rounds)

        assert (found["tokens"].value, found["kl"].value) == (99.0, 0.0)

    def test_are_none_before_a_round(self) -> None:
        assert measures.values_of_base([]) == {}


class TestWilson:
    def test_is_the_published_one(self) -> None:
        # Newcombe 1998, table I: 81 of 263.
        assert measures.wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)

    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_stays_within_bounds(self, share: float) -> None:
        least, most = measures.wilson(share, 30)

        assert 0 <= least < most <= 1


class TestRows:
    def test_say_in_words_what_the_trainer_counted(self) -> None:
        metrics = {
            "training": {"loss": 0.4123456, "accuracy": None, "odd_one": 2.0},
            "dropped": {"too_long": 2, "holdout_too_long": 1, "empty": 0},
        }

        training = measures.training_rows(metrics)

        assert [row[:2] for row in training] == [
            ("Loss", "0.4123"),
            ("Accuracy", "—"),
            ("odd one", "2"),
        ]
        assert measures.dropped_rows(metrics) == [("held-out, too long", 1), ("too long", 2)]
