"""The wheel turns once, on the product whose first pairs were judged."""

from __future__ import annotations

import pytest

from tests.loop.product import Product
from tests.loop.turn import tell, turn

pytestmark = pytest.mark.engine


def test_turns_once(product: Product) -> None:
    tell(turn(product))
