"""S11: labelers see nothing of the registry, of rounds, of what others judged, and export nothing."""

from __future__ import annotations

import pytest

from models_registry.models import ModelVersion
from tests.security.matrix import API_STAFF, MATRIX, STAFF
from tests.security.routes import routes
from tests.security.world import World

#: All that is open to labelers; whatever else there is, is for staff. Widen it only with a reason.
FOR_LABELERS = {
    "login", "logout", "healthz", "readyz", "home", "account", "token-revoke", "judge", "judgement",
    "judgement_undo", "api-missing", "password_change", "person-link", "api-docs", "api-schema", "api-tokens", "api-token", "api-models",
    "api-model", "api-assignments", "api-judgement", "admin-login",
    # The judging screen, what somebody judged themselves, and prompts that they write.
    "judge_next", "judge_keep", "judge_view", "judge_prompt", "judgement_later", "judgement_flag",
    "history", "history-judgement", "guidelines", "api-history", "api-attacks",
}  # fmt: skip


def test_what_is_not_for_labelers_is_for_staff() -> None:
    others = {route.name for route in routes()} - FOR_LABELERS

    assert {name: MATRIX[name] for name in others if MATRIX[name] not in (STAFF, API_STAFF)} == {}


@pytest.mark.django_db
def test_what_labelers_can_read_tells_nothing_of_versions(world: World) -> None:
    version = ModelVersion.objects.get(model=world.model, number=1)
    secrets = [version.sha256, version.served_name, version.artifact_path, "champion", "sampler"]
    client, leaks = world.client("member"), []

    # The description of the API tells what there is, but nothing that is stored.
    for route in (r for r in routes() if r.name in FOR_LABELERS - {"api-schema"}):
        answer = client.get(world.url(route))
        sent = answer.getvalue().decode() + str(answer.headers)
        leaks += [(route.name, secret) for secret in secrets if secret in sent]

    assert leaks == []
