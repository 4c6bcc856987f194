"""The fences around the money path: one mint per type, one way out, nothing forged, nothing optional."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re

import pytest
from source_tree import Module, called_name, calls_of, functions, last_name, module, modules

from bursar.call import Head
from bursar.dialects import free
from bursar.dialects.free import FreeRequest
from bursar.ledger.hold import OpenHold
from bursar.money import BrokenInvariantError
from bursar.pricing.quote import Quote

MINTS = {"Quote": "pricing/quote.py", "OpenHold": "ledger/hold.py", "FreeRequest": "dialects/free.py"}
# Counts of tokens: what the providers' own pages call free of charge. Nothing else may be asked without a hold.
FREE_PATHS = {
    "/v1/messages/count_tokens",
    "/v1/responses/input_tokens",
    "/v1beta/models/{model}:countTokens",
    "/model/{model}/count-tokens",
}

NOT_FREE = (
    "/v1/messages",
    "/v1/responses",
    "/v1/chat/completions",
    "/v1/messages/count_tokens/",
    "/v1/messages/count_tokens?x",
    "/v1//messages/count_tokens",
    "/v1beta/models/{model}:generateContent",
    "/v1beta/models/{model}:counttokens",
    "/v1beta/models/{model}%3AcountTokens",
    "/v1beta/models/{model}:countTokens:generateContent",
    "/v1beta/models/a/../{model}:countTokens",
    "/v1beta/models/{model}.:countTokens",
    "/v1beta/tunedModels/{model}:countTokens",
    "/model/{model}/converse",
    "/model/{model}/invoke",
    "/model/{model}/count-tokens/",
    "/model/../{model}/count-tokens",
    "/v1/model/{model}/count-tokens",
)


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
                private = [alias.name for alias in node.names if re.match(r"_(?!_)", alias.name)]
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


def test_ask_free_takes_a_free_request_and_no_bytes_path_or_hold() -> None:
    tree = module("upstream/client.py").tree
    (ask,) = (function for function in functions(tree) if function.name == "ask_free")
    arguments = {argument.arg: ast.unparse(argument.annotation or ast.Constant(None)) for argument in ask.args.args[1:]}
    assert arguments == {"free": "FreeRequest", "seconds_max": "float"}
    assert [ask.args.posonlyargs, ask.args.kwonlyargs, ask.args.vararg, ask.args.kwarg] == [[], [], None, None]


def test_what_is_free_is_a_closed_table_of_counts() -> None:
    """A new path here is a decision about money: the provider's page has to say that it is free."""
    tree = module("dialects/free.py").tree
    paths = {
        keyword.value.value
        for call in calls_of(tree, "_Way")
        for keyword in call.keywords
        if keyword.arg == "path" and isinstance(keyword.value, ast.Constant)
    }
    assert paths == FREE_PATHS
    assert len(list(calls_of(tree, "_Way"))) == len(FREE_PATHS)
    assert {path for path in (*FREE_PATHS, *NOT_FREE) if free.dialect_of(path.format(model="m"))} == FREE_PATHS


def test_the_target_of_a_free_request_comes_out_of_the_table() -> None:
    """`_mint` gets a head from the matched path or from the table, and from nowhere else."""
    for source in modules():
        for call in calls_of(source.tree, "_mint"):
            assert source.path == "dialects/free.py", source.at(call)
            assert ast.unparse(call.args[-1]) in {"Head(target, request.head.headers)", "_head(way, call)"}


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
    with pytest.raises(BrokenInvariantError):
        FreeRequest("gemini", "gemini", "m", b"{}", Head(), object())


def _is_inside_class(source: Module, call: ast.AST, name: str) -> bool:
    return any(
        isinstance(node, ast.ClassDef) and node.name == name and any(inner is call for inner in ast.walk(node))
        for node in ast.walk(source.tree)
    )
