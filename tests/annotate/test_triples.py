from __future__ import annotations

import pytest

from annotate import triples
from annotate.models import Completion, Judgement, Pair, Split
from annotate.triples import Triple
from models_registry.models import RegisteredModel
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def model() -> RegisteredModel:
    return factories.RegisteredModelFactory.create()


def judged(pair: Pair, *verdicts: str, first_is_left: bool = True, **fields: object) -> None:
    """Let one labeler say these things about a pair, each taking the place of the one before."""
    assignment = factories.AssignmentFactory.create(pair=pair, first_is_left=first_is_left)
    for revision, verdict in enumerate(verdicts, start=1):
        factories.JudgementFactory.create(
            assignment=assignment, verdict=verdict, revision=revision, **fields
        )


def triple_of(pair: Pair) -> Triple | None:
    """Return the pair's triple, if it makes one."""
    found = triples.triple_pairs(model=pair.prompt.model, purpose=pair.purpose)
    made = list(triples.triples_of(found))
    # Both agree on which pairs make one.
    assert [triple.pair_id for triple in made] == list(found.values_list("pk", flat=True))
    return next((triple for triple in made if triple.pair_id == pair.pk), None)


class TestTriplePairs:
    def test_leaves_out_other_models_and_other_purposes(self, model: RegisteredModel) -> None:
        mine = factories.PairFactory.create(prompt__model=model)
        held_out = factories.PairFactory.create(prompt__model=model, prompt__split=Split.HOLDOUT)
        stranger = factories.PairFactory.create()
        for pair in (mine, held_out, stranger):
            judged(pair, "left")

        assert list(triples.triple_pairs(model=model)) == [mine]
        evals = triples.triple_pairs(model=model, purpose=Pair.Purpose.EVAL)
        assert list(evals) == [held_out]

    def test_counts_a_pair_once_however_many_judged_it(self, model: RegisteredModel) -> None:
        pair = factories.PairFactory.create(prompt__model=model)
        for verdict in ("left", "right", "tie"):
            judged(pair, verdict)

        assert triples.triple_pairs(model=model).count() == 1

    @pytest.mark.parametrize(
        "verdicts",
        [[], ["both_bad"], ["cannot_judge"], ["left", ""], ["tie", "", "both_bad"]],
        ids=["nothing", "both bad", "cannot judge", "taken back", "both bad after all"],
    )
    def test_leaves_out_what_nobody_prefers(
        self, model: RegisteredModel, verdicts: list[str]
    ) -> None:
        pair = factories.PairFactory.create(prompt__model=model)
        judged(pair, *verdicts)

        assert triple_of(pair) is None


