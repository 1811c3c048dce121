from __future__ import annotations

from math import log

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from tests import factories
from training import presets
from training.models import RoundPolicy


class TestLossOf:
    @pytest.mark.parametrize("name", presets.PRESETS)
    def test_has_every_option_of_run_json(self, name: str) -> None:
        loss = presets.loss_of(name, beta=None, ties=False)

        assert set(loss) == {
            "name", "beta", "ties", "smoothing", "nll", "gamma", "penalty", "mask_special",
        }  # fmt: skip
        assert type(loss["beta"]) is float

    def test_takes_a_beta_over_its_own(self) -> None:
        assert presets.loss_of("length", beta=7.5, ties=False)["beta"] == 7.5


class TestWords:
    def test_say_what_differs_from_plain_dpo(self) -> None:
        assert presets.words({"name": "dpo", "beta": 0.1, "ties": True}) == "DPO, β 0.1"
        noisy = presets.words(presets.loss_of("noisy", beta=None, ties=True))
        assert noisy == "DPO, β 0.1, one judgement in 10 taken for a slip"
        llama3 = presets.words(presets.loss_of("llama3", beta=None, ties=True))
        assert "0.2 of the good answers' NLL, special tokens are not scored" in llama3


class TestIndifferent:
    @pytest.mark.parametrize(
        ("loss", "value"),
        [
            ({"name": "dpo", "beta": 0.1, "ties": False, "smoothing": 0.1}, log(2)),
            ({"name": "dpo", "beta": 0.1, "ties": True}, 2 * log(2)),
            ({"name": "ln", "beta": 5.0, "ties": False}, log(2)),
            ({"name": "ipo", "beta": 0.1, "ties": False}, 25.0),
            ({"name": "apo_zero", "beta": 0.1, "ties": False}, 1.0),
            ({"name": "simpo", "beta": 2.0, "ties": False}, None),
        ],
    )
    def test_is_the_loss_at_a_margin_of_zero(self, loss: dict, value: float | None) -> None:
        found = presets.indifferent(loss)

        assert found is None if value is None else found == pytest.approx(value)


@pytest.mark.django_db
class TestRoundPolicy:
    @pytest.mark.parametrize(("preset", "is_good"), [("noisy", True), ("anchored", False)])
    def test_takes_ties_only_where_the_loss_learns_them(self, preset: str, is_good: bool) -> None:
        policy = factories.RoundPolicyFactory.build(
            model=factories.RegisteredModelFactory(), preset=preset, ties=True
        )

        if is_good:
            policy.full_clean()
        else:
            with pytest.raises(ValidationError, match="Ties can only be learned as ties"):
                policy.full_clean()


@pytest.mark.django_db(transaction=True)
class TestMigration:
    @pytest.fixture(autouse=True)
    def newest_again(self):
        yield
        executor = MigrationExecutor(connection)
        executor.migrate(executor.loader.graph.leaf_nodes())

    def test_keeps_a_beta_that_somebody_chose(self) -> None:
        model, other = (factories.RegisteredModelFactory() for _ in range(2))
        MigrationExecutor(connection).migrate([("training", "0007_answer_scores")])
        # The table as it was; today's class does not fit it any more.
        with connection.cursor() as cursor:
            for each, beta, preset in ((model, 0.1, "paper"), (other, 0.25, "strange")):
                cursor.execute(
                    "INSERT INTO training_roundpolicy (model_id, preset, trigger_triples, most_new, reference,"
                    " replay_share, beta, learning_rate, epochs, batch_pairs, ties, sampler, gate, updated_at)"
                    " VALUES (%s, %s, 0, 0, 'base', 0.5, %s, 2e-4, 3, 8, true, 'latest', '{}', now())",
                    [each.pk, preset, beta],
                )

        MigrationExecutor(connection).migrate([("training", "0009_preset_rules")])

        found = dict(RoundPolicy.objects.values_list("model", "beta"))
        assert found == {model.pk: None, other.pk: 0.25}
        assert set(RoundPolicy.objects.values_list("preset", flat=True)) == {"paper"}
