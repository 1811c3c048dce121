"""The table of problems of other trainers names tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests" / "training" / "dpo"
PROBLEMS = range(1, 46)
NOT_OURS = "does not apply"
#: A name of a test as pytest writes it, in backticks.
NAMED = re.compile(r"`(?:tests/training/dpo/)?(test_\w+\.py)::(\w+)(?:::(\w+))?`")


def rows(name: str) -> dict[int, str]:
    """Return the rows of a document that begin with the number of a problem."""
    lines = (ROOT / "docs" / name).read_text(encoding="utf-8").splitlines()
    found = [re.match(r"\| (\d+) \| (.+) \|$", line) for line in lines]
    numbered = [(int(each[1]), each[2]) for each in found if each]
    assert len(numbered) == len(dict(numbered)), "a number stands twice"
    return dict(numbered)


@cache
def names_in(file: str) -> frozenset[str]:
    """Return the tests of a file, `test` or `Class::test`, and its classes that hold any."""
    body = ast.parse((FOLDER / file).read_text(encoding="utf-8")).body
    found = _tests(body)
    for node in body:
        if isinstance(node, ast.ClassDef) and _tests(node.body):
            found |= {node.name, *(f"{node.name}::{name}" for name in _tests(node.body))}
    return frozenset(found)


def _tests(body: list[ast.stmt]) -> set[str]:
    return {
        node.name
        for node in body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


class TestTable:
    def test_has_every_problem_once_with_tests_that_exist(self) -> None:
        table = rows("trainer-problems.md")

        assert list(table) == list(PROBLEMS)
        for number, row in table.items():
            last = row.rpartition(" | ")[2]
            named = NAMED.findall(last)
            # A row has either tests or the reason elsewhere, and no backtick that is read as neither.
            assert bool(named) != (last == NOT_OURS), number
            assert len(named) == last.count(".py::"), number
            for file, *names in named:
                name = "::".join(filter(None, names))
                assert (FOLDER / file).exists(), (number, file)
                assert name in names_in(file), (number, file, name)

    def test_gives_a_reason_for_each_that_does_not_apply(self) -> None:
        table = rows("trainer-problems.md")
        reasons = rows("decisions.md")

        assert list(reasons) == [number for number, row in table.items() if row.endswith(NOT_OURS)]
        assert all(len(reason.rpartition(" | ")[2]) > 10 for reason in reasons.values())
