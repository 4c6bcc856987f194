"""Settings of the tools that the provider runs."""

from __future__ import annotations

from typing import Any

import pytest

from bursar.edge.wiring import price_book, wire
from bursar.settings import SettingsError, parse
from bursar.stores import open_store

MODEL = {"input": "1", "output": "2", "context_tokens": 1_000, "output_tokens_max": 10}


def test_none_is_let_through_unless_it_is_said_and_then_only_where_it_is_bounded(tmp_path: Any) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'ledger.db'}")
    asked = {"server_tools": ["web_search", "file_search", "web_fetch"], "server_tool_uses_default": 7}
    other = {"dialect": "openai", "base_url": "https://other.example.com"}
    for policy, found in (
        ({}, [[], [], []]),
        (asked, [["file_search", "web_search"], ["web_fetch", "web_search"], []]),
    ):
        settings = parse({"policy": policy, "upstreams": {"other": other}}, "test")
        quirks = [wire(settings, store, {}).gate.endpoints[name].quirks for name in ("openai", "anthropic", "other")]
        assert [sorted(one.server_tools) for one in quirks] == found
        assert {one.server_tool_uses for one in quirks} == {7 if policy else 3}


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"policy": {"server_tools": ["code_execution"]}}, "policy.server_tools"),
        ({"policy": {"server_tool_uses_default": 0}}, "policy.server_tool_uses_default"),
        ({"models": {"m": MODEL | {"fees": {"code_execution": "0.01"}}}}, "models.m.fees"),
        ({"models": {"m": MODEL | {"fees": {"web_search": "a cent"}}}}, "models.m.fees.web_search"),
    ],
)
def test_what_is_not_known_is_refused(given: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError, match=key):
        parse(given, "test")


def test_a_model_of_one_s_own_has_the_fees_of_its_section() -> None:
    settings = parse({"models": {"m": MODEL | {"fees": {"web_search": "0.01"}}}}, "test")
    card: Any = price_book(settings).card("openai", "m", 0)  # type: ignore[arg-type]
    assert {str(tool): str(fee) for tool, fee in card.fees.items()} == {"web_search": "10000.00"}
