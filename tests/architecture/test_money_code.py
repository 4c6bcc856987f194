"""Rules for the code that counts money: whole numbers, exact words, no way to switch it off."""

from __future__ import annotations

import ast
import re

from source_tree import called_name, modules, money_modules, names_defined

# DESIGN's "do not say": one word for one thing, so that a search finds all of it.
FORBIDDEN_WORDS = {"wallet", "bucket", "quota", "principal", "backend", "charge", "finalize", "refund"} | {
    *("estimate", "estimated", "reserve", "reserved", "reservation")
}
SWITCHES = re.compile(r"(^|_)(enabled?|disabled?|skip|bypass|dry_run|no_check|unsafe|unlimited)(_|$)")


def test_no_float() -> None:
    """Seconds to wait are the one thing that money code hands on as a float: asyncio takes them so."""
    for source in money_modules():
        seconds = _seconds(source.tree)
        for node in (node for node in ast.walk(source.tree) if node not in seconds):
            assert not (isinstance(node, ast.Name) and node.id == "float"), source.at(node)
            assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), source.at(node)


def _seconds(tree: ast.Module) -> set[ast.AST | None]:
    """Give the annotations and values of what is named in seconds, and of deadlines of the event loop."""
    name = re.compile(r"(^|_)(seconds(_min|_max)?|deadline)$", re.IGNORECASE)
    found: set[ast.AST | None] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and name.search(node.arg):
            found.add(node.annotation)
        if isinstance(node, ast.AnnAssign) and name.search(ast.unparse(node.target)):
            found |= {node.annotation, node.value}
        if isinstance(node, ast.Assign) and all(name.search(ast.unparse(target)) for target in node.targets):
            found.add(node.value)
    return found


def test_no_true_division() -> None:
    for source in money_modules():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.BinOp | ast.AugAssign):
                assert not isinstance(node.op, ast.Div), source.at(node)
            assert called_name(node) != "truediv", source.at(node)


def test_rounding_is_in_money_only() -> None:
    for source in money_modules():
        for node in ast.walk(source.tree):
            assert called_name(node) not in {"round", "ceil", "quantize", "trunc"}, source.at(node)


def test_no_word_that_means_the_same_as_one_of_ours() -> None:
    for source in money_modules():
        for name, node in names_defined(source.tree):
            words = set(re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower().split("_"))
            assert not words & FORBIDDEN_WORDS, f"{source.at(node)}: {name}"


def test_enforcement_has_no_switch() -> None:
    for source in modules():
        if source.is_money or source.path in {"proxy.py", "settings.py"} or source.path.startswith("upstream/"):
            for name, node in names_defined(source.tree):
                assert not SWITCHES.search(name), f"{source.at(node)}: {name}"


def test_money_code_asks_no_clock() -> None:
    """Dates of a price list are read; what time it is now comes in as an argument."""
    for source in money_modules():
        for node in ast.walk(source.tree):
            assert called_name(node) not in {"now", "utcnow", "today", "time_ns", "monotonic"}, source.at(node)


def test_one_function_turns_picodollars_into_money() -> None:
    """`cost` in money.py rounds up; a second place that divides by a thousand would be a second rounding."""
    places = [
        source.path
        for source in money_modules()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.BinOp | ast.AugAssign)
        and isinstance(node.op, ast.FloorDiv)
        and (_is_thousand(node.right if isinstance(node, ast.BinOp) else node.value))
    ]
    # account.py states the same formula for a hold as a function of the output bound; a test keeps the two equal.
    assert sorted(places) == ["ledger/account.py", "money.py"]


def _is_thousand(node: ast.AST) -> bool:
    return ast.unparse(node) in {"1000", "PICODOLLARS_PER_NANODOLLAR"}


def test_the_calendar_asks_no_clock() -> None:
    """Of `datetime` it may use the arithmetic; what time it is comes from the store."""
    for source in money_modules():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute):
                asks = {"now", "utcnow", "today", "localtime", "gmtime", "time_ns", "monotonic"}
                assert node.attr not in asks or ast.unparse(node).startswith(("self.", "clock.")), source.at(node)
