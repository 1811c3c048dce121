from __future__ import annotations

import importlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.db import connection

from annotate import judging, migrations
from annotate.models import Assignment, JudgingPolicy, QueueEntry, Tally
from models_registry.models import ModelVersion
from tests import factories

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
(NAME,) = (path.stem for path in Path(str(migrations.__path__[0])).glob("*_core.py"))
FILL = importlib.import_module(f"annotate.migrations.{NAME}").FILL


def entries() -> list[tuple[object, ...]]:
    rows = QueueEntry.objects.order_by("pair")
    return list(rows.values_list("pair", "wanted", "leased", "opinions", "last_labeler"))


def tallies() -> list[tuple[object, ...]]:
    rows = Tally.objects.order_by("labeler")
    return list(rows.values_list("labeler", "judged", "day", "today", "sides_lead", "compare_lead"))


@pytest.mark.django_db
def test_fills_in_what_judging_would_have_kept() -> None:
    version = ModelVersion.objects.get(model=factories.RegisteredModelFactory.create())
    JudgingPolicy.objects.update(overlap=2)
    for _ in range(6):
        factories.QueueEntryFactory.create(
            pair=factories.PairFactory.create(prompt__model=version.model), wanted=2
        )
    one, two = factories.UserFactory.create_batch(2)
    yesterday = NOW - timedelta(days=1)
    for now, labeler, verdicts in [
        (yesterday, one, ["tie", "left"]), (yesterday, two, ["both_bad"]), (NOW, one, ["tie", "tie"]),
    ]:  # fmt: skip
        for verdict in verdicts:
            lease = judging.pair_assign(model_id=version.model.pk, labeler=labeler, now=now)
            judging.judgement_record(assignment=lease, verdict=verdict, now=now)
    judging.judgement_undo(assignment=lease, now=NOW)
    kept = entries(), tallies()
    assert Assignment.objects.filter(closed_at=None).count() == 1

    QueueEntry.objects.update(opinions=0, last_labeler=None)
    Tally.objects.all().delete()
    with connection.cursor() as cursor:
        cursor.execute(FILL)

    assert (entries(), tallies()) == kept


@pytest.mark.django_db
def test_fills_in_the_candidates_sides_and_exaggerates_nothing() -> None:
    comparison = factories.ComparisonFactory.create()
    labeler = factories.UserFactory.create()
    for _ in range(6):
        prompt = factories.PromptFactory.create(model=comparison.model, split="holdout")
        for side in (comparison.candidate, comparison.incumbent):
            factories.CompletionFactory.create(prompt=prompt, version=side)
        first, second = prompt.completions.order_by("pk")
        pair = factories.PairFactory.create(
            prompt=prompt, first=first, second=second, purpose="compare", comparison=comparison
        )
        factories.AssignmentFactory.create(pair=pair, labeler=labeler, first_is_left=False)

    with connection.cursor() as cursor:
        cursor.execute(FILL)

    tally = Tally.objects.get()
    assert (tally.judged, tally.sides_lead, tally.compare_lead) == (0, -4, -4)
