from __future__ import annotations

import pytest
from django.conf import settings
from django.db import OperationalError, connection

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
