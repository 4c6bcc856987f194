"""Reading a public list or a provider's report needs no hold; so it must not be a way to buy anything."""

from __future__ import annotations

import ast

from source_tree import calls_of, functions, module, modules

READING = "upstream/reading.py"


def test_only_commands_read() -> None:
    importers = {
        source.path
        for source in modules()
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.ImportFrom) and node.module == "bursar.upstream.reading")
        or (isinstance(node, ast.ImportFrom) and node.module == "bursar.upstream" and "reading" in _names(node))
        or (isinstance(node, ast.Import) and "bursar.upstream.reading" in _names(node))
    }
    assert importers
    assert all(path.startswith("cli/") for path in importers), importers


def test_what_is_read_is_got_with_no_body() -> None:
    tree = module(READING).tree
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert [text for text in texts if text.strip().isupper() and text.strip().isalpha() and len(text) > 2] == ["GET "]
    (reads,) = (function for function in functions(tree) if function.name == "read_url")
    assert [argument.arg for argument in reads.args.args] == ["url", "headers"]
    assert [argument.arg for argument in reads.args.kwonlyargs] == ["bytes_max", "seconds_max"]
    assert len(list(calls_of(tree, "exchange"))) == 1


def _names(node: ast.Import | ast.ImportFrom) -> set[str]:
    return {alias.name for alias in node.names}
