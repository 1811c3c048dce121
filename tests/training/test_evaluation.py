from __future__ import annotations

from contextlib import contextmanager
from math import exp

import pytest
from django.utils import timezone

from annotate.models import Completion, Pair, SamplingState, Split
from models_registry.engine.fake import FakeEngine
from models_registry.engine.types import EngineFailed
from models_registry.models import Alias, ModelVersion
from tests import factories
from tests.models_registry.adapters import adapter_make
from tests.training.conftest import judge
from tests.training.test_actions import begin, finish, start
from training import evaluation
from training.models import Round

pytestmark = pytest.mark.django_db


class TestDivergence:
    def test_is_the_mean_over_answers_of_the_sum_over_tokens(self):
        # u = .5, -.5 in the first answer and 1 in the second.
        found = evaluation.divergence([([-1.0, -2.0], [-1.5, -1.5]), ([-1.0], [-2.0])])

        assert found["k1"] == pytest.approx((0.0 + 1.0) / 2)
        first = (exp(-0.5) - 1 + 0.5) + (exp(0.5) - 1 - 0.5)
        assert found["k3"] == pytest.approx((first + exp(-1) - 1 + 1) / 2, abs=1e-4)

    def test_is_nothing_between_a_policy_and_itself(self):
        assert evaluation.divergence([([-1.0], [-1.0])]) == {"answers": 1, "k1": 0.0, "k3": 0.0}

    def test_survives_a_token_that_the_base_finds_impossible(self):
        found = evaluation.divergence([([-900.0], [-0.1])])

        assert found["k3"] > 1e20


class TestDistinct2:
    def test_counts_different_pairs_of_neighbours(self):
        # the cat, cat sat; the cat, cat ran: three of four are different.
        assert evaluation.distinct2(["the cat sat", "the cat ran"]) == 0.75
        assert evaluation.distinct2(["one", ""]) == 0.0


@pytest.fixture
def served(model, places) -> tuple[ModelVersion, FakeEngine]:
    """A round whose v1 is verified and loaded, and an engine with base and v1."""
    judge(model, count=2)
    for _ in range(3):
        factories.PromptFactory(model=model, split=Split.HOLDOUT)
    version = finish(begin(start(model)), places)
    ModelVersion.objects.filter(pk=version.pk).update(state=ModelVersion.State.VERIFIED)
    engine = FakeEngine(base=model.versions.get(number=0).served_name)
    adapter_make(places / "adapter")
    engine.adapter_load(name=version.served_name, path=str(places / "adapter"))
    return version, engine


class TestEvaluate:
    def test_asks_version_parent_and_base_the_same_prompts(self, model, served):
        version, engine = served
        round_ = version.made_by

        told: list[tuple[int, int]] = []
        found = evaluation.evaluate(
            round_=round_,
            version=version,
            engine=engine,
            tell=lambda *how_far: told.append(how_far),
        )

        # Five questions to three prompts: parent and base are the same.
        assert (told[0], told[-1]) == ((0, 15), (15, 15))
        assert (found["prompts"], found["version"]["answers"]) == (3, 9)
        # The fake answers by model and prompt, so everything changed.
        assert found["changed"] == 3
        assert found["parent"] == found["base"]
        held_out = set(
            Completion.objects.filter(version=version).values_list("prompt__split", flat=True)
        )
        assert held_out == {Split.HOLDOUT}
        # Nobody is asked to judge any of it.
        assert not Pair.objects.filter(first__version=version).exists()

    def test_asks_nothing_twice(self, model, served):
        version, engine = served
        evaluation.evaluate(round_=version.made_by, version=version, engine=engine)
        asked = len(engine.asked)

        again = evaluation.evaluate(round_=version.made_by, version=version, engine=engine)

        assert len(engine.asked) == asked
        assert again["version"]["answers"] == 9

    def test_goes_on_where_an_engine_that_died_left_it(self, model, served):
        version, engine = served
        engine.enqueue(*[["a"] * 3] * 2, EngineFailed())

        with pytest.raises(EngineFailed):
            evaluation.evaluate(round_=version.made_by, version=version, engine=engine)
        stored = Completion.objects.filter(sampling__use="evaluation").count()
        told: list[int] = []
        evaluation.evaluate(
            round_=version.made_by,
            version=version,
            engine=engine,
            tell=lambda done, of: told.append(done),
        )

        assert stored > 0
        assert told[0] > 0

    def test_says_zero_where_no_prompt_is_held_out(self, model, places):
        judge(model)
        version = finish(begin(start(model)), places)
        engine = FakeEngine(base=model.versions.get(number=0).served_name)

        found = evaluation.evaluate(round_=version.made_by, version=version, engine=engine)

        assert (found["prompts"], found["changed"], found["kl_base"]["answers"]) == (0, 0, 0)


