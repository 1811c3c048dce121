from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection as django_connection

from pairloop.lib import processes
from pairloop.up import binaries, postgres


class TestDatabaseOfUrl:
    def test_takes_a_url_apart(self) -> None:
        found = postgres.database_of_url("postgresql://ann:p%40ss@db:6543/loop?sslmode=require")

        assert found == {
            "ENGINE": "pairloop.lib.database",
            "NAME": "loop",
            "USER": "ann",
            "PASSWORD": "p@ss",
            "HOST": "db",
            "PORT": "6543",
            "OPTIONS": {"sslmode": "require"},
        }

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("mysql://ann:hush@db/loop", "must begin with postgresql://"),
            ("postgresql://ann:hush@db", "names no database"),
            ("postgresql://ann:hush@db:5432/loop?color=blue", "cannot be read"),
        ],
    )
    def test_refuses_without_repeating_the_password(self, url: str, said: str) -> None:
        with pytest.raises(ImproperlyConfigured, match=said) as refused:
            postgres.database_of_url(url)

        assert "hush" not in str(refused.value)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres.Cluster]:
    """A cluster whose data folder is complete, and that does not run."""
    made = postgres.Cluster.of(tmp_path_factory.mktemp("var"))
    with postgres.running(made, durable=False):
        pass
    yield made
    # As root it lies below /var/lib, which pytest does not tidy.
    shutil.rmtree(made.folder)


def connect(cluster: postgres.Cluster, **changes: str) -> psycopg.Connection[tuple[object, ...]]:
    entry = cluster.database()
    arguments = {
        "host": entry["HOST"],
        "port": entry["PORT"],
        "user": entry["USER"],
        "password": entry["PASSWORD"],
        "dbname": entry["NAME"],
    }
    return psycopg.connect(**(arguments | changes), autocommit=True)


class TestRunning:
    def test_gives_the_app_a_role_without_superuser(self, cluster: postgres.Cluster) -> None:
        with postgres.running(cluster, durable=False), connect(cluster) as connection:
            row = connection.execute(
                "SELECT current_user, rolsuper, rolcreatedb, rolcreaterole"
                " FROM pg_roles WHERE rolname = current_user"
            ).fetchone()

            assert row == ("pairloop", False, False, False)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("COPY (SELECT 1) TO PROGRAM 'true'")

    def test_sorts_by_its_own_locale(self, cluster: postgres.Cluster) -> None:
        with postgres.running(cluster, durable=False), connect(cluster) as connection:
            row = connection.execute(
                "SELECT pg_encoding_to_char(encoding), datlocprovider, datlocale"
                " FROM pg_database WHERE datname = current_database()"
            ).fetchone()

        assert row == ("UTF8", "b", "C.UTF-8")

    def test_listens_on_a_private_socket_only(self, cluster: postgres.Cluster) -> None:
        with postgres.running(cluster, durable=False), connect(cluster) as connection:
            listens = connection.execute("SHOW listen_addresses").fetchone()
            mode = cluster.socket_folder.stat().st_mode & 0o777

        assert listens == ("",)
        assert mode == 0o700

    def test_wants_a_password(self, cluster: postgres.Cluster) -> None:
        with (
            postgres.running(cluster, durable=False),
            pytest.raises(psycopg.OperationalError, match="password authentication failed"),
        ):
            connect(cluster, password="guess")

    def test_lets_tests_create_databases(self, cluster: postgres.Cluster) -> None:
        with (
            postgres.running(cluster, createdb=True, durable=False),
            connect(cluster) as connection,
        ):
            connection.execute("CREATE DATABASE test_pairloop")
            connection.execute("DROP DATABASE test_pairloop")

    def test_refuses_to_run_twice(self, cluster: postgres.Cluster) -> None:
        with (
            postgres.running(cluster, durable=False),
            pytest.raises(postgres.ClusterBusy, match=f"Process {os.getpid()} uses"),
            postgres.running(cluster, durable=False),
        ):
            pass

    def test_starts_beside_a_stale_pid_file(
        self, cluster: postgres.Cluster, tmp_path: Path
    ) -> None:
        # PostgreSQL itself refuses when another program of its user has got that pid meanwhile.
        launch = processes.Launch(
            command=("sleep", "60"), folder=Path("/"), account=cluster.account
        )
        other = processes.spawn(launch, log=tmp_path / "log", death_signal=signal.SIGKILL)
        lines = [str(other.pid), str(cluster.data), "1", "5432", str(cluster.socket_folder), "", ""]
        for path in (cluster.data / "postmaster.pid", Path(f"{cluster.socket}.lock")):
            path.write_text("\n".join(lines))
            if cluster.account:
                os.chown(path, cluster.account.uid, cluster.account.gid)

        try:
            with postgres.running(cluster, durable=False):
                assert cluster.answers()
        finally:
            other.kill()
            other.wait()

    def test_refuses_the_data_of_another_version(self, cluster: postgres.Cluster) -> None:
        marker = cluster.data / "PG_VERSION"
        made_by = marker.read_text()
        marker.write_text("9\n")
        try:
            with (
                pytest.raises(postgres.ClusterUnusable, match="was made by PostgreSQL 9, but"),
                postgres.running(cluster, durable=False),
            ):
                pass
        finally:
            marker.write_text(made_by)

    def test_says_which_password_is_lost(self, cluster: postgres.Cluster, tmp_path: Path) -> None:
        # The same data with a state folder that has secrets of its own, as after deleting the old ones.
        forgetful = replace(cluster, var=tmp_path)

        with (
            pytest.raises(postgres.ClusterUnusable, match="secrets/postgres-owner"),
            postgres.running(forgetful, durable=False),
        ):
            pass

    def test_shows_why_the_server_did_not_start(self, cluster: postgres.Cluster) -> None:
        setting = cluster.data / "postgresql.auto.conf"
        before = setting.read_text()
        setting.write_text("max_connections = many\n")
        try:
            with (
                pytest.raises(postgres.ClusterNotStarted, match="max_connections"),
                postgres.running(cluster, durable=False),
            ):
                pass
        finally:
            setting.write_text(before)


