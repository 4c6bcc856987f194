"""Models under other names and from other sellers: never cheaper than their maker's price, never a guess."""

from __future__ import annotations

import pytest
from pricing_samples import NOW

from bursar.clock import SECOND, Instant
from bursar.edge.wiring import price_book
from bursar.money import Rate
from bursar.pricing.book import Book, Terms, regional_percent
from bursar.pricing.own import OwnModel
from bursar.pricing.rates import Card, Family, Unpriced, rates_at
from bursar.settings import parse

HOUR = 3600 * SECOND


def a_book(prices: str, percent: int = 100, **terms: object) -> Book:
    own = {"mine": OwnModel("1", "2", 8_000, 1_000)}
    return Book(own, {"up": prices}, {"up": percent}, terms={"up": Terms(**terms)})  # type: ignore[arg-type]


def priced(book: Book, model: str, now: Instant = NOW) -> Card:
    card = book.card("up", model, now)
    assert isinstance(card, Card), card.message
    return card


def refused(book: Book, model: str) -> str:
    card = book.card("up", model, NOW)
    assert isinstance(card, Unpriced), card
    return card.message


def rates(card: Card) -> tuple[int, int]:
    found = rates_at(card.tiers["default"], 1)
    return found.input.picodollars, found.output.picodollars


# ---- deployments ------------------------------------------------------------------------------------------------


def test_a_deployment_has_the_price_of_its_model_and_keeps_its_name() -> None:
    book = a_book("openai", deployments={"prod-chat": "gpt-4.1-mini"})
    assert rates(priced(book, "prod-chat")) == rates(priced(book, "gpt-4.1-mini")) == (400_000, 1_600_000)
    assert priced(book, "prod-chat").model == "prod-chat"


def test_a_deployment_may_be_of_a_model_that_the_operator_prices() -> None:
    card = priced(a_book("openai", deployments={"prod": "mine"}), "prod")
    assert (card.model, rates(card)) == ("prod", (1_000_000, 2_000_000))


def test_a_deployment_of_an_unknown_model_is_refused() -> None:
    assert "gpt-99" in refused(a_book("openai", deployments={"prod": "gpt-99"}), "prod")


def test_where_names_say_nothing_only_those_that_are_explained_are_priced() -> None:
    book = a_book("openai", deployments={"prod": "gpt-4.1-mini"}, only_deployments=True)
    assert priced(book, "prod").model == "prod"
    assert priced(book, "mine").model == "mine"
    message = refused(book, 'gpt-4.1-mini"\n')
    assert 'deployments = { "gpt-4.1-mini\\"?" = "the model" } in [upstreams.up]' in message
    assert [card.model for card in book.models("up", NOW)] == ["mine", "prod"]


def test_deployments_are_listed_beside_the_models() -> None:
    names = {card.model for card in a_book("openai", deployments={"prod": "gpt-4.1-mini"}).models("up", NOW)}
    assert {"prod", "mine", "gpt-4.1-mini"} <= names


# ---- sellers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "percent"),
    [
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", 110),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", 110),
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", 100),
        ("us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0", 120),
        ("eu.anthropic.claude-sonnet-4-5", 110),
    ],
)
def test_claude_on_bedrock_costs_what_its_maker_asks_and_the_zone_on_top(name: str, percent: int) -> None:
    card = priced(a_book("bedrock"), name)
    assert rates(card) == (30_000 * percent, 150_000 * percent)
    assert (card.model, card.family) == (name, Family.CLAUDE)


@pytest.mark.parametrize("zone", ["", "us-gov.", "global."])
def test_in_a_region_of_the_government_every_name_costs_a_fifth_more(zone: str) -> None:
    settings = parse({"upstreams": {"bedrock": {"region": "us-gov-west-1"}}}, "test")
    card = price_book(settings).card("bedrock", f"{zone}anthropic.claude-sonnet-4-5-20250929-v1:0", NOW)
    assert isinstance(card, Card)
    assert rates(card) == (3_600_000, 18_000_000)


def test_a_name_that_says_its_maker_costs_what_the_seller_asks_on_top_too() -> None:
    book = a_book("bedrock", deployments={"prod": "anthropic:claude-sonnet-4-5"})
    for name in ("prod", "anthropic:claude-sonnet-4-5"):
        card = priced(book, name)
        assert (card.model, rates(card)) == (name, (3_300_000, 16_500_000))


@pytest.mark.parametrize("name", ["amazon.nova-pro-v1:0", "claude-sonnet-4-5", "x.y.anthropic.claude-opus-5"])
def test_other_names_of_bedrock_are_refused(name: str) -> None:
    assert "names the models" in refused(a_book("bedrock"), name)


def test_a_model_on_bedrock_that_its_maker_does_not_list_is_refused() -> None:
    assert "not in the price list of anthropic" in refused(a_book("bedrock"), "anthropic.claude-mythos-preview")


