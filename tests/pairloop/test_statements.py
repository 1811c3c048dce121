from __future__ import annotations

import contextlib
from uuid import uuid4

import pytest
from django.conf import settings
from django.contrib.auth.models import Group
from django.db import (
    DataError,
    IntegrityError,
    InternalError,
    OperationalError,
    connection,
    transaction,
)
from django.utils import timezone
from psycopg.pq import TransactionStatus

from annotate.models import Verdict
from pairloop.lib.statements import Statement
from pairloop.up import postgres

SUM = Statement("test_sum", "SELECT %(a)s::int + %(b)s::int AS total, %(a)s::int AS a")


@pytest.mark.django_db
class TestStatement:
    def test_returns_rows(self) -> None:
        assert SUM.rows({"a": 1, "b": 2}) == [(3, 1)]
        assert SUM.row({"a": 1, "b": 2}) == (3, 1)
        assert SUM.named({"a": 4, "b": 2}) == [{"total": 6, "a": 4}]

    def test_is_one_statement_of_a_request(self, django_assert_num_queries) -> None:
        with django_assert_num_queries(2):
            SUM.row({"a": 1, "b": 2})
            SUM.row({"a": 2, "b": 2})

    def test_takes_hostile_text_as_text(self) -> None:
        said = Statement("test_said", "SELECT %(text)s::text")

        for text in ["'; DROP TABLE auth_user; --", "100 %s", "back\\slash", "\N{SNOWMAN}"]:
            assert said.row({"text": text}) == (text,)

    def test_reads_and_writes_alike_when_somebody_counts(self, django_assert_num_queries) -> None:
        every = Statement(
            "test_every",
            """SELECT %(none)s::int, %(yes)s::bool, %(at)s::timestamptz, %(ids)s::bigint[], %(uuid)s::uuid,
                      %(half)s::float8, %(verdict)s::text, '{"a": 1}'::jsonb""",
        )
        values = {
            "none": None, "yes": True, "at": timezone.now(), "ids": [], "uuid": uuid4(), "half": 0.5,
            "verdict": Verdict.TIE,
        }  # fmt: skip
        expected = (*values.values(), '{"a": 1}')

        assert every.row(values) == expected
        with django_assert_num_queries(1):
            assert every.row(values) == expected

    @pytest.mark.parametrize(
        ("sql", "kind"),
        [
            ("SELECT 1 / %(a)s::int", DataError),
            ("INSERT INTO auth_group (name) VALUES ('one'), (left('one', 3 + %(a)s::int))", IntegrityError),
            ("SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(%(a)s::int + 9)", OperationalError),
        ],
    )  # fmt: skip
    def test_fails_with_an_error_of_django(self, sql, kind) -> None:
        failing = Statement(f"test_failing_{kind.__name__.lower()}", sql)

        with pytest.raises(kind), transaction.atomic():
            failing.row({"a": 0})

        assert SUM.row({"a": 1, "b": 2}) == (3, 1)

    @pytest.mark.skipif(bool(settings.DATABASE_URL), reason="the server is somebody else's")
    def test_is_planned_once_from_its_first_run_on(self) -> None:
        SUM.row({"a": 1, "b": 2})

        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT custom_plans FROM pg_prepared_statements WHERE name = 'test_sum'"
            )
            assert cursor.fetchall() == [(0,)]

    def test_goes_as_it_is_where_a_pooler_may_stand_between(self, settings) -> None:
        settings.DATABASE_URL = "postgresql://db.example.org/pairs"
        never = Statement("test_never", "SELECT %(a)s::int")

        assert never.row({"a": 7}) == (7,)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_prepared_statements WHERE name = 'test_never'")
            assert cursor.fetchone() == (0,)


@pytest.mark.django_db(transaction=True)
class TestTransaction:
    WRITE = Statement("test_write", "INSERT INTO auth_group (name) VALUES (%(name)s::text)")

    def test_is_none_without_one(self) -> None:
        self.WRITE.rows({"name": "alone"})

        assert connection.connection.info.transaction_status == TransactionStatus.IDLE
        assert Group.objects.filter(name="alone").exists()

    def test_begins_with_its_first_statement_and_takes_all_back(self) -> None:
        with contextlib.suppress(LookupError), transaction.atomic():
            self.WRITE.rows({"name": "first"})
            self.WRITE.rows({"name": "second"})
            assert Group.objects.count() == 2
            raise LookupError

        assert not Group.objects.exists()

    def test_that_failed_takes_no_more(self) -> None:
        with transaction.atomic():
            self.WRITE.rows({"name": "same"})
            with pytest.raises(IntegrityError):
                self.WRITE.rows({"name": "same"})
            with pytest.raises(InternalError):
                self.WRITE.rows({"name": "other"})
            transaction.set_rollback(True)


@pytest.mark.skipif(bool(settings.DATABASE_URL), reason="the server is somebody else's")
@pytest.mark.django_db(transaction=True)
class TestConnection:
    def kill(self) -> None:
        """End the server's side of our connection, as a restart does."""
        pid = connection.connection.info.backend_pid
        with postgres.Cluster.of(settings.VAR).connect() as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

    def test_is_known_to_be_dead_without_asking(self, django_assert_num_queries) -> None:
        SUM.row({"a": 1, "b": 2})
        assert connection.is_usable()

        self.kill()

        with django_assert_num_queries(0):
            assert not connection.is_usable()
        connection.close()
        # What the old connection knew, the new one learns.
        assert SUM.row({"a": 1, "b": 2}) == (3, 1)

    def test_is_known_to_be_dead_after_a_statement_found_out(self) -> None:
        connection.ensure_connection()
        self.kill()
        with pytest.raises(OperationalError):
            SUM.row({"a": 1, "b": 2})

        # What Django does before the next request, where an error would be a page that says nothing.
        connection.close_if_unusable_or_obsolete()

        assert connection.connection is None
        assert SUM.row({"a": 1, "b": 2}) == (3, 1)

    def test_asks_a_server_on_a_network(self, monkeypatch) -> None:
        connection.ensure_connection()
        settings.DATABASE_URL = "postgresql://db.example.org/pairs"
        assert connection.is_usable()

        self.kill()

        assert not connection.is_usable()
        connection.close()
