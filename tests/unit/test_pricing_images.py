"""What an image costs at most, by the rule of its provider."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing_samples import a_card

from bursar.call import Image
from bursar.pricing.images import image_bound, image_tokens
from bursar.pricing.rates import Card, ImageBound, ImageRule

CONTEXT = 1_000_000


def card_for(provider: str, model: str) -> Card:
    tokens_max, bound = image_bound(provider, model, CONTEXT)
    return a_card(context_tokens=CONTEXT, image_tokens_max=tokens_max, image=bound)


@pytest.mark.parametrize(
    ("provider", "model", "tokens_max"),
    [
        ("openai", "gpt-4o", 1_445),
        ("openai", "gpt-4o-2024-08-06", 1_445),
        ("openai", "gpt-4o-mini", 48_169),
        ("openai", "gpt-4o-mini-2024-07-18", 48_169),
        ("openai", "gpt-4.1", 1_445),
        ("openai", "gpt-4.1-mini", 3_779),
        ("openai", "gpt-5", 1_190),
        ("openai", "gpt-5-2025-08-07", 1_190),
        ("openai", "gpt-5-mini", 3_779),
        ("openai", "gpt-5-nano-2025-08-07", 3_779),
        ("openai", "gpt-5.1", 73_800),
        ("openai", "gpt-5.4", 10_000),
        ("openai", "gpt-5.4-mini", 73_800),
        ("openai", "gpt-5.5-2026-04-23", 10_000),
        ("openai", "gpt-5.6", 30_000),
        ("openai", "gpt-5.6-sol", 30_000),
        ("openai", "gpt-6.1-sol", 30_000),
        ("openai", "gpt-6-astra", 30_000),
        ("openai", "gpt-6-luna", 73_800),
        ("openai", "o1", 1_275),
        ("openai", "o3-2025-04-16", 1_275),
        ("openai", "o3-mini", 73_800),
        ("openai", "o4-mini", 3_779),
        ("openai", "gpt-7", 73_800),
        ("anthropic", "claude-opus-5", 5_000),
        ("google", "gemini-2.5-pro", CONTEXT),
        ("groq", "llama", CONTEXT),
    ],
)
def test_an_image_of_unknown_size_costs_the_most_that_one_can(provider: str, model: str, tokens_max: int) -> None:
    card = card_for(provider, model)
    assert card.image_tokens_max == tokens_max
    assert image_tokens(Image(None, None), card) == tokens_max
    assert image_tokens(Image(800, None), card) == tokens_max
    assert image_tokens(Image(None, 600), card) == tokens_max


@pytest.mark.parametrize(
    ("provider", "model", "width", "height", "tokens"),
    [
        ("openai", "gpt-5.4", 1024, 1024, 1_024),
        ("openai", "gpt-5.4", 1025, 1, 33),
        ("openai", "gpt-5.4", 20_000, 20_000, 10_000),
        ("openai", "gpt-5-mini", 64, 32, 5),
        ("openai", "gpt-5.1", 64, 32, 1_445),
        ("openai", "gpt-5.1", 3_200, 3_200, 24_600),
        ("openai", "gpt-4o", 16, 16, 1_445),
        ("anthropic", "claude-opus-5", 750, 1_000, 1_016),
        ("anthropic", "claude-opus-5", 1, 2_800, 116),
        ("anthropic", "claude-opus-5", 2_800, 1, 116),
        ("anthropic", "claude-opus-5", 8_000, 8_000, 5_000),
        ("google", "gemini-2.5-pro", 384, 384, 2_240),
        ("google", "gemini-2.5-pro", 7_680, 7_680, 25_800),
        ("google", "gemini-2.5-pro", 300, 10_240, 258 * 2 * 40),
        ("google", "gemini-2.5-pro", 600, 10_400, 258 * 2 * 26),
        ("google", "gemini-2.5-pro", 4_000, 10_752, 258 * 6 * 14),
        ("google", "gemini-2.5-pro", 100, 25_600, 258 * 100),
        ("google", "gemini-2.5-pro", 4_608, 7_681, 258 * 6 * 11),
        ("google", "gemini-2.5-pro", 10**6, 10**6, CONTEXT),
        ("groq", "llama", 16, 16, CONTEXT),
    ],
)
def test_an_image_of_known_size_costs_what_its_provider_counts(
    provider: str, model: str, width: int, height: int, tokens: int
) -> None:
    assert image_tokens(Image(width, height), card_for(provider, model)) == tokens


def test_low_detail_is_cheaper_only_where_the_provider_says_so() -> None:
    assert image_tokens(Image(None, None, low_detail=True), card_for("openai", "gpt-4o")) == 85
    assert image_tokens(Image(4_000, 4_000, low_detail=True), card_for("openai", "gpt-4o-mini")) == 2_833
    assert image_tokens(Image(1024, 1024, low_detail=True), card_for("openai", "gpt-5.4")) == 1_024


def test_no_image_costs_more_than_the_context_window() -> None:
    assert image_bound("anthropic", "claude-opus-5", 100) == (100, ImageBound(ImageRule.CLAUDE))


@given(st.sampled_from(["gpt-4o", "gpt-5.1", "gpt-5.4", "gpt-5-mini", "gpt-6-luna"]), st.integers(1, 20_000))
def test_a_larger_image_never_costs_less_and_never_more_than_the_most(model: str, side: int) -> None:
    card = card_for("openai", model)
    tokens = image_tokens(Image(side, side), card)
    assert 0 < tokens <= image_tokens(Image(side + 1, side), card) <= card.image_tokens_max