class TestCompared:
    def test_shows_the_most_changed_first(self):
        def answers(*texts: str) -> dict[int, list[Completion]]:
            return {
                number: [
                    Completion(
                        pk=number * 10 + len(text), text=text, completion_ids=list(range(len(text)))
                    )
                ]
                for number, text in enumerate(texts)
            }

        found = evaluation.compared(answers("aaaa", "bb", "cc"), answers("a", "bbb", "cc"))

        assert (found["changed"], found["shorter"], found["longer"]) == (2, 1, 1)
        assert [row["before"] for row in found["examples"]] == [4, 12]


class TestRoundsEvaluate:
    """What the job does, every ten seconds."""

    @pytest.fixture
    def tick(self, served, monkeypatch):
        _, engine = served

        @contextmanager
        def there(_url):
            yield engine

        monkeypatch.setattr("training.evaluation.serving.engine", there)

        def tick() -> Round:
            evaluation.rounds_evaluate(now=timezone.now)
            return Round.objects.get(number=1)

        return tick

    def sampler(self) -> int:
        return Alias.objects.get(name=Alias.SAMPLER).version.number

    def test_ends_the_round_and_lets_its_version_sample(self, tick):
        round_ = tick()

        assert round_.state == Round.State.SUCCEEDED
        assert self.sampler() == 1
        # The sampling hears where the new version disagrees with the labelers.
        assert SamplingState.objects.get().disagreements["version"] == 1

    def test_says_how_far_it_is(self, tick, served, monkeypatch):
        _, engine = served
        engine.enqueue(EngineFailed())

        round_ = tick()

        assert round_.state == Round.State.EVALUATING
        assert round_.evaluation["of"] == 15
        assert tick().state == Round.State.SUCCEEDED

    def test_waits_for_the_version_to_be_loaded(self, tick, served):
        version, engine = served
        engine.adapter_unload(name=version.served_name)

        assert tick().state == Round.State.EVALUATING

    def test_ends_the_round_of_a_version_that_failed_its_check(self, tick, served, settings):
        version, _ = served
        factories.ServingFactory(
            version=version, engine=settings.ENGINE_URL, canary={"passed": False, "note": "Off."}
        )

        round_ = tick()

        assert (round_.state, round_.failure_code) == (Round.State.FAILED, "canary_failed")
        assert "Off." in round_.failure
        assert self.sampler() == 0

    def test_ends_the_round_of_a_version_whose_files_are_damaged(self, tick, served):
        ModelVersion.objects.filter(pk=served[0].pk).update(state=ModelVersion.State.CORRUPT)

        assert "not what was registered" in tick().failure

    def test_sets_a_prompt_aside_that_the_engine_cannot_answer(self, model, tick):
        long = factories.PromptFactory(
            model=model, split=Split.HOLDOUT, messages=[{"role": "user", "content": "x" * 9000}]
        )

        round_ = tick()

        assert round_.state == Round.State.SUCCEEDED
        long.refresh_from_db()
        assert long.refusal

    def test_lets_one_rounds_trouble_keep_no_other_waiting(self, tick, monkeypatch, caplog):
        """Whatever nobody thought of is logged, and the job goes on."""
        monkeypatch.setattr(evaluation, "evaluate", lambda **_: 1 / 0)

        assert tick().state == Round.State.EVALUATING
        assert "division by zero" in caplog.text
