"""One whole Pairloop for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.loop.product import Product, free_port
from tests.loop.turn import SETTINGS


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """Start Pairloop on an empty folder, as `make run` does, and never leave it running."""
    running = Product(
        folder=tmp_path_factory.mktemp("product"), port=free_port(), settings=dict(SETTINGS)
    )
    running.start()
    try:
        yield running
    finally:
        running.stop()