def test_a_gateway_before_several_makers_sells_the_model_of_the_first_that_lists_it() -> None:
    book = a_book("any", percent=120)
    assert rates(priced(book, "gpt-4.1-mini")) == (480_000, 1_920_000)
    assert priced(book, "claude-sonnet-4-5").family is Family.CLAUDE
    assert priced(book, "anthropic:claude-sonnet-4-5").provider == "anthropic"
    assert priced(book, "grok-4.7").provider == "x-ai"
    assert list(book.models("up", NOW)) == [priced(book, "mine")]


def test_the_doubt_of_the_list_that_has_the_model_is_told() -> None:
    assert "its output maximum is not known" in refused(a_book("any"), "claude-fable-5-2")
    assert "not in the price list of openai" in refused(a_book("any"), "nobody-sells-this")
    assert "not in the price list of openai" in refused(a_book("any"), "openai:claude-sonnet-4-5")
    assert "no word on" in refused(a_book("openai"), "ft:gpt-4-0613")


# ---- a router -----------------------------------------------------------------------------------------------------


def test_a_router_bounds_by_the_price_that_goes_along_and_the_window() -> None:
    card = priced(a_book("openrouter"), "openai/gpt-4.1-mini")
    assert rates(card) == (400_000, 1_600_000)
    assert card.context_tokens == card.output_tokens_max == 1_047_576
    assert card.family is Family.BYTE_LEVEL


@pytest.mark.parametrize(
    ("name", "family", "added"),
    [
        ("anthropic/claude-sonnet-4.5", Family.CLAUDE, 0),
        ("x-ai/grok-4.7", Family.BYTE_LEVEL, 2_048),
        ("aion-labs/aion-2.0", Family.UNKNOWN, 0),
    ],
)
def test_the_tokens_of_a_routed_model_are_counted_as_its_maker_does(name: str, family: Family, added: int) -> None:
    card = priced(a_book("openrouter"), name)
    assert (card.family, card.added_tokens) == (family, added)


@pytest.mark.parametrize(
    "name", ["01-ai/yi-large", "openai/gpt-4o:batch", "openai/gpt-4o-search-preview", "openai/gpt-5:online"]
)
def test_a_routed_model_without_a_window_or_with_more_to_bill_is_refused(name: str) -> None:
    refused(a_book("openrouter"), name)


def test_a_free_routed_model_has_to_be_said_to_be_free() -> None:
    assert "cannot be priced" in refused(a_book("openrouter"), "agentica-org/deepcoder-14b-preview:free")


# ---- audio ----------------------------------------------------------------------------------------------------------


def test_audio_costs_what_the_list_asks_for_it() -> None:
    found = rates_at(priced(a_book("google"), "gemini-2.5-flash").tiers["default"], 1)
    assert (found.input, found.audio_extra) == (Rate(300_000), Rate(700_000))
    assert (found.cache_read, found.audio_cache_read_extra) == (Rate(30_000), Rate(70_000))


# ---- xAI ------------------------------------------------------------------------------------------------------------


def test_what_xai_puts_in_front_is_part_of_the_bound() -> None:
    card = priced(a_book("x-ai"), "grok-4.7")
    assert (card.added_tokens, rates(card)) == (2_048, (2_000_000, 6_000_000))
    assert rates_at(card.tiers["default"], 200_000).output == Rate(12_000_000)


# ---- time and place -----------------------------------------------------------------------------------------------


MIDNIGHT = Instant(NOW - NOW % (24 * HOUR))


@pytest.mark.parametrize(
    ("at", "horizon", "output"),
    [
        (0, HOUR // 2, 1_980_000),
        (0, HOUR, 3_960_000),
        (HOUR - 1, 1, 3_960_000),
        (4 * HOUR - 1, HOUR, 3_960_000),
        (4 * HOUR, HOUR, 1_980_000),
        (4 * HOUR, 2 * HOUR, 3_960_000),
    ],
)
def test_the_dearest_hour_that_a_call_can_reach_is_quoted(at: int, horizon: int, output: int) -> None:
    """DeepSeek is dearer from one to four and from six to ten o'clock UTC."""
    card = priced(a_book("deepseek", horizon=horizon), "deepseek-v4-pro", Instant(MIDNIGHT + at))
    assert rates(card)[1] == output
    assert card.valid_until <= MIDNIGHT + 24 * HOUR


@pytest.mark.parametrize(
    ("base_url", "percent"),
    [
        ("https://eu.api.openai.com", 110),
        ("https://api.openai.com", 100),
        ("https://x.openai.azure.us:443/", 138),
        ("https://x.openai.azure.com", 100),
    ],
)
def test_where_an_endpoint_is_decides_what_it_asks(base_url: str, percent: int) -> None:
    assert regional_percent(base_url) == percent
