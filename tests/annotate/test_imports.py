from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, connections
from pyarrow import parquet

from annotate import imports, prompts, queries, reading, triples
from annotate.models import (
    Assignment,
    Completion,
    Import,
    ImportedPreference,
    Judgement,
    Pair,
    Prompt,
    QueueEntry,
)
from models_registry.models import RegisteredModel
from tests import factories
from training import queries as training

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def folder(settings: Any, tmp_path: Path) -> Path:
    """Keep the files of a test in its own folder."""
    settings.IMPORTS = tmp_path / "imports"
    return tmp_path / "imports"


@pytest.fixture
def model() -> RegisteredModel:
    return factories.RegisteredModelFactory.create()


def line(number: int, **more: object) -> dict[str, Any]:
    answers = {"chosen": f"It is {number}.", "rejected": f"It is {number + 1}."}
    return {"prompt": f"What is {number}?"} | answers | more


def jsonl(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def table(rows: list[dict[str, Any]], path: Path, **options: Any) -> bytes:
    parquet.write_table(pa.Table.from_pylist(rows), path, **options)
    return path.read_bytes()


def start(model: RegisteredModel, body: bytes, *, filename: str = "p.jsonl") -> Import:
    return imports.import_start(model=model, by=None, filename=filename, pieces=[body])


def run(model: RegisteredModel, body: bytes) -> Import:
    started = start(model, body)
    imports.import_run(import_id=started.pk)
    started.refresh_from_db()
    return started


def counts(done: Import) -> tuple[int, int, int]:
    return done.created, done.duplicates, done.rejected_count


class TestImport:
    def test_makes_pairs_that_nobody_has_to_judge(self, model: RegisteredModel) -> None:
        done = run(model, jsonl(line(1, tags=["sums"], target=0.7)))

        pair = Pair.objects.get()
        assert counts(done) == (1, 0, 0)
        assert done.state == Import.State.DONE
        assert done.progress == 1
        assert pair.prompt.tags == ["sums"]
        assert pair.prompt.question == "What is 1?"
        assert pair.imported_preference.preferred.text == "It is 1."
        assert pair.imported_preference.source == done
        assert pair.imported_preference.line == 1
        assert {completion.origin for completion in Completion.objects.all()} == {"import"}
        for untouched in (QueueEntry, Assignment, Judgement):
            assert not untouched.objects.exists()

    def test_keeps_the_good_lines_and_reports_the_bad_by_number(
        self, model: RegisteredModel
    ) -> None:
        body = (
            b"\xef\xbb\xbf" + json.dumps(line(1)).encode() + b"\r\n\r\n"
            b"nonsense\n" + b"[" * 100_000 + b"\n" + b"\xff\xfe\n" + b"null\n"
            + json.dumps(line(1)).encode() + b"\n"
            + b'{"prompt": "a\\u0000", "chosen": "b", "rejected": "c"}\n'
            + b'{"prompt": "a", "chosen": "\\ud800", "rejected": "c"}\n'
            + json.dumps(line(2)).encode()
        )  # fmt: skip

        done = run(model, body)

        assert counts(done) == (2, 1, 6)
        assert [number for number, _ in done.rejected] == [3, 4, 5, 6, 8, 9]
        assert dict(done.rejected)[3] == "This is not JSON."
        assert dict(done.rejected)[5] == "This line is not UTF-8 text."
        assert ImportedPreference.objects.get(line=10).preferred.text == "It is 2."
        assert done.lines == 10

    def test_does_not_read_a_line_that_does_not_end(
        self, model: RegisteredModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reading, "LONGEST", 200)
        fits = jsonl(line(2)).rstrip()
        fits += b" " * (200 - len(fits)) + b"\n"

        done = run(model, b'{"prompt": "' + b"x" * 5000 + b'"}\n' + fits + jsonl(line(3)))

        assert counts(done) == (2, 0, 1)
        assert done.rejected[0][0] == 1
        assert "longer than" in done.rejected[0][1]

    def test_names_only_the_first_bad_lines(
        self, model: RegisteredModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(imports, "MOST_REJECTED", 3)
        monkeypatch.setattr(reading, "BATCH", 2)

        done = run(model, jsonl(*[7] * 9, line(1)))

        assert counts(done) == (1, 0, 9)
        assert [number for number, _ in done.rejected] == [1, 2, 3]

    def test_creates_nothing_twice(self, model: RegisteredModel) -> None:
        body = jsonl(line(1), line(2), line(1))

        assert counts(run(model, body)) == (2, 1, 0)
        assert counts(run(model, body)) == (0, 3, 0)
        assert Pair.objects.count() == 2
        assert counts(run(factories.RegisteredModelFactory.create(), body)) == (2, 1, 0)

    def test_lets_the_hash_decide_what_is_held_out(self, model: RegisteredModel) -> None:
        done = run(model, jsonl(*map(line, range(60))))

        evals = Pair.objects.filter(purpose=Pair.Purpose.EVAL)
        assert done.held_out == evals.count()
        assert 3 < done.held_out < 30
        for pair in Pair.objects.select_related("prompt"):
            held_out = prompts.is_held_out(pair.prompt.sha256, share=0.2)
            assert pair.purpose == ("eval" if held_out else "train")
            assert pair.prompt_split == pair.prompt.split

    def test_uses_a_prompt_that_is_there(self, model: RegisteredModel) -> None:
        asked = prompts.parse({"prompt": line(1)["prompt"]})
        # The share of prompts held out may have changed since: where it is, it stays.
        there = factories.PromptFactory.create(
            model=model, messages=asked.messages, sha256=asked.sha256, split="holdout"
        )

        run(model, jsonl(line(1), line(1, rejected="Who knows?")))

        assert Prompt.objects.get() == there
        assert [pair.purpose for pair in Pair.objects.all()] == ["eval", "eval"]

    def test_reads_parquet(self, model: RegisteredModel, tmp_path: Path) -> None:
        rows = [
            {
                "prompt": [{"role": "user", "content": f"What is {number}?"}],
                "chosen": [{"role": "assistant", "content": "a"}],
                "rejected": [{"role": "assistant", "content": "b"}],
                "tags": ["sums"] if number else None,
                "score": 0.1,
            }
            for number in range(150)
        ]
        rows[70]["chosen"] = []

        done = run(model, table(rows, tmp_path / "p.parquet", row_group_size=40))

        assert counts(done) == (149, 0, 1)
        assert done.rejected == [[71, "The better answer is one message of the assistant."]]
        assert done.format == "parquet"
        assert (done.total, done.done, done.lines) == (150, 150, 150)

    def test_reports_rows_of_parquet_that_are_no_text(
        self, model: RegisteredModel, tmp_path: Path
    ) -> None:
        broken = pa.array([b"What?", b"\xff\xfe", b"Why?"]).view(pa.string())
        answers = {"chosen": ["a", "a", "a"], "rejected": ["b", "b", "b"]}
        parquet.write_table(pa.table({"prompt": broken} | answers), tmp_path / "p.parquet")

        done = run(model, (tmp_path / "p.parquet").read_bytes())

        assert counts(done) == (2, 0, 1)
        assert done.rejected == [[2, "This line is not UTF-8 text."]]

    @pytest.mark.parametrize(
        ("columns", "sentence"),
        [
            ({"question": ["a"]}, "columns question; it needs"),
            ({"prompt": ["a"], "chosen": ["b"]}, "it needs"),
        ],
    )
    def test_fails_on_other_columns(
        self, model: RegisteredModel, tmp_path: Path, columns: dict[str, Any], sentence: str
    ) -> None:
        parquet.write_table(pa.table(columns), tmp_path / "p.parquet")

        done = run(model, (tmp_path / "p.parquet").read_bytes())

        assert done.state == Import.State.FAILED
        assert sentence in done.failure

    def test_fails_on_what_only_begins_like_parquet(
        self, model: RegisteredModel, tmp_path: Path
    ) -> None:
        whole = table([line(number) for number in range(500)], tmp_path / "p.parquet")

        for body in (b"PAR1 and no more", whole[: len(whole) // 2]):
            assert "not a whole Parquet file" in run(model, body).failure

    def test_keeps_what_came_before_a_damaged_part(
        self, model: RegisteredModel, tmp_path: Path
    ) -> None:
        rows = [line(number) for number in range(200)]
        whole = bytearray(table(rows, tmp_path / "p.parquet", row_group_size=100))
        at = parquet.ParquetFile(tmp_path / "p.parquet").metadata.row_group(1).column(0)
        whole[at.data_page_offset : at.data_page_offset + 40] = b"\xff" * 40

        done = run(model, bytes(whole))

        assert "is damaged" in done.failure
        # Rows come 64 at a time.
        assert done.created == done.done == 64

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            (b"", "is empty"),
            (b"\xef\xbb\xbf \n\n", "is empty"),
            (b' [{"prompt": "a"}]', "JSON list"),
            (b"\x1f\x8b\x08\x00", "compressed"),
        ],
    )
    def test_refuses_at_once_what_is_no_such_file(
        self, model: RegisteredModel, folder: Path, body: bytes, sentence: str
    ) -> None:
        with pytest.raises(reading.FileUnreadable, match=sentence):
            start(model, body)

        assert list(folder.iterdir()) == []
        assert not Import.objects.exists()

    def test_refuses_a_file_that_is_too_large(
        self, model: RegisteredModel, settings: Any, folder: Path
    ) -> None:
        settings.IMPORT_MIB = 1

        with pytest.raises(imports.FileTooLarge, match="at most 1 MiB"):
            start(model, jsonl(line(1)) + b" " * 1024**2)
        assert list(folder.iterdir()) == []

    def test_keeps_the_file_to_itself_until_the_end(
        self, model: RegisteredModel, folder: Path, django_capture_on_commit_callbacks: Any
    ) -> None:
        started = start(model, jsonl(line(1)), filename="../../etc/p\x00\n.jsonl")

        (kept,) = folder.iterdir()
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert started.filename == "p.jsonl"
        with django_capture_on_commit_callbacks(execute=True):
            imports.import_run(import_id=started.pk)
        assert list(folder.iterdir()) == []
        assert Import.objects.get().path == ""

    def test_fails_when_the_file_is_gone(self, model: RegisteredModel, folder: Path) -> None:
        started = start(model, jsonl(line(1)))
        (folder / started.path).unlink()

        imports.import_run(import_id=started.pk)

        assert "Send it again" in Import.objects.get().failure

    def test_is_one_import_after_a_double_click(self, model: RegisteredModel, folder: Path) -> None:
        body = jsonl(line(1))

        assert start(model, body) == start(model, body)
        assert len(list(folder.iterdir())) == 1
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM procrastinate_jobs WHERE task_name LIKE '%%import_run'"
            )
            assert cursor.fetchone() == (1,)

    def test_goes_on_where_it_was_stopped(
        self, model: RegisteredModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(reading, "BATCH", 64 + 3)
        rows = [line(number) for number in range(500)]
        for body in (jsonl(*rows, 7), table(rows, tmp_path / "p.parquet", row_group_size=70)):
            started = start(model, body)
            for _ in range(3):
                imports.import_run(import_id=started.pk, should_stop=lambda: True)
            started.refresh_from_db()
            assert started.state == Import.State.RUNNING
            assert 0 < started.progress < 1
            assert queries.imports_abandoned() == [started.pk]

            imports.import_run(import_id=started.pk)

            started.refresh_from_db()
            assert started.lines == len(rows) + (started.format == "jsonl")
            assert started.rejected_count == (started.format == "jsonl")
            assert started.created + started.duplicates == 500
        assert Pair.objects.count() == 500


class TestTriples:
    def test_come_from_the_import_until_somebody_judges(self, model: RegisteredModel) -> None:
        imported = factories.ImportedPreferenceFactory.create(model=model, target=0.9)
        other = factories.ImportedPreferenceFactory.create(model=model)
        ImportedPreference.objects.filter(pk=other.pk).update(preferred=other.pair.second)
        pairs = triples.triple_pairs(model=model)

        first, second = triples.triples_of(pairs)

        assert (first.origin, first.target, first.judgement_ids) == ("import", 0.9, [])
        assert first.chosen.completion_id == imported.pair.first_id
        assert (second.target, second.chosen.completion_id) == (0.98, other.pair.second_id)

        factories.JudgementFactory.create(assignment__pair=imported.pair, verdict="right")

        judged, _ = triples.triples_of(pairs)
        assert (judged.origin, judged.target) == ("judgement", 0.85)
        assert judged.chosen.completion_id == imported.pair.second_id

    def test_wait_for_a_round(self, model: RegisteredModel) -> None:
        factories.ImportedPreferenceFactory.create(model=model)
        factories.JudgementFactory.create(assignment__pair__prompt__model=model)
        factories.ImportedPreferenceFactory.create()

        assert training.triples_waiting(model) == 2

    def test_do_not_count_as_pairs_that_were_sampled(self, model: RegisteredModel) -> None:
        for _ in range(3):
            factories.ImportedPreferenceFactory.create(model=model)
        policy = queries.policy_of(model)

        assert not queries.has_pairs(model)
        assert not queries.eval_pairs_are_due(model=model, policy=policy)


class TestCommand:
    def test_imports_and_reports(self, model: RegisteredModel, tmp_path: Path) -> None:
        (tmp_path / "p.jsonl").write_bytes(jsonl(line(1), 7, line(1)))
        out, err = StringIO(), StringIO()

        call_command(
            "triples_import", model.slug, str(tmp_path / "p.jsonl"), stdout=out, stderr=err
        )

        assert "1 created" in out.getvalue()
        assert "1 duplicates, 1 rejected" in out.getvalue()
        assert err.getvalue().startswith("line 2: A line is an object")

    def test_fails_in_a_sentence(self, model: RegisteredModel, tmp_path: Path) -> None:
        bad = {"nothing": b"7\n", "empty": b"", "table": b"PAR1"}
        for name, body in bad.items():
            (tmp_path / name).write_bytes(body)
        for name, sentence in {
            "nothing": "nothing was imported",
            "empty": "is empty",
            "table": "not a whole Parquet",
            "missing": "cannot be read",
        }.items():
            with pytest.raises(CommandError, match=sentence):
                call_command("triples_import", model.slug, str(tmp_path / name), stderr=StringIO())
        with pytest.raises(CommandError, match="No model nowhere"):
            call_command("triples_import", "nowhere", str(tmp_path / "empty"))


@pytest.fixture
def closing(transactional_db: None) -> Iterator[None]:
    yield
    connections.close_all()


@pytest.mark.django_db(transaction=True)
class TestAtOnce:
    def test_the_same_lines_in_two_files_make_one_pair_each(
        self, model: RegisteredModel, monkeypatch: pytest.MonkeyPatch, no_jobs: None
    ) -> None:
        monkeypatch.setattr(reading, "BATCH", 50)
        rows = [line(number) for number in range(400)]
        started = [start(model, jsonl(*rows)), start(model, jsonl(*rows, 7))]

        def work(one: Import) -> None:
            try:
                imports.import_run(import_id=one.pk)
            finally:
                connections.close_all()

        # Each one by two workers, too.
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, [*started, *started]))

        assert [one.is_over for one in Import.objects.all()] == [True, True]
        assert sum(one.created for one in Import.objects.all()) == Pair.objects.count() == 400
        assert sum(one.duplicates for one in Import.objects.all()) == 400

    def test_goes_on_after_a_kill(
        self, model: RegisteredModel, no_jobs: None, folder: Path
    ) -> None:
        started = start(model, jsonl(*map(line, range(6000))))
        code = (
            "import django; django.setup()\n"
            "from django.conf import settings; from django.db import connection\n"
            "from pathlib import Path\n"
            f"settings.DATABASES['default']['NAME'] = {connection.settings_dict['NAME']!r}\n"
            f"settings.IMPORTS = Path({str(folder)!r})\n"
            "from annotate import imports, reading\n"
            "reading.BATCH = 100\n"
            f"imports.import_run(import_id={started.pk})\n"
        )
        killed = subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"},
        )
        try:
            until = time.monotonic() + 40
            while Import.objects.get().created < 300:
                assert killed.poll() is None
                assert time.monotonic() < until
                time.sleep(0.02)
        finally:
            killed.send_signal(signal.SIGKILL)
            killed.wait()

        before = Import.objects.get()
        assert before.state == Import.State.RUNNING
        until = time.monotonic() + 10
        while not queries.imports_abandoned():
            # PostgreSQL takes a moment to see that the connection is gone.
            assert time.monotonic() < until
        imports.imports_sweep()
        imports.import_run(import_id=started.pk)

        after = Import.objects.get()
        assert before.created < after.created == 6000 == Pair.objects.count()
        assert counts(after) == (6000, 0, 0)
        assert ImportedPreference.objects.values("line").distinct().count() == 6000
