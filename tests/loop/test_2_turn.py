"""The wheel turns once, on the product whose first pairs were judged."""

from __future__ import annotations

import pytest

from tests.loop.product import Product
from tests.loop.turn import tell, turn

pytestmark = pytest.mark.engine


def test_turns_once(product: Product) -> None:
    product.wait_for("the page", lambda: product.printed("web ready"), seconds=90)

    tell(turn(product))
