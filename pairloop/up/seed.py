"""What a new installation starts with: the demo model, its prompts, an admin and a labeler."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.utils import timezone

from annotate import actions as annotate
from annotate import people
from annotate.models import JudgingPolicy, Prompt
from models_registry import actions as registry
from models_registry.bases import DEMO
from models_registry.models import RegisteredModel
from training.models import RoundPolicy

STARTER_PROMPTS = Path("annotate") / "data" / "starter_prompts.jsonl"
#: Any number will do, as long as nothing else in this database locks it.
SEED_LOCK = 7_205_901
#: At temperature 1, a model this small wanders off before its first sentence ends.
DEMO_TEMPERATURE = 0.7
#: On a CPU, vLLM's time for an adapter grows with its rank; this is enough for a taste in sentences.
DEMO_RANK = 8
#: Forty judgements visibly change a model this small. Its answers are one sentence long, so a preference for
#: shorter ones may halve them without anything being wrong.
DEMO_ROUNDS = {
    "trigger_triples": 40,
    # A few minutes of training on two cores, also after somebody brought in thousands of pairs.
    "most_new": 200,
    "learning_rate": 5e-4,
    "epochs": 3,
    "gate": {"length_least": 0.3},
}
GUIDELINES = """\
Choose the answer you would rather have got.

- It does what was asked: one sentence when one sentence was asked for, a name when a name was.
- It is true and makes sense; a short plain answer beats a long muddled one.
- Between two good ones, take the kinder and shorter. *Slightly* is for close calls.
- *Both are bad* is an answer too: it tells where the model is weak.
"""
RESET = "Forgot one? .venv/bin/python manage.py person_reset admin (or labeler)"


@transaction.atomic
def seed() -> list[str]:
    """Create what is missing; return the lines to print, with new passwords in them this once."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [SEED_LOCK])
    labelers = people.labelers()
    lines = []
    if not User.objects.exists():
        for name, is_admin in (("admin", True), ("labeler", False)):
            password = secrets.token_urlsafe(9)
            user = User.objects.create_user(
                username=name, password=password, is_staff=is_admin, is_superuser=is_admin
            )
            if not is_admin:
                user.groups.add(labelers)
            lines.append(f"Log in as {name:8} with password {password}  (shown only now)")
    lines.append(RESET)
    if not RegisteredModel.objects.exists():
        model = registry.model_prepare(
            slug=DEMO, name="SmolLM2-135M-Instruct", source=DEMO, lora_rank=DEMO_RANK
        )
        JudgingPolicy.objects.create(
            model=model, guidelines=GUIDELINES, temperature=DEMO_TEMPERATURE
        )
        RoundPolicy.objects.create(model=model, **DEMO_ROUNDS)
        for user in User.objects.filter(groups=labelers):
            people.member_add(model=model, person=user, by=None, now=timezone.now())
    demo = RegisteredModel.objects.filter(slug=DEMO).first()
    if demo and not Prompt.objects.filter(model=demo).exists():
        report = annotate.prompts_import(model=demo, lines=enumerate(starter_prompts(), start=1))
        lines.append(f"{report.created} starter prompts for {demo.name}")
    return lines


def starter_prompts() -> list[dict[str, object]]:
    """Return the prompts written for the demo, tasks of one sentence that a small model can do."""
    text = (Path(settings.BASE_DIR) / STARTER_PROMPTS).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
