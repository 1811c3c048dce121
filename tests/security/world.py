"""Two models, and everybody who might ask for what belongs to one of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from annotate.models import Assignment, Pair
from models_registry.models import RegisteredModel
from pairloop.accounts import actions as accounts
from tests import factories
from tests.security.routes import ANYTHING, Route

ROLES = ("anonymous", "member", "neighbour", "stranger", "staff")


@dataclass
class World:
    """`member` and `neighbour` judge `model`, `stranger` another one; the assignment and token are the member's."""

    model: RegisteredModel
    other: RegisteredModel
    users: dict[str, User]
    assignment: Assignment
    #: What belongs into the addresses of `model`, and where a route means something else by the same word.
    parts: dict[str, Any]
    named: dict[str, dict[str, Any]]
    #: The same of numbers that only the other model has; 2 where nothing is said.
    foreign: dict[str, int]

    def client(self, role: str, **options: Any) -> Client:
        """Return a browser in which somebody is logged in."""
        client = Client(**options)
        if role != "anonymous":
            client.force_login(self.users[role])
        return client

    def url(self, route: Route, **others: Any) -> str:
        """Return where a route leads to what there is."""
        return route.url(self.parts | self.named.get(route.name, {}) | others)


def build() -> World:
    """Make both models: ours has a version and a round number 1, the other one number 2."""
    model, other = factories.RegisteredModelFactory(), factories.RegisteredModelFactory()
    users = {
        "member": factories.MembershipFactory(model=model).user,
        "neighbour": factories.MembershipFactory(model=model).user,
        "stranger": factories.MembershipFactory(model=other).user,
        "staff": factories.UserFactory(is_staff=True),
    }
    for one, number in ((model, 1), (other, 2)):
        version = factories.ModelVersionFactory(model=one, adapter=True, number=number)
        factories.RoundFactory(
            model=one, number=number, state="succeeded", version=version,
            snapshot=factories.SnapshotItemFactory(pair__prompt__model=one).snapshot,
        )  # fmt: skip
        factories.JudgementFactory(assignment__pair__prompt__model=one)
        factories.QueueEntryFactory(pair__prompt__model=one)
    assignment = factories.AssignmentFactory(
        pair__prompt__model=model,
        labeler=users["member"],
        expires_at=timezone.now() + timedelta(minutes=30),
    )
    token, _ = accounts.token_create(
        user=users["member"], name="laptop", days=1, is_read_only=False, now=timezone.now()
    )
    parts = ANYTHING | {"slug": model.slug, "uuid": assignment.uuid, "key": token.token_key}
    play = factories.PlayFactory(model=model, asked_by=users["staff"])
    plays = ("play", "play-pick", "api-play", "api-play-pick")
    named = {name: {"uuid": play.uuid} for name in plays} | {
        "person-change": {"pk": users["member"].pk},
        "settings-group": {"key": "judging"},
        "pair": {"number": assignment.pair_id},
    }
    imports = [factories.ImportFactory(model=one).pk for one in (model, other)]
    comparison = factories.ComparisonFactory(model=model, budget=1)
    for name in ("triples-import", "api-import"):
        named[name] = {"number": imports[0]}
    for name in ("compare-close", "api-comparison", "api-comparison-close"):
        named[name] = {"pk": comparison.pk}
    gold = factories.GoldFactory(model=model, made_by=users["staff"])
    for name in ("quality-gold-retire", "api-gold"):
        named[name] = {"pk": gold.pk}
    named["quality-flag"] = {"pk": factories.FlagFactory(assignment=assignment).pk}
    named["quality-leases"] = {"pk": users["member"].pk}
    foreign = {
        "pair": Pair.objects.filter(prompt__model=other).latest("pk").pk,
        "triples-import": imports[1],
        "api-import": imports[1],
    }
    return World(
        model=model,
        other=other,
        users=users,
        assignment=assignment,
        parts=parts,
        named=named,
        foreign=foreign,
    )
