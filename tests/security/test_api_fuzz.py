"""What schemathesis makes of the API's own description, as staff and as a labeler, each by token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, transaction
from django.utils import timezone
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.schemas import APIOperation

from pairloop.accounts import actions
from pairloop.wsgi import application
from tests.security.routes import routes
from tests.security.world import World

pytestmark = [pytest.mark.django_db, pytest.mark.slow, pytest.mark.timeout(120)]
EXAMPLES = 10
#: OpenAPI has no words for "no NUL" and "not only blanks", so what it calls good may still be refused.
BEYOND_ITS_WORDS = schemathesis.checks.positive_data_acceptance
ROUTES = [route for route in routes() if route.is_api]


def operations() -> list[APIOperation[Any, Any, Any, Any]]:
    """Return every call that the description knows."""
    schema = schemathesis.openapi.from_dict(SchemaGenerator().get_schema(public=True))
    schema.app = application
    return [found.ok() for found in schema.get_all_operations()]


@pytest.fixture
def world(world: World, settings: Any) -> Iterator[World]:
    # It asks faster than people do.
    settings.API_PER_MINUTE = 0
    # As Django's own test client does: the tests' transaction must outlive the request.
    signals = (request_started, request_finished)
    for signal in signals:
        signal.disconnect(close_old_connections)
    yield world
    for signal in signals:
        signal.connect(close_old_connections)


@pytest.mark.parametrize("role", ["member", "staff"])
@pytest.mark.parametrize("operation", operations(), ids=lambda found: found.label)
def test_keeps_to_its_description(
    world: World, operation: APIOperation[Any, Any, Any, Any], role: str
) -> None:
    _, secret = actions.token_create(
        user=world.users[role], name="fuzz", days=1, is_read_only=False, now=timezone.now()
    )
    (route,) = [route for route in ROUTES if route.template == operation.path]
    parts = world.parts | world.named.get(route.name, {})
    modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
    cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, is_real=st.booleans())
    def check(case: schemathesis.Case, is_real: bool) -> None:
        if is_real:
            # Without names of what is there, it would see nothing but 404.
            case.path_parameters = {name: str(parts[name]) for name in case.path_parameters}
        with transaction.atomic():
            case.call_and_validate(
                headers={"Authorization": f"Token {secret}"}, excluded_checks=[BEYOND_ITS_WORDS]
            )
            transaction.set_rollback(True)

    check()
