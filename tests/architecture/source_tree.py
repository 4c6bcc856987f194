"""The source of bursar as syntax trees, for tests that read code instead of running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "bursar"


@dataclass(frozen=True)
class Module:
    path: str
    """Below `src/bursar`, for example `ledger/hold.py`."""
    text: str
    tree: ast.Module

    @property
    def is_money(self) -> bool:
        return self.path in {"money.py", "call.py"} or self.path.startswith(("pricing/", "dialects/", "ledger/"))

    def at(self, node: ast.AST) -> str:
        return f"{self.path}:{getattr(node, 'lineno', 0)}"


@cache
def modules() -> tuple[Module, ...]:
    texts = ((path, path.read_text(encoding="utf-8")) for path in sorted(SRC.rglob("*.py")))
    return tuple(Module(path.relative_to(SRC).as_posix(), text, ast.parse(text)) for path, text in texts)


def module(path: str) -> Module:
    return next(module for module in modules() if module.path == path)


def money_modules() -> tuple[Module, ...]:
    return tuple(module for module in modules() if module.is_money)


def called_name(node: ast.AST) -> str:
    """Give the last name of what is called: `Quote` for both `Quote(...)` and `quote.Quote(...)`."""
    if not isinstance(node, ast.Call):
        return ""
    return last_name(node.func)


def last_name(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def calls_of(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called_name(node) == name:
            yield node


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def docstrings(tree: ast.AST) -> set[ast.AST]:
    """Give every string that stands alone as a statement: docstrings of modules, classes, functions and fields."""
    return {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def names_defined(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Give every name that the code brings into being: functions, classes, arguments, variables, attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node
            case ast.alias(asname=str(name)):
                yield name, node
            case _:
                pass
