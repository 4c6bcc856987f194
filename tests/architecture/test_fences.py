"""The fences around the money path: one mint per type, one way out, nothing forged, nothing optional."""

from __future__ import annotations

import ast
import dataclasses
import inspect

import pytest
from source_tree import Module, called_name, calls_of, functions, last_name, module, modules

from bursar.ledger.hold import OpenHold
from bursar.money import BrokenInvariantError
from bursar.pricing.quote import Quote

MINTS = {"Quote": "pricing/quote.py", "OpenHold": "ledger/hold.py"}


@pytest.mark.parametrize("minted", MINTS)
def test_the_tree_has_one_constructor_call(minted: str) -> None:
    calls = [
        source.path
        for source in modules()
        for node in ast.walk(source.tree)
        if called_name(node) == minted or (called_name(node) == "cls" and _is_inside_class(source, node, minted))
    ]
    assert calls == [MINTS[minted]]


@pytest.mark.parametrize("minted", MINTS)
def test_a_minted_type_is_never_renamed_subclassed_or_stored_under_another_name(minted: str) -> None:
    for source in modules():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.alias):
                assert not (node.name == minted and node.asname), source.at(node)
            if isinstance(node, ast.ClassDef):
                assert minted not in map(last_name, node.bases), source.at(node)
            if isinstance(node, ast.Assign):
                assert last_name(node.value) != minted, source.at(node)


@pytest.mark.parametrize("minted", MINTS)
def test_nothing_gets_around_the_constructor(minted: str) -> None:
    for source in modules():
        for call in (node for node in ast.walk(source.tree) if isinstance(node, ast.Call)):
            if called_name(call) in {"__new__", "cast", "copy", "deepcopy", "partial", "loads"}:
                mentioned = {last_name(node) for argument in call.args for node in ast.walk(argument)}
                assert minted not in mentioned, source.at(call)


def test_a_quote_is_never_copied_with_other_amounts() -> None:
    for source in modules():
        for call in calls_of(source.tree, "replace"):
            first = last_name(call.args[0]) if call.args else ""
            assert first not in {"quote", "hold", "granted"}, source.at(call)


def test_a_name_with_an_underscore_stays_in_its_module() -> None:
    for source in modules():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bursar"):
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not private, source.at(node)
            if isinstance(node, ast.Attribute):
                assert node.attr != "_SEAL", source.at(node)


def test_send_takes_the_hold_and_nothing_else() -> None:
    tree = module("upstream/client.py").tree
    (upstream,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Upstream")
    (send,) = (function for function in functions(upstream) if function.name == "send")
    assert [argument.arg for argument in send.args.posonlyargs + send.args.args] == ["self", "hold"]
    assert send.args.vararg is None
    assert send.args.kwarg is None
    assert send.args.kwonlyargs == []
    assert send.args.defaults == []
    assert ast.unparse(send.args.args[1].annotation or ast.Constant(None)) == "OpenHold"


def test_the_gateway_dispatches_in_one_place() -> None:
    sends = [
        source.path
        for source in modules()
        if not source.path.startswith("drill/")
        for call in calls_of(source.tree, "send")
        if isinstance(call.func, ast.Attribute) and last_name(call.func.value) == "upstream"
    ]
    assert sends == ["proxy.py"]


def test_a_hold_is_never_optional() -> None:
    for source in modules():
        for function in functions(source.tree):
            arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
            for annotation in [function.returns, *(argument.annotation for argument in arguments)]:
                text = ast.unparse(annotation) if annotation else ""
                assert not ("OpenHold" in text and ("None" in text or "Optional" in text)), source.at(function)


def test_a_seal_that_was_guessed_opens_nothing() -> None:
    """The type checker lets any object pass for a seal; the mints do not."""
    with pytest.raises(BrokenInvariantError):
        Quote(**dict.fromkeys((field.name for field in dataclasses.fields(Quote)), object()))  # type: ignore[arg-type]
    with pytest.raises(BrokenInvariantError):
        OpenHold(*[object()] * (len(inspect.signature(OpenHold).parameters)))  # type: ignore[arg-type, call-arg]


def _is_inside_class(source: Module, call: ast.AST, name: str) -> bool:
    return any(
        isinstance(node, ast.ClassDef) and node.name == name and any(inner is call for inner in ast.walk(node))
        for node in ast.walk(source.tree)
    )
