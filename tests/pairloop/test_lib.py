from __future__ import annotations

import hashlib
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction

from annotate import tasks
from pairloop.lib import env, errors, files, jobs, places

NAME = "PAIRLOOP_TEST"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def given(monkeypatch):
    """Return a function that sets the variable, or unsets it for None."""

    def give(value: str | None) -> None:
        if value is None:
            monkeypatch.delenv(NAME, raising=False)
        else:
            monkeypatch.setenv(NAME, value)

    return give


class TestEnvText:
    @pytest.mark.parametrize(
        ("value", "text"), [(None, "default"), ("", "default"), ("  ", "default"), (" a b ", "a b")]
    )
    def test_is_the_value_or_the_default(self, given, value: str | None, text: str) -> None:
        given(value)

        assert env.env_text(NAME, "default") == text


class TestEnvBool:
    @pytest.mark.parametrize("value", ["1", "true", "TRUE", "yes", "on", " On "])
    def test_is_true(self, given, value: str) -> None:
        given(value)

        assert env.env_bool(NAME, default=False) is True

    @pytest.mark.parametrize("value", ["0", "false", "No", "off"])
    def test_is_false(self, given, value: str) -> None:
        given(value)

        assert env.env_bool(NAME, default=True) is False

    @pytest.mark.parametrize("default", [True, False])
    @pytest.mark.parametrize("value", [None, ""])
    def test_is_the_default_when_unset(self, given, value: str | None, default: bool) -> None:
        given(value)

        assert env.env_bool(NAME, default=default) is default

    @pytest.mark.parametrize("value", ["2", "enabled", "tru"])
    def test_names_the_variable_of_anything_else(self, given, value: str) -> None:
        given(value)

        with pytest.raises(ImproperlyConfigured, match=f"^{NAME}={value} is not a flag"):
            env.env_bool(NAME, default=False)


class TestEnvInt:
    @pytest.mark.parametrize(("value", "number"), [(None, 7), ("", 7), ("12", 12), (" 3 ", 3)])
    def test_is_the_value_or_the_default(self, given, value: str | None, number: int) -> None:
        given(value)

        assert env.env_int(NAME, default=7, least=3) == number

    @pytest.mark.parametrize("value", ["2", "-4", "+4", "4.0", "4s", "four", "0x10", "٤", "1_000"])
    def test_names_the_variable_of_anything_else(self, given, value: str) -> None:
        given(value)

        with pytest.raises(ImproperlyConfigured, match=NAME) as refused:
            env.env_int(NAME, default=7, least=3)

        assert "at least 3" in str(refused.value)


class TestEnvList:
    @pytest.mark.parametrize(
        ("value", "parts"),
        [(None, ["x"]), ("", ["x"]), (" , ", ["x"]), ("a", ["a"]), ("a, b ,,c", ["a", "b", "c"])],
    )
    def test_is_split_at_commas(self, given, value: str | None, parts: list[str]) -> None:
        given(value)

        assert env.env_list(NAME, default=["x"]) == parts


