"""How long an import of preference pairs takes, and how much memory its worker has at most.

`make bench-import [ROWS=100000]`: generated pairs of about 1.2 kB, JSONL and Parquet, a small file before the large one; a
PostgreSQL of its own below var/bench, as safe against a crash as the product's. Each import runs in a process of
its own, as a worker does it.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VAR = ROOT / "var" / "bench"
SMALL = 10_000

os.environ["PAIRLOOP_VAR"] = str(VAR)
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pairloop.settings")
sys.path.insert(0, str(ROOT))

from benchmarks.words import WORDS  # noqa: E402 the line above finds it


def rows(count: int) -> Iterator[dict[str, object]]:
    """Yield pairs; one prompt in two has two of them."""
    chance = random.Random(count)

    def text(words: int) -> str:
        return " ".join(chance.choices(WORDS, k=words))

    for number in range(count):
        yield {
            "prompt": [
                {
                    "role": "user",
                    "content": f"{number * 2 // 3} {text(20)}" if number % 3 else f"{number}",
                }
            ],
            "chosen": [{"role": "assistant", "content": text(100)}],
            "rejected": [{"role": "assistant", "content": text(100)}],
        }


def write(path: Path, count: int) -> None:
    """Write a file by its ending."""
    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows(count))
        return
    import pyarrow as pa
    from pyarrow import parquet

    # One row group: the worst case for memory.
    parquet.write_table(pa.Table.from_pylist(list(rows(count))), path, row_group_size=count)


def child(import_id: int) -> None:
    """Run one import and print seconds and peak memory."""
    import django

    django.setup()
    from annotate import imports

    started = time.perf_counter()
    imports.import_run(import_id=import_id)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb()}))


def peak_mb() -> float:
    """Return this program's peak memory. getrusage would count what its parent had when it forked."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(kind: str, count: int) -> dict[str, float]:
    """Import so many rows into a model of their own; print and return what it took."""
    from annotate import imports, queries
    from models_registry.models import RegisteredModel

    path = VAR / f"rows.{kind}"
    write(path, count)
    slug = f"bench-{kind}-{count}"
    model = RegisteredModel.objects.create(slug=slug, name=slug, base_source="none")
    with path.open("rb") as file:
        started = imports.import_start(
            model=model, by=None, filename=path.name, pieces=iter(lambda: file.read(1 << 20), b"")
        )
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(started.pk)], check=True, stdout=subprocess.PIPE
    )
    found = queries.import_of(model=model, import_id=started.pk)
    if found.created != count or found.failure:
        raise SystemExit(
            f"{found.created} of {count} created: {found.failure or found.rejected[:3]}"
        )
    told: dict[str, float] = json.loads(done.stdout)
    size = path.stat().st_size / 1024**2
    path.unlink()
    print(
        f"{kind:8} {count:8} rows {size:7.1f} MiB {told['seconds']:7.1f} s"
        f" {count / told['seconds']:7.0f} rows/s, peak {told['peak_mb']:4.0f} MB"
    )
    return told


def counting() -> None:
    """Print how long the home page's count of triples takes afterwards."""
    from models_registry.models import RegisteredModel
    from training import queries

    for model in RegisteredModel.objects.order_by("slug"):
        started = time.perf_counter()
        count = queries.triples_waiting(model)
        print(
            f"counting the {count} triples of {model.slug}: {(time.perf_counter() - started) * 1000:.0f} ms"
        )


def main(count: int) -> None:
    """Measure both formats, small and large."""
    import django

    django.setup()
    from django.core.management import call_command

    from pairloop.up import postgres

    with postgres.running(postgres.Cluster.of(VAR)):
        call_command("migrate", verbosity=0)
        call_command("flush", interactive=False, verbosity=0)
        measured = {
            (kind, size): measure(kind, size)
            for size in (SMALL, count)
            for kind in ("jsonl", "parquet")
        }
        counting()
    large, small = measured["jsonl", count], measured["jsonl", SMALL]
    print(
        f"bench-import: rows={count} seconds={large['seconds']:.1f} rows_per_s={count / large['seconds']:.0f}"
        f" peak_mb={large['peak_mb']:.0f} peak_mb_small={small['peak_mb']:.0f}"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(int(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 100_000)