class TestTriplesOf:
    @pytest.mark.parametrize(
        ("verdict", "first_is_left", "chosen", "target"),
        [
            ("left_much", True, "first", 0.98),
            ("left", True, "first", 0.85),
            ("tie", True, "first", 0.5),
            ("right", True, "second", 0.85),
            ("right_much", True, "second", 0.98),
            ("left_much", False, "second", 0.98),
            ("left", False, "second", 0.85),
            ("tie", False, "first", 0.5),
            ("right", False, "first", 0.85),
            ("right_much", False, "first", 0.98),
        ],
    )
    def test_chooses_what_one_labeler_preferred(
        self,
        model: RegisteredModel,
        verdict: str,
        first_is_left: bool,
        chosen: str,
        target: float,
    ) -> None:
        pair = factories.PairFactory.create(prompt__model=model)
        judged(pair, verdict, first_is_left=first_is_left)

        triple = triple_of(pair)

        assert triple is not None
        assert triple.chosen.completion_id == getattr(pair, chosen).pk
        assert {triple.chosen.completion_id, triple.rejected.completion_id} == {
            pair.first.pk,
            pair.second.pk,
        }
        assert triple.target == pytest.approx(target, abs=1e-12)

    @pytest.mark.parametrize(
        ("first_left", "second_left", "chosen", "target"),
        [
            # The mean of .98 and .5.
            ("left_much", "tie", "first", 0.74),
            # The mean of .85 and .02 is .435.
            ("left", "right_much", "second", 0.565),
            # The mean of .85 and .15.
            ("left", "right", "first", 0.5),
            ("right_much", "left_much", "first", 0.5),
            # Alone: these say nothing.
            ("both_bad", "right", "second", 0.85),
            ("left_much", "cannot_judge", "first", 0.98),
        ],
    )
    def test_takes_the_mean_of_several_labelers(
        self,
        model: RegisteredModel,
        first_left: str,
        second_left: str,
        chosen: str,
        target: float,
    ) -> None:
        pair = factories.PairFactory.create(prompt__model=model)
        judged(pair, first_left)
        judged(pair, second_left)

        triple = triple_of(pair)

        assert triple is not None
        assert triple.chosen.completion_id == getattr(pair, chosen).pk
        assert triple.target == pytest.approx(target, abs=1e-12)

    def test_takes_three_labelers_who_see_different_sides(self, model: RegisteredModel) -> None:
        pair = factories.PairFactory.create(prompt__model=model)
        # The first is better with .98, .15, .98.
        judged(pair, "left_much")
        judged(pair, "left", first_is_left=False)
        judged(pair, "right_much", first_is_left=False)

        triple = triple_of(pair)

        assert triple is not None
        assert triple.chosen.completion_id == pair.first.pk
        assert triple.target == pytest.approx(2.11 / 3, abs=1e-8)

    def test_takes_the_latest_revision(self, model: RegisteredModel) -> None:
        pair = factories.PairFactory.create(prompt__model=model)
        judged(pair, "left_much", "", "right")
        judged(pair, "left_much", "")

        triple = triple_of(pair)

        assert triple is not None
        assert triple.chosen.completion_id == pair.second.pk
        assert triple.target == pytest.approx(0.85, abs=1e-12)
        assert triple.judgement_ids == [Judgement.objects.get(verdict="right").pk]

    def test_counts_late_judgements(self, model: RegisteredModel) -> None:
        pair = factories.PairFactory.create(prompt__model=model)
        judged(pair, "left")
        judged(pair, "left_much", is_late=True)

        triple = triple_of(pair)

        assert triple is not None
        assert triple.target == pytest.approx(0.915, abs=1e-12)
        assert triple.judgement_ids == list(
            Judgement.objects.order_by("pk").values_list("pk", flat=True)
        )

    def test_carries_what_the_engine_returned(self, model: RegisteredModel) -> None:
        adapter = factories.ModelVersionFactory.create(model=model, adapter=True)
        prompt = factories.PromptFactory.create(model=model, tags=["sums"])
        ids = {"prompt": prompt, "prompt_ids": [7, 8]}
        first = factories.CompletionFactory.create(text="Four.", completion_ids=[1, 2], **ids)
        second = factories.CompletionFactory.create(
            text="Five", completion_ids=[3], finish_reason="length", version=adapter, **ids
        )
        pair = factories.PairFactory.create(prompt=prompt, first=first, second=second)
        judged(pair, "left")

        triple = triple_of(pair)

        assert triple == Triple(
            pair_id=pair.pk,
            prompt_id=prompt.pk,
            messages=prompt.messages,
            tags=["sums"],
            prompt_ids=[7, 8],
            chosen=triples.TripleSide(first.pk, "Four.", [1, 2], "stop", 0),
            rejected=triples.TripleSide(second.pk, "Five", [3], "length", 1),
            target=0.85,
            weight=1.0,
            judgement_ids=[Judgement.objects.get().pk],
        )

    def test_has_no_ids_for_what_the_engine_did_not_write(self, model: RegisteredModel) -> None:
        prompt = factories.PromptFactory.create(model=model)
        first, second = factories.CompletionFactory.create_batch(
            2,
            prompt=prompt,
            origin=Completion.Origin.IMPORT,
            version=None,
            prompt_ids=None,
            completion_ids=None,
            finish_reason="",
        )
        pair = factories.PairFactory.create(prompt=prompt, first=first, second=second)
        judged(pair, "left")

        triple = triple_of(pair)

        assert triple is not None
        assert (triple.prompt_ids, triple.chosen.ids, triple.rejected.version) == (None,) * 3

    def test_goes_through_chunks_in_order_with_few_queries(
        self,
        model: RegisteredModel,
        monkeypatch: pytest.MonkeyPatch,
        django_assert_num_queries: pytest.FixtureRequest,
    ) -> None:
        monkeypatch.setattr(triples, "CHUNK", 3)
        for _ in range(7):
            judged(factories.PairFactory.create(prompt__model=model), "tie")
        pairs = triples.triple_pairs(model=model)

        with django_assert_num_queries(1 + 2 * 3):  # type: ignore[operator]
            made = list(triples.triples_of(pairs.order_by("-pk")))

        assert [triple.pair_id for triple in made] == sorted(pairs.values_list("pk", flat=True))
        assert len(made) == 7
