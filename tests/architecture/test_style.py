"""The rules of style that ruff does not know."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.architecture.sources import PRODUCT, imported_names, python_files, repository_files, syntax_tree


def test_only_the_ledger_asks_for_trials_and_tells_their_ends():
    def asks_or_tells(node: ast.AST) -> bool:
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            return False
        # A file's tell() takes no argument.
        return node.func.attr == "ask" or (node.func.attr == "tell" and bool(node.args or node.keywords))

    callers = {path.as_posix() for path, _ in _found(python_files(*PRODUCT), asks_or_tells)}

    assert callers <= {"study/ledger.py"}


def test_assert_is_for_tests():
    # `python -O` removes it, and its message helps nobody on a login node.
    asserts = _found(python_files(*PRODUCT), lambda node: isinstance(node, ast.Assert))

    assert not asserts


def test_a_test_waits_for_a_condition_and_never_for_a_while():
    sleeps = [
        (path, line)
        for path, line in _found(python_files("tests"), _calls_time_sleep)
        # The one loop that looks again until a deadline.
        if path != Path("tests/waiting.py")
    ]
    imported = [(path, line) for path in python_files("tests") for name, line in imported_names(path) if name == _SLEEP]

    assert not sleeps + imported, "use tests.waiting.wait_until"


def test_file_names_say_what_is_inside():
    vague = [path for path in repository_files() if path.stem.lower() in {"utils", "helpers", "common", "misc"}]

    assert not vague


_SLEEP = "time.sleep"


def _calls_time_sleep(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == _SLEEP


def _found(paths: Iterable[Path], is_wanted: Callable[[ast.AST], bool]) -> list[tuple[Path, int]]:
    return [(path, node.lineno) for path in paths for node in ast.walk(syntax_tree(path)) if is_wanted(node)]
