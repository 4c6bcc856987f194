"""A second price list is read in the two forms that are about, and every difference from the book is told."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from test_pricing_newer import MODEL, NOW
from test_pricing_update import ROW, book

from bursar.money import Rate
from bursar.pricing.book import Book
from bursar.pricing.own import OwnModel
from bursar.pricing.second import Comparison, Difference, Explained, Point, compare, load_explained, read_list

UPSTREAMS = {"openai": "openai"}
INPUT, OUTPUT = Point("default", 0, "input"), Point("default", 0, "output")


def litellm(**fields: Any) -> dict[str, Any]:
    return {"gpt-7": {"litellm_provider": "openai", "mode": "chat", **fields}}


def models_dev(**cost: Any) -> dict[str, Any]:
    return {"openai": {"id": "openai", "models": {"GPT-7": {"id": "GPT-7", "cost": cost}}}}


def differences(table: dict[str, Any], *explained: Explained, model: dict[str, Any] = MODEL) -> tuple[Difference, ...]:
    return compare(book(model), read_list(table), UPSTREAMS, explained, NOW).differences


def test_litellms_table_is_read_with_its_tiers_cliffs_and_cache_ages() -> None:
    fields = {
        "input_cost_per_token": Decimal("1.25e-6"),
        "output_cost_per_token": Decimal("1e-5"),
        "cache_read_input_token_cost": Decimal("1.25e-7"),
        "cache_creation_input_token_cost": Decimal("2e-6"),
        "cache_creation_input_token_cost_above_1hr": Decimal("3e-6"),
        "cache_creation_input_token_cost_above_200k_tokens": Decimal("4e-6"),
        "input_cost_per_token_above_272k_tokens_priority": Decimal("5e-6"),
        "output_cost_per_token_flex": 0.000005,
        "output_cost_per_token_batches": Decimal("6e-6"),
        "input_cost_per_audio_token": Decimal("7e-6"),
        "input_cost_per_token_priority": 0,
        "max_input_tokens": 272_000,
    }
    assert read_list(litellm(**fields))["openai"]["gpt-7"] == {
        INPUT: Rate(1_250_000),
        OUTPUT: Rate(10_000_000),
        Point("default", 0, "cache_read"): Rate(125_000),
        Point("default", 0, "cache_write_5m"): Rate(2_000_000),
        Point("default", 0, "cache_write_1h"): Rate(3_000_000),
        Point("default", 200_000, "cache_write_5m"): Rate(4_000_000),
        Point("priority", 272_000, "input"): Rate(5_000_000),
        Point("flex", 0, "output"): Rate(5_000_000),
    }


def test_a_prefix_is_taken_off_and_other_providers_are_left_out() -> None:
    entry = {"litellm_provider": "gemini", "input_cost_per_token": Decimal("1e-6")}
    found = read_list({"gemini/Gem": entry, "gem": entry | {"input_cost_per_token": 9}, "x": {"litellm_provider": "x"}})
    assert found == {"google": {"gem": {INPUT: Rate(1_000_000)}}}


def test_models_devs_table_is_per_million() -> None:
    cost = {"input": Decimal("1.25"), "output": 10, "cache_read": 0.125, "cache_write": "2.5", "reasoning": 7}
    table = {
        **models_dev(**cost),
        "nobody": {"models": {}},
        "groq": {"models": {"free": {}, "zero": {"cost": {"input": 0}}}},
    }
    assert read_list(table) == {
        "openai": {
            "gpt-7": {
                INPUT: Rate(1_250_000),
                OUTPUT: Rate(10_000_000),
                Point("default", 0, "cache_read"): Rate(125_000),
                Point("default", 0, "cache_write_5m"): Rate(2_500_000),
            }
        },
        "groq": {"free": {}, "zero": {}},
    }


@pytest.mark.parametrize("table", [[], {}, {"a": 1}, {"a": {"b": 1}}, 3, None])
def test_another_text_is_no_price_list(table: object) -> None:
    with pytest.raises(ValueError, match=r"neither LiteLLM's table of models nor that of models\.dev"):
        read_list(table)


def test_a_price_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="'much' is not a price"):
        read_list(litellm(input_cost_per_token="much"))


def test_equal_rates_are_no_difference() -> None:
    same = {"input_cost_per_token": Decimal("1e-7"), "output_cost_per_token": Decimal("2e-6")}
    assert compare(book(MODEL), read_list(litellm(**same)), UPSTREAMS, (), NOW) == Comparison(1, 0, ())
    assert differences(models_dev(input=Decimal("0.1"), output=2)) == ()


def test_the_book_is_cheaper_or_dearer_or_refuses() -> None:
    found = differences(
        litellm(
            input_cost_per_token=Decimal("2e-7"),
            output_cost_per_token=Decimal("1e-6"),
            output_cost_per_token_flex=Decimal("1e-6"),
            input_cost_per_token_above_200k_tokens=Decimal("3e-7"),
        )
    )
    assert found == (
        Difference("openai", "gpt-7", "default: input", "0.10", "0.20", "cheaper"),
        Difference("openai", "gpt-7", "default: output", "2.00", "1.00", "dearer"),
        Difference("openai", "gpt-7", "default above 200000 input tokens: input", "0.10", "0.30", "cheaper"),
        Difference("openai", "gpt-7", "flex: output", "-", "1.00", "refused"),
    )


def test_a_model_that_only_the_book_has_and_one_that_is_refused_are_not_compared() -> None:
    other = {"id": "gpt-8", "match": {"equals": "gpt-8"}, "prices": {}}
    both = book(MODEL, other, gpt_7=ROW, gpt_8=ROW)
    table = {**litellm(), "gpt-8": {"litellm_provider": "openai", "input_cost_per_token": 1}}
    assert compare(both, read_list(table), UPSTREAMS, (), NOW) == Comparison(1, 0, ())
    assert compare(both, {"openai": {"gpt-9": {}}}, UPSTREAMS, (), NOW) == Comparison(0, 1, ())
    assert compare(both, {}, UPSTREAMS, (), NOW) == Comparison(0, 0, ())


def test_a_price_of_the_operator_is_not_compared() -> None:
    own = Book({"gpt-7": OwnModel("1", "1", 10, 10)}, {"nobody": "nobody"})
    assert compare(own, read_list(litellm()), {"nobody": "nobody"}, (), NOW) == Comparison(0, 0, ())


def explanation(**changes: Any) -> Explained:
    base = Explained("openai", re.compile("gpt-.*"), re.compile("default: input"), "cheaper", "0.20", "because")
    return base._replace(**changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "because"),
        ({"second": ""}, "because"),
        ({"second": "0.30"}, ""),
        ({"provider": "google"}, ""),
        ({"model": re.compile("gpt")}, ""),
        ({"what": re.compile("default")}, ""),
        ({"book_is": "dearer"}, ""),
    ],
)
def test_a_difference_is_explained_by_what_says_exactly_that(changes: dict[str, Any], why: str) -> None:
    (found,) = differences(litellm(input_cost_per_token=Decimal("2e-7")), explanation(**changes))
    assert found.why == why


def test_what_is_explained_for_good_never_makes_the_book_cheaper() -> None:
    """A cheaper rate is right for one figure of the other list, and has to be looked into again when that moves."""
    explained = load_explained()
    assert explained
    for one in explained:
        assert one.why
        assert one.second or one.book_is in {"dearer", "refused"}, one