class TestClusterPrepare:
    def test_redoes_an_interrupted_initdb(self, tmp_path: Path) -> None:
        cluster = postgres.Cluster.of(tmp_path)
        lock = postgres.cluster_lock(cluster)
        try:
            (cluster.folder / "data.new" / "base").mkdir(parents=True)

            postgres.cluster_prepare(cluster, lock=lock, durable=False)

            assert (cluster.data / "PG_VERSION").exists()
            assert sorted(path.name for path in cluster.folder.iterdir() if path.is_file()) == [
                "lock"
            ]
        finally:
            os.close(lock)
            shutil.rmtree(cluster.folder)

    def test_leaves_a_folder_alone_that_is_not_its_own(self, tmp_path: Path) -> None:
        cluster = postgres.Cluster.of(tmp_path)
        lock = postgres.cluster_lock(cluster)
        try:
            cluster.data.mkdir()
            (cluster.data / "thesis.txt").write_text("mine")

            with pytest.raises(postgres.ClusterUnusable, match="is not a PostgreSQL data folder"):
                postgres.cluster_prepare(cluster, lock=lock)

            assert (cluster.data / "thesis.txt").read_text() == "mine"
        finally:
            os.close(lock)
            shutil.rmtree(cluster.folder)


class TestFind:
    @pytest.fixture(autouse=True)
    def _fresh(self) -> Iterator[None]:
        binaries.find.cache_clear()
        yield
        binaries.find.cache_clear()

    def test_prefers_the_folder_that_was_chosen(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "initdb").touch()
        monkeypatch.setenv("PAIRLOOP_PG_BIN", str(tmp_path))

        assert binaries.find() == tmp_path

    def test_refuses_a_chosen_folder_without_programs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PAIRLOOP_PG_BIN", str(tmp_path))

        with pytest.raises(binaries.PostgresMissing, match="holds no initdb"):
            binaries.find()


@pytest.mark.django_db
class TestTheTestsDatabase:
    def test_is_migrated(self) -> None:
        assert "procrastinate_jobs" in django_connection.introspection.table_names()
