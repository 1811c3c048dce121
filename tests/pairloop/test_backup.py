"""A backup of an installation that is being used, restored into a second one with a PostgreSQL of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.test import Client
from django.utils import timezone

from models_registry.hashing import folder_sha256
from models_registry.models import ModelVersion, RegisteredModel
from pairloop.lib import files
from pairloop.up import archive, dumps, postgres
from tests import factories
from tests.loop.invariants import invariants_hold, rows
from tests.loop.product import ROOT, Product
from tests.training.conftest import judge
from tests.training.scripted import GOOD, trainer
from training import actions, runner
from training.models import Round

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]

#: Tables whose rows do not change while labelers judge.
QUIET = (
    "annotate_prompt", "annotate_completion", "annotate_pair", "training_snapshot",
    "training_snapshotitem", "training_round", "models_registry_modelversion", "models_registry_alias",
    "models_registry_aliasmove", "auth_user",
)  # fmt: skip
OPEN = 60


@pytest.fixture
def places(settings, tmp_path: Path) -> Path:
    """Keep every file of a test in its own folder."""
    for name in ("VERSIONS", "ROUNDS", "SCORES", "BASES"):
        setattr(settings, name, tmp_path / "here" / name.lower())
    return tmp_path


@pytest.fixture
def model(places: Path, settings) -> RegisteredModel:
    """A model with a base in the store, a version that a round made, and a round under way."""
    settings.ML_PYTHON = trainer(places, GOOD)
    base = settings.BASES / "made"
    base.mkdir(parents=True)
    (base / "model.safetensors").write_bytes(b"weights" * 1000)
    (base / "config.json").write_text("{}")
    sha256 = folder_sha256(base)
    base.rename(settings.BASES / sha256)
    model = factories.RegisteredModelFactory.create(sampler=None, champion=None)
    v0 = factories.ModelVersionFactory.create(model=model, sha256=sha256, artifact_path=sha256)
    for name in ("sampler", "champion"):
        factories.AliasFactory.create(model=model, name=name, version=v0)
    factories.ServingFactory.create(version=v0, loaded_at=timezone.now())
    judge(model, count=3)
    first = actions.round_start(model=model, by=None, now=timezone.now())
    runner.round_run(round_id=first.pk, worker="here", should_stop=lambda: False)
    Round.objects.filter(pk=first.pk).update(state=Round.State.SUCCEEDED)
    judge(model, count=2)
    second = actions.round_start(model=model, by=None, now=timezone.now())
    attempt = actions.attempt_begin(round_id=second.pk, worker="here")
    assert attempt
    runner.folder_prepare(attempt)
    return model


@dataclass
class Judging:
    """A labeler who judges one pair after the other, over REST."""

    assignments: list[str]
    client: Client
    acknowledged: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Judge until it is told to stop, or nothing is left."""
        for uuid in self.assignments:
            answer = self.client.post(
                f"/api/v1/assignments/{uuid}/judgement/",
                {"verdict": "left"},
                content_type="application/json",
            )
            assert answer.status_code == 201
            self.acknowledged.append(uuid)
            if self._stop.wait(0.02):
                break
        connections.close_all()

    def stop(self) -> None:
        """Stop after the judgement that is under way."""
        self._stop.set()


@pytest.fixture
def judging(model: RegisteredModel) -> Iterator[Callable[[], Judging]]:
    """Return a function that starts a labeler and waits for their first five judgements."""
    labeler = factories.MembershipFactory.create(model=model).user
    leases = [
        factories.AssignmentFactory.create(pair__prompt__model=model, labeler=labeler)
        for _ in range(OPEN)
    ]
    client = Client()
    client.force_login(labeler)
    at_work = Judging([str(lease.uuid) for lease in leases], client)
    thread = threading.Thread(target=at_work.run)

    def start() -> Judging:
        thread.start()
        while len(at_work.acknowledged) < 5:
            assert thread.is_alive()
        return at_work

    yield start
    at_work.stop()
    if thread.ident:
        thread.join()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Product]:
    """An installation that holds nothing yet."""
    there = Product(folder=tmp_path / "elsewhere", port=0)
    there.var.mkdir(parents=True)
    yield there
    if postgres.Cluster.of(there.var).folder.exists():
        shutil.rmtree(postgres.Cluster.of(there.var).folder)


def backup(folder: Path, *arguments: str) -> archive.Manifest:
    call_command("backup", str(folder), *arguments)
    return archive.manifest_read(folder)


