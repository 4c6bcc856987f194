"""Rules for all of the source: sizes, exceptions, prints, sleeps, SQL."""

from __future__ import annotations

import ast
import re

from source_tree import SRC, called_name, docstrings, functions, last_name, modules

LINES_PER_MODULE_MAX = 500
LINES_PER_FUNCTION_MAX = 60
MAY_CATCH_EVERYTHING = {"edge/app.py", "ledger/reaper.py"}
# Starts, strikes and asks a PostgreSQL server of its own, in a thread; no gateway imports it.
DRILLS_A_SERVER = {"drill/cluster.py"}
SQL = re.compile(
    r"\b(select\s.+\sfrom|insert\s+(or\s+\w+\s+)?into|update\s+\w+\s+set|delete\s+from|alter\s+table"
    r"|create\s+(unique\s+|temp\s+)?(table|index|trigger|view)|drop\s+(table|index|trigger|view))\b",
    re.IGNORECASE | re.DOTALL,
)


def test_a_module_fits_in_the_head() -> None:
    long = {source.path: n for source in modules() if (n := source.text.count("\n")) > LINES_PER_MODULE_MAX}
    assert not long


def test_a_function_fits_on_a_screen() -> None:
    for source in modules():
        for function in functions(source.tree):
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            assert lines <= LINES_PER_FUNCTION_MAX, f"{source.at(function)}: {function.name} has {lines} lines"


def test_everything_is_caught_in_two_files_only() -> None:
    for source in modules():
        for handler in (node for node in ast.walk(source.tree) if isinstance(node, ast.ExceptHandler)):
            assert handler.type is not None, source.at(handler)
            caught = {last_name(node) for node in ast.walk(handler.type)}
            if "BaseException" in caught:  # to clean up and pass it on, never to keep it
                assert ast.unparse(handler.body[-1]) == "raise", source.at(handler)
            assert "Exception" not in caught or source.path in MAY_CATCH_EVERYTHING, source.at(handler)


def test_assert_is_for_tests() -> None:
    for source in modules():
        for node in ast.walk(source.tree):
            assert not isinstance(node, ast.Assert), source.at(node)


def test_only_the_command_line_prints() -> None:
    for source in modules():
        if not source.path.startswith(("cli/", "drill/")):
            for node in ast.walk(source.tree):
                assert called_name(node) != "print", source.at(node)


def test_no_thread_sleeps() -> None:
    for source in (source for source in modules() if source.path not in DRILLS_A_SERVER):
        for node in ast.walk(source.tree):
            if called_name(node) == "sleep" and isinstance(node, ast.Call):
                assert ast.unparse(node.func) == "asyncio.sleep", source.at(node)


def test_sql_is_in_sql_files() -> None:
    for source in (source for source in modules() if source.path not in DRILLS_A_SERVER):
        prose = docstrings(source.tree)
        for node in ast.walk(source.tree):
            if node not in prose and (text := _text(node)):
                assert not SQL.search(text), source.at(node)


def test_every_sql_file_is_named_by_the_code() -> None:
    code = "\n".join(source.text for source in modules() if source.path.startswith("stores/"))
    for path in (SRC / "stores" / "sql").rglob("*.sql"):
        is_migration = re.match(r"\d+", path.stem) or path.parent.name == "migrations"
        assert is_migration or re.search(rf"\b{re.escape(path.stem)}\b", code), path.name


def test_no_loose_ends() -> None:
    for source in modules():
        assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", source.text), source.path
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Raise) and node.exc is not None:
                raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                assert last_name(raised) != "NotImplementedError", source.at(node)


def test_only_the_drill_starts_a_server() -> None:
    for source in modules():
        if not source.path.startswith("drill/"):
            assert "drill.cluster" not in source.text, source.path


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "x" for part in node.values)  # type: ignore[misc]
    return ""
