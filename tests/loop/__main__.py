"""One turn of the wheel on a product of its own, and nothing else: `make loop`.

A failure prints what is known.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.loop.product import Api, Product, free_port
from tests.loop.turn import SETTINGS, turn


def main() -> int:
    """Turn the wheel once; print the last line that people and machines read."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pairloop-loop-") as folder:
        product = Product(folder=Path(folder), port=free_port(), settings=SETTINGS)
        product.start()
        try:
            product.wait_for("the page", lambda: product.printed("web ready"), seconds=120)
            said = turn(product)
        except Exception as failure:
            print(known(product), flush=True)
            print(f"loop: failed {type(failure).__name__}: {str(failure).splitlines()[0]}")
            raise
        finally:
            product.stop()
    print(f"loop: ok seconds={time.monotonic() - began:.0f} {said}", flush=True)
    return 0


def known(product: Product) -> str:
    """Return what helps to see why a turn did not end."""
    logs = product.told()
    try:
        with product.log_in("admin") as client:
            api = Api(client)
            rounds = api.get("models/demo/rounds/")
            model = api.get("models/demo/")
    except Exception as error:  # noqa: BLE001 whatever it is, the logs below matter more
        return f"{logs}\nthe API does not answer: {error!r}"
    rates = [line for line in logs.splitlines() if "tokens/s" in line]
    return "\n".join([logs, f"model: {model}", f"rounds: {rounds}", *rates[-5:]])


if __name__ == "__main__":
    sys.exit(main())