def manage(product: Product, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on another installation, in a process of its own."""
    environment = product.environment() | {"DJANGO_SETTINGS_MODULE": "pairloop.settings"}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


class TestBackupAndRestore:
    def test_keeps_what_was_acknowledged_while_people_judge(
        self, model, judging, elsewhere, places, capsys
    ):
        at_work = judging()
        before = list(at_work.acknowledged)

        manifest = backup(places / "backup")
        done = manage(elsewhere, "restore", str(places / "backup"))

        assert done.returncode == 0, done.stdout + done.stderr
        at_work.stop()
        # It went on judging all the while.
        assert len(at_work.acknowledged) > len(before) + 5
        with postgres.running(postgres.Cluster.of(elsewhere.var), durable=False):
            invariants_hold(elsewhere, before)
            for table in QUIET:
                everything = f"SELECT t::text FROM {table} t ORDER BY id"
                with connection.cursor() as cursor:
                    cursor.execute(everything)
                    assert rows(elsewhere, everything) == cursor.fetchall(), table
            restored = rows(elsewhere, "SELECT count(*) FROM annotate_judgement")
            assert restored == [(manifest.contents["judgements"],)]
            # No door stays open, and nothing that was true of the other machine only.
            assert rows(elsewhere, "SELECT 1 FROM django_session") == []
            assert rows(elsewhere, "SELECT 1 FROM procrastinate_jobs") == []
            assert rows(elsewhere, "SELECT DISTINCT loaded_at FROM models_registry_serving") == [
                (None,)
            ]
            outcomes = "SELECT outcome FROM training_roundattempt ORDER BY id"
            assert rows(elsewhere, outcomes) == [("published",), ("lost",)]
            # The rules came with the rows.
            with pytest.raises(psycopg.errors.RestrictViolation, match="append"):
                rows(elsewhere, "DELETE FROM annotate_judgement")
        for place in ("versions", "bases"):
            (folder,) = (elsewhere.var / place).iterdir()
            assert folder_sha256(folder) == folder.name
        rounds = elsewhere.var / "rounds" / model.slug
        assert sorted(path.name for path in rounds.iterdir()) == ["1", "2"]
        assert (rounds / "1" / "attempt-1" / "result.json").is_file()
        assert (rounds / "2" / "snapshot.jsonl").is_file()

    def test_reads_every_file_before_it_touches_anything(self, model, places, elsewhere):
        backup(places / "backup")
        victim = next((places / "backup" / "versions").rglob("*.safetensors"))
        content = bytearray(victim.read_bytes())
        content[-1] ^= 1
        victim.write_bytes(content)

        done = manage(elsewhere, "restore", str(places / "backup"))

        assert done.returncode == 1
        assert f"{victim} is not what was backed up. Use another backup." in done.stderr
        assert not (elsewhere.var / "versions").exists()
        assert not postgres.Cluster.of(elsewhere.var).data.exists()

    def test_never_goes_over_something(self, model, places):
        backup(places / "backup")

        with pytest.raises(CommandError, match="a database here already"):
            call_command("restore", str(places / "backup"))

    def test_leaves_what_is_in_the_way(self, model, places, elsewhere):
        backup(places / "backup")
        mine = elsewhere.var / "rounds" / model.slug / "1" / "snapshot.jsonl"
        mine.parent.mkdir(parents=True)
        mine.write_text("mine")

        done = manage(elsewhere, "restore", str(places / "backup"))

        assert done.returncode == 1
        assert f"{mine.parent} holds something else than the backup" in done.stderr
        assert mine.read_text() == "mine"

    def test_can_be_repeated_and_says_where_a_base_belongs(self, model, places, elsewhere):
        manifest = backup(places / "backup", "--without-bases")
        assert not any(name.startswith("bases/") for name in manifest.files)
        # As after an interruption behind the first of the files.
        (version,) = (places / "backup" / "versions").iterdir()
        shutil.copytree(version, elsewhere.var / "versions" / version.name)
        (elsewhere.var / "rounds" / model.slug / ".restoring-1").mkdir(parents=True)

        done = manage(elsewhere, "restore", str(places / "backup"))

        base = ModelVersion.objects.get(number=0)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"Put it at {elsewhere.var / 'bases' / base.artifact_path}" in done.stdout


class TestBackup:
    def test_is_for_its_owner_only(self, model, places):
        manifest = backup(places / "backup")

        assert places.joinpath("backup").stat().st_mode & 0o777 == 0o700
        found = {path for path in (places / "backup").rglob("*") if path.is_file()}
        assert {path.stat().st_mode & 0o777 for path in found} == {0o600}
        names = {str(path.relative_to(places / "backup")) for path in found}
        assert names == {*manifest.files, archive.MANIFEST}

    def test_holds_no_key_and_no_session(self, model, places, settings):
        client = Client()
        client.force_login(factories.UserFactory.create())
        key = client.cookies["sessionid"].value

        backup(places / "backup")

        tool = dumps._program("pg_restore")
        shown = subprocess.run(
            [tool, "--file=-", places / "backup" / archive.DUMP],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert "COPY public.annotate_judgement" in shown
        assert key not in shown
        assert settings.SECRET_KEY not in shown

    def test_notes_what_is_damaged_and_keeps_the_rest(self, model, places, settings, capsys):
        version = ModelVersion.objects.get(number=1)
        folder = settings.VERSIONS / version.artifact_path
        folder.chmod(0o755)
        (folder / "README.md").unlink()

        manifest = backup(places / "backup")

        assert manifest.damaged == [f"{version} is damaged or missing in {folder}."]
        assert "Not in the backup:" in capsys.readouterr().err
        assert not any(name.startswith("versions/") for name in manifest.files)
        archive.manifest_check(places / "backup", manifest, say=print)

    def test_follows_no_link_out_of_the_store(self, model, places, settings):
        secret = places / "secret"
        secret.write_text("hush")
        folder = settings.VERSIONS / ModelVersion.objects.get(number=1).artifact_path
        folder.chmod(0o755)
        (folder / "README.md").unlink()
        (folder / "README.md").symlink_to(secret)

        manifest = backup(places / "backup")

        assert len(manifest.damaged) == 1

    def test_wants_an_empty_folder(self, model, places):
        (places / "full").mkdir()
        (places / "full" / "mine").write_text("mine")

        with pytest.raises(CommandError, match=r"is not empty\. Choose a new folder"):
            call_command("backup", str(places / "full"))

        assert [path.name for path in (places / "full").iterdir()] == ["mine"]

    def test_tells_an_unfinished_one(self, model, places):
        (places / "half").mkdir()
        (places / "half" / archive.DUMP).write_text("")

        with pytest.raises(CommandError, match=r"was not finished\. Delete it"):
            call_command("backup", str(places / "half"))

    @pytest.mark.parametrize("where", ["copy", "dump"])
    def test_leaves_nothing_when_the_disk_is_full(self, model, places, monkeypatch, where):
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        def said(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
            (places / "backup" / archive.DUMP).write_text("half")
            words = "pg_dump: error: could not write to file: No space left on device\n"
            return subprocess.CompletedProcess([], 1, "", words)

        if where == "copy":
            monkeypatch.setattr(archive, "copy_hashed", full)
        else:
            real = subprocess.run
            monkeypatch.setattr(
                dumps.subprocess, "run",
                lambda command, **more: real(command, **more) if "--version" in command else said(),
            )  # fmt: skip

        with pytest.raises(CommandError, match=r"(?i)the disk.* is full\."):
            call_command("backup", str(places / "backup"))

        assert list((places / "backup").iterdir()) == []

    def test_refuses_a_server_newer_than_its_programs(self, model, places, monkeypatch):
        monkeypatch.setattr(dumps, "server_version", lambda: "99.1")

        with pytest.raises(CommandError, match="cannot dump a server of version 99"):
            call_command("backup", str(places / "backup"))


class TestManifest:
    @pytest.fixture
    def folder(self, model, places) -> Path:
        backup(places / "backup")
        return places / "backup"

    def change(self, folder: Path, **changes: object) -> None:
        found = json.loads((folder / archive.MANIFEST).read_text())
        files.write_atomic(folder / archive.MANIFEST, json.dumps(found | changes))

    def test_is_missing_from_an_unfinished_backup(self, folder):
        (folder / archive.MANIFEST).unlink()

        with pytest.raises(CommandError, match="its backup was not finished"):
            call_command("restore", str(folder))

    @pytest.mark.parametrize(
        "name",
        ["../up.lock", "/etc/passwd", "versions/../../x", "secrets/django", "versions/x/../y"],
    )
    def test_names_no_file_elsewhere(self, folder, name):
        entry = {"size": 1, "sha256": "0" * 64}
        self.change(folder, files={archive.DUMP: entry, name: entry})

        with pytest.raises(CommandError, match="is damaged"):
            call_command("restore", str(folder))

    def test_of_a_newer_release_asks_for_an_upgrade(self, folder, monkeypatch):
        monkeypatch.setattr("pairloop.up.restore._emptiness_check", lambda: None)
        self.change(folder, migrations=["annotate.9999_later"])

        with pytest.raises(CommandError, match="Upgrade this one first"):
            call_command("restore", str(folder))

    def test_of_a_newer_postgresql_asks_for_that(self, folder, monkeypatch):
        monkeypatch.setattr("pairloop.up.restore._emptiness_check", lambda: None)
        self.change(folder, database="99.1")

        with pytest.raises(CommandError, match="Restore it into version 99 or newer"):
            call_command("restore", str(folder))
