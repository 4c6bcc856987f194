"""What `[fallback]` takes: known upstreams of one dialect, in the order in which they are asked."""

from __future__ import annotations

from typing import Any

import pytest

from bursar.settings import SettingsError, parse

AZURE = {"azure": {"dialect": "openai", "base_url": "https://azure.example"}}


def read(fallback: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    return parse({"upstreams": AZURE, "fallback": fallback}, "test").fallback


def test_upstreams_are_kept_in_their_order() -> None:
    routes = ["openai", "azure/my-gpt", "openai/gpt-4.1"]
    assert read({"gpt-5": routes}) == {"gpt-5": tuple(routes)}
    assert read({}) == {}


@pytest.mark.parametrize(
    ("routes", "complaint"),
    [
        (["openai", "azur"], r"names the upstream 'azur', which is not set; did you mean azure\?"),
        (["openai", "anthropic/claude-sonnet-5"], "goes from one dialect to another"),
        (["openai", "openai"], "names the same upstream and model twice"),
        (["openai"], "fallback"),
        (["openai"] * 9, "fallback"),
        ("openai", "fallback"),
    ],
)
def test_what_cannot_be_a_fallback_is_refused_at_the_start(routes: object, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        read({"gpt-5": routes})
