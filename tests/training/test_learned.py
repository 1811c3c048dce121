from __future__ import annotations

import pytest

from annotate.models import Pair, Split
from tests import factories
from tests.pairloop.history import history_make
from tests.training.conftest import judge
from tests.training.test_actions import begin, finish, start
from training import learned
from training.models import Round

pytestmark = pytest.mark.django_db


class TestLearnedOf:
    def test_counts_roles_labelers_and_tags(self) -> None:
        model = history_make()
        second = model.versions.get(number=2)

        found = learned.learned_of(model)[second.pk]

        assert (found.round.number, found.new, found.replay, found.triples) == (2, 2, 2, 4)
        # Each of its four pairs was judged by somebody else.
        assert found.labelers == 4
        assert found.first_at < found.last_at
        assert found.tags == (("arithmetic", 2), ("short", 2), ("prose", 1))

    def test_counts_a_labeler_of_many_pairs_once(self, model, places) -> None:
        labeler = factories.UserFactory()
        for _ in range(3):
            factories.JudgementFactory(
                assignment__pair__prompt__model=model, assignment__labeler=labeler
            )
        version = finish(begin(start(model)), places)

        found = learned.learned_by(version)

        assert (found.new, found.labelers) == (3, 1)

    def test_tells_what_came_from_files(self, model, places) -> None:
        factories.ImportedPreferenceFactory.create_batch(2, model=model)
        judge(model, count=1)
        version = finish(begin(start(model)), places)

        found = learned.learned_by(version)

        assert (found.new, found.imported, found.labelers) == (3, 2, 1)

    def test_costs_four_queries_whatever_there_is(self, django_assert_num_queries) -> None:
        model = history_make()

        with django_assert_num_queries(4):
            learned.learned_of(model)

    def test_knows_nothing_of_a_base(self, model) -> None:
        assert learned.learned_of(model) == {}
        assert learned.learned_by(model.versions.get()) is None


class TestTrailOf:
    def test_leads_from_judgements_to_every_version(self) -> None:
        model = history_make()
        pair = Pair.objects.order_by("pk")[2]

        trail = learned.trail_of(model=model, pair_id=pair.pk)

        assert [use.round.version.number for use in trail.uses] == [1, 2]
        assert [use.item.role for use in trail.uses] == ["new", "replay"]
        assert [said.pk for said in trail.judgements] == trail.uses[0].item.judgement_ids

    def test_tells_of_a_round_that_came_to_nothing(self, model) -> None:
        judge(model)
        round_ = start(model)
        Round.objects.update(state=Round.State.FAILED)

        use = learned.trail_of(model=model, pair_id=Pair.objects.get().pk).uses[0]

        assert use.round == round_
        assert use.round.version is None

    def test_finds_no_pair_of_another_model(self, model) -> None:
        judge(model, split=Split.HOLDOUT)

        with pytest.raises(Pair.DoesNotExist):
            learned.trail_of(
                model=factories.RegisteredModelFactory(), pair_id=Pair.objects.get().pk
            )