class TestEnvPath:
    def test_is_absolute(self, given, monkeypatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        given("state/here")

        assert env.env_path(NAME, default=Path("/")) == tmp_path / "state" / "here"

    def test_begins_at_home(self, given, monkeypatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        given("~/state")

        assert env.env_path(NAME, default=Path("/")) == tmp_path / "state"

    def test_leaves_links_as_they_are(self, given, tmp_path: Path) -> None:
        link = tmp_path / "python"
        link.symlink_to("/usr/bin/env")
        given(str(link))

        assert env.env_path(NAME, default=Path("/")) == link

    def test_is_the_default_when_unset(self, given) -> None:
        given(None)

        assert env.env_path(NAME, default=Path("/somewhere")) == Path("/somewhere")


class TestRefused:
    def test_says_its_docstring_unless_told_otherwise(self) -> None:
        assert str(errors.Refused()) == "Pairloop refused this."
        assert str(errors.Refused("Not today.")) == "Not today."


class TestPrivateFolder:
    def test_is_its_owners_alone_whatever_it_was(self, tmp_path: Path) -> None:
        folder = tmp_path / "secrets"
        folder.mkdir(mode=0o755)

        assert files.private_folder(folder) == folder
        assert mode_of(folder) == 0o700

    def test_leaves_its_parents_alone(self, tmp_path: Path) -> None:
        there = tmp_path / "there"
        there.mkdir()
        there.chmod(0o755)

        files.private_folder(there / "new" / "secrets")

        assert mode_of(there) == 0o755
        # Made on the way, as any folder is.
        assert mode_of(there / "new") == 0o777 & ~_umask()


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


class TestWriteAtomic:
    def test_leaves_the_file_and_nothing_else(self, tmp_path: Path) -> None:
        files.write_atomic(tmp_path / "status.json", "grüße\n")

        assert list(tmp_path.iterdir()) == [tmp_path / "status.json"]
        assert (tmp_path / "status.json").read_bytes() == "grüße\n".encode()

    def test_replaces_what_was_there(self, tmp_path: Path) -> None:
        file = tmp_path / "status.json"
        file.write_text("a much longer text than the next one")

        files.write_atomic(file, "short")

        assert file.read_text() == "short"

    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
    @pytest.mark.parametrize("umask", [0o000, 0o077])
    def test_has_the_mode_that_was_asked_for(self, tmp_path: Path, mode: int, umask: int) -> None:
        before = os.umask(umask)
        try:
            files.write_atomic(tmp_path / "file", "text", mode=mode)
        finally:
            os.umask(before)

        assert mode_of(tmp_path / "file") == mode

    def test_is_private_by_default(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch(mode=0o644)

        files.write_atomic(tmp_path / "file", "text")

        assert mode_of(tmp_path / "file") == 0o600

    def test_leaves_no_draft_and_the_old_file_when_it_fails(self, tmp_path: Path) -> None:
        file = tmp_path / "status.json"
        file.write_text("old")

        with pytest.raises(UnicodeEncodeError):
            files.write_atomic(file, "half a pair: \ud83d")

        assert list(tmp_path.iterdir()) == [file]
        assert file.read_text() == "old"

    def test_shows_no_half_of_a_file_to_a_reader(self, tmp_path: Path) -> None:
        file = tmp_path / "status.json"
        texts = {letter * 100_000 for letter in "ab"}
        files.write_atomic(file, "a" * 100_000)
        done = threading.Event()

        def write() -> None:
            for _ in range(10):
                for text in texts:
                    files.write_atomic(file, text)
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        seen = set()
        while not done.is_set():
            seen.add(file.read_text())
        writer.join()

        assert seen <= texts


class TestReadJson:
    def test_returns_the_object(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text('{"a": 1}')

        assert files.read_json(tmp_path / "file") == {"a": 1}

    @pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff", b'{"a": 1} {}'])
    def test_returns_an_empty_one_for_anything_else(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "file").write_bytes(content)

        assert files.read_json(tmp_path / "file") == {}

    def test_returns_an_empty_one_for_no_file(self, tmp_path: Path) -> None:
        assert files.read_json(tmp_path / "file") == {}
        assert files.read_json(tmp_path) == {}


class TestSecret:
    def test_is_made_once_and_private(self, tmp_path: Path) -> None:
        file = tmp_path / "secrets" / "django"

        made = files.secret(file)

        assert len(made) == 64
        assert files.secret(file) == made
        assert mode_of(file) == 0o600
        assert mode_of(file.parent) == 0o700
        assert list(file.parent.iterdir()) == [file]

    def test_differs_from_file_to_file(self, tmp_path: Path) -> None:
        assert files.secret(tmp_path / "one") != files.secret(tmp_path / "another")

    def test_is_read_as_somebody_wrote_it(self, tmp_path: Path) -> None:
        tmp_path.joinpath("django").write_text("chosen by hand\n")

        assert files.secret(tmp_path / "django") == "chosen by hand"

    def test_is_the_same_for_all_who_ask_first_at_once(self, tmp_path: Path) -> None:
        # The web workers and the job worker of a first start.
        gate = threading.Barrier(8)

        def ask(_number: int) -> str:
            gate.wait()
            return files.secret(tmp_path / "secrets" / "django")

        with ThreadPoolExecutor(8) as pool:
            found = set(pool.map(ask, range(8)))

        assert found == {(tmp_path / "secrets" / "django").read_text()}


class TestSha256Of:
    @pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
    def test_is_that_of_the_whole_file(self, tmp_path: Path, size: int) -> None:
        (tmp_path / "file").write_bytes(b"x" * size)

        assert files.sha256_of(tmp_path / "file") == hashlib.sha256(b"x" * size).hexdigest()


class TestSocketFolder:
    @pytest.fixture
    def long(self, tmp_path: Path, monkeypatch) -> Path:
        """Return a state folder whose path is too long for a socket; short folders land in `runtime`."""
        runtime = tmp_path / "runtime"
        runtime.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        return tmp_path / ("a" * 90)

    def test_is_below_the_state_folder(self, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(places, "LONGEST_FOLDER", 4096)

        folder = places.socket_folder(tmp_path)

        assert folder == tmp_path / "run"
        assert mode_of(folder) == 0o700

    def test_is_a_short_one_when_that_is_too_long(self, long: Path, tmp_path: Path) -> None:
        folder = places.socket_folder(long)

        assert folder.parent == tmp_path / "runtime"
        assert mode_of(folder) == 0o700
        assert not long.exists()

    def test_counts_bytes_not_letters(self, long: Path, tmp_path: Path) -> None:
        umlauts = Path("/" + "ü" * 40)

        assert places.socket_folder(umlauts).parent == tmp_path / "runtime"

    def test_stays_the_same_and_is_nobody_elses(self, long: Path) -> None:
        folder = places.socket_folder(long)

        assert places.socket_folder(long) == folder
        assert places.socket_folder(long.with_name("b" * 90)) != folder

    def test_closes_a_short_one_that_stood_open(self, long: Path) -> None:
        places.socket_folder(long).chmod(0o777)

        assert mode_of(places.socket_folder(long)) == 0o700

    def test_refuses_a_short_one_of_somebody_else(self, long: Path, monkeypatch) -> None:
        folder = places.socket_folder(long)
        # The name holds our number: whoever made it before us has another one.
        stranger = os.getuid() + 1
        monkeypatch.setattr(os, "getuid", lambda: stranger)
        folder.rename(folder.with_name(folder.name.replace(f"-{stranger - 1}-", f"-{stranger}-")))

        with pytest.raises(PermissionError, match="PAIRLOOP_VAR"):
            places.socket_folder(long)

    @pytest.mark.parametrize("exists", [True, False])
    def test_refuses_a_link_in_its_place(self, long: Path, tmp_path: Path, exists: bool) -> None:
        folder = places.socket_folder(long)
        folder.rmdir()
        trap = tmp_path / "trap"
        if exists:
            trap.mkdir(mode=0o755)
        folder.symlink_to(trap)

        with pytest.raises(PermissionError, match="PAIRLOOP_VAR"):
            places.socket_folder(long)

        if exists:
            assert mode_of(trap) == 0o755


@pytest.mark.django_db
@pytest.mark.usefixtures("no_jobs")
class TestDeferOnce:
    def waiting(self) -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'")
            (count,) = cursor.fetchone()
        return count

    def test_leaves_the_transaction_usable_the_second_time(self) -> None:
        with transaction.atomic():
            jobs.defer_once(tasks.pairs_top_up)
            jobs.defer_once(tasks.pairs_top_up)

            assert self.waiting() == 1
        assert self.waiting() == 1

    def test_is_undone_with_the_transaction(self) -> None:
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            jobs.defer_once(tasks.pairs_top_up)
            raise ZeroDivisionError

        assert self.waiting() == 0

    def test_defers_another_task_all_the_same(self) -> None:
        jobs.defer_once(tasks.pairs_top_up)
        jobs.defer_once(tasks.leases_release)

        assert self.waiting() == 2


class TestEnvUrl:
    @pytest.mark.parametrize("value", ["unix:///run/vllm.sock", "http://gpu:8001", "https://gpu"])
    def test_takes_addresses(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("PAIRLOOP_TEST", value)

        assert env.env_url("PAIRLOOP_TEST", schemes=("unix", "http", "https"), default="") == value

    @pytest.mark.parametrize(
        "value",
        ["garbage", "ftp://gpu", "http://", "http://gpu:port", "http://gpu:70000", "gpu:80"],
    )
    def test_refuses_what_is_none(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("PAIRLOOP_TEST", value)

        with pytest.raises(ImproperlyConfigured, match=r"PAIRLOOP_TEST=.* is not an address"):
            env.env_url("PAIRLOOP_TEST", schemes=("unix", "http", "https"), default="")
