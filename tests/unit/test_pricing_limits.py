"""The vendored table, and which names may stand for which models."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.money import Rate
from bursar.pricing.limits import Limit, Limits, load_limits, undated

TODAY = "2026-11-23"
ROW = Limit(1_000, 100, Rate(1), Rate(2), 100)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("claude-opus-4@20250514", "claude-opus-4"),
        ("gpt-5-2025-08-07", "gpt-5"),
        ("gpt-5-2026-11-23", "gpt-5"),
        ("gpt-5-2026-11-24", None),
        ("gpt-5-20991231", None),
        ("gpt-5-2025-13-07", None),
        ("gpt-5-2025-12-32", None),
        ("gpt-5-2025-00-01", None),
        ("gpt-5", None),
        ("gpt-5-pro", None),
        ("20250101", None),
        ("gpt-5-2025-08-07-mini", None),
        ("gpt-5-\N{ARABIC-INDIC DIGIT TWO}0250807", None),
        ("", None),
    ],
)
def test_a_name_is_dated_only_by_a_day_that_our_data_can_know(name: str, base: str | None) -> None:
    assert undated(name, TODAY) == base


@given(st.text(max_size=40))
def test_no_text_is_too_strange_to_ask_about(text: str) -> None:
    base = undated(text, TODAY)
    assert base is None or (text.startswith(base) and len(text) >= len(base) + 9)


def test_a_row_is_found_by_its_own_name_first_and_then_without_its_date() -> None:
    dated = ROW._replace(context_tokens=7)
    limits = Limits("a test", TODAY, {"openai": {"gpt-5": ROW, "gpt-5-2025-08-07": dated}}, re.compile("x"))
    assert limits.find("openai", "gpt-5") == ROW
    assert limits.find("openai", "gpt-5-2025-08-07") == dated
    assert limits.find("openai", "gpt-5-2025-08-08") == ROW
    assert limits.find("openai", "gpt-5-2026-12-01") is None
    assert limits.find("openai", "gpt-5-mini") is None
    assert limits.find("nobody", "gpt-5") is None


def test_the_table_says_where_it_is_from_and_every_row_makes_sense() -> None:
    limits = load_limits()
    assert limits.source.startswith("LiteLLM ")
    assert limits.source.endswith(limits.made_on)
    assert limits.unbounded_names.search("gpt-4o-search-preview")
    assert set(limits.models) >= {"openai", "anthropic", "google"}
    for provider, rows in limits.models.items():
        for name, row in rows.items():
            assert name == name.lower(), (provider, name)
            assert 0 < row.context_tokens <= 10_000_000, (provider, name)
            assert 0 <= row.output_tokens_max <= row.context_tokens, (provider, name)
            assert 100 <= row.us_percent <= 110, (provider, name)
