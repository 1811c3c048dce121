"""One whole Pairloop for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.loop.product import Product, free_port

#: So that killing things does not take all day: a dead worker is noticed soon, an evaluation asks little.
QUICK = {"PAIRLOOP_LEASE_SECONDS": "6", "PAIRLOOP_EVALUATION_PROMPTS": "4"}


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """Start Pairloop on an empty folder, as `make run` does, and never leave it running."""
    running = Product(folder=tmp_path_factory.mktemp("product"), port=free_port(), settings=QUICK)
    running.start()
    try:
        yield running
    finally:
        running.stop()
