"""Cards from price lists that are incomplete, conditional or odd in every way that genai-prices can be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import types as listed
from hypothesis import given
from hypothesis import strategies as st
from pricing_samples import NOW, a_rate_of_each

from bursar.clock import SECOND, Instant
from bursar.money import Rate
from bursar.pricing.book import HORIZON
from bursar.pricing.limits import Limit
from bursar.pricing.listed import DoubtError, card_of
from bursar.pricing.rates import FOREVER, Card, Family, ImageBound, ImageRule, Rates, rates_at

LIMIT = Limit(1_000_000, 100_000, Rate(2_000_000), Rate(8_000_000), 100)
PRICES = {"input_mtok": Decimal(2), "output_mtok": Decimal(8)}
DAY = 24 * 3600 * SECOND
MIDNIGHT = Instant(NOW - NOW % DAY)


def a_model(
    *prices: tuple[Any, dict[str, Any]], variants: list[listed.PriceVariant] | None = None, context: int | None = None
) -> listed.ModelInfo:
    conditional = [listed.ConditionalPrice(when, prices=listed.ModelPrice(**each)) for when, each in prices]
    return listed.ModelInfo(
        id="gpt-5",
        match=listed.ClauseEquals("gpt-5"),
        context_window=context,
        prices=conditional or listed.ModelPrice(**PRICES),
        price_variants=variants,
    )


def card(model: listed.ModelInfo, now: Instant = NOW, provider: str = "openai", limit: Limit = LIMIT) -> Card:
    return card_of(model, provider, "gpt-5", now, limit, "a test", HORIZON)


def ordinary(model: listed.ModelInfo, now: Instant = NOW, provider: str = "openai") -> Rates:
    return rates_at(card(model, now, provider).tiers["default"], 1)


def a_variant(when: dict[str, str], prices: dict[str, Any], since: date | None = None) -> listed.PriceVariant:
    constraint = listed.StartDateConstraint(since) if since else None
    return listed.PriceVariant(when=when, prices=listed.ModelPrice(**prices), constraint=constraint)


def cliffs(base: str, *steps: tuple[int, str]) -> listed.TieredPrices:
    return listed.TieredPrices(Decimal(base), [listed.Tier(start, Decimal(price)) for start, price in steps])


# ---- classes without a price of their own -----------------------------------------------------------------------


def test_cached_input_without_a_price_costs_as_much_as_fresh_input() -> None:
    assert ordinary(a_model()) == a_rate_of_each(2_000_000, 8_000_000, 2_000_000, 2_000_000, 2_000_000)


def test_claude_cache_writes_without_a_price_cost_twice_the_input() -> None:
    rates = ordinary(a_model(), provider="anthropic")
    assert rates == a_rate_of_each(2_000_000, 8_000_000, 2_000_000, 4_000_000, 4_000_000)


def test_each_class_has_its_own_price_when_the_list_names_it() -> None:
    prices = PRICES | {
        "cache_read_mtok": Decimal("0.2"),
        "cache_write_mtok": Decimal("2.5"),
        "cache_write_1h_mtok": Decimal("3.9"),
    }
    rates = a_rate_of_each(2_000_000, 8_000_000, 200_000, 2_500_000, 3_900_000)
    assert ordinary(a_model((None, prices)), provider="anthropic") == rates


def test_a_write_for_five_minutes_may_have_a_price_of_its_own() -> None:
    prices = PRICES | {"cache_write_mtok": Decimal(2), "cache_write_5m_mtok": Decimal(3)}
    assert ordinary(a_model((None, prices))).cache_write_5m == Rate(3_000_000)


def test_a_long_lived_cache_write_costs_two_and_a_half_times_the_input_where_it_is_not_listed() -> None:
    prices = PRICES | {"cache_write_mtok": Decimal("2.5")}
    assert ordinary(a_model((None, prices))).cache_write_1h == Rate(5_000_000)


def test_a_long_lived_cache_write_is_never_cheaper_than_a_short_one() -> None:
    prices = PRICES | {"cache_write_mtok": Decimal(6), "cache_write_1h_mtok": Decimal(1)}
    assert ordinary(a_model((None, prices))).cache_write_1h == Rate(6_000_000)


def test_a_claude_write_for_an_hour_costs_twice_the_input_where_it_is_not_listed() -> None:
    prices = PRICES | {"cache_write_mtok": Decimal("2.5")}
    assert ordinary(a_model((None, prices)), provider="anthropic").cache_write_1h == Rate(4_000_000)


def test_a_free_class_is_free_when_the_list_says_zero() -> None:
    prices = PRICES | {"cache_read_mtok": Decimal(0), "cache_write_mtok": Decimal(0)}
    rates = ordinary(a_model((None, prices)))
    assert (rates.cache_read, rates.cache_write_5m) == (Rate(0), Rate(0))


# ---- what leaves the price open -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prices", "says"),
    [
        ({"input_mtok": Decimal(2)}, "disagree"),
        (PRICES | {"requests_kcount": Decimal(5)}, "requests_kcount, which bursar cannot bound"),
        (PRICES | {"input_video_mtok": Decimal(5), "output_image_mtok": Decimal(9)}, "input_video_mtok, output_image"),
    ],
)
def test_a_price_in_a_unit_that_nothing_bounds_is_a_doubt(prices: dict[str, Any], says: str) -> None:
    with pytest.raises(DoubtError, match=says):
        card(a_model((None, prices)))


def test_tools_that_the_gateway_refuses_leave_no_doubt() -> None:
    prices = PRICES | {"web_searches_kcount": Decimal(10), "storage_searches_kcount": Decimal(2)}
    assert ordinary(a_model((None, prices))).input == Rate(2_000_000)


def test_no_price_is_a_doubt_and_not_free() -> None:
    nothing = LIMIT._replace(input_rate=Rate(0), output_rate=Rate(0))
    with pytest.raises(DoubtError, match="no price for its tokens"):
        card(a_model((None, {})), limit=nothing)
    with pytest.raises(DoubtError, match="at no price"):
        card(a_model((None, {"input_mtok": Decimal(0), "output_mtok": Decimal(0)})), limit=nothing)


def test_a_missing_output_price_is_a_doubt_unless_the_model_gives_no_output() -> None:
    embedding = LIMIT._replace(output_rate=Rate(0))
    model = a_model((None, {"input_mtok": Decimal(2)}))
    with pytest.raises(DoubtError, match="no price for its tokens"):
        card(model, limit=embedding)
    rates = card(model, limit=embedding._replace(output_tokens_max=0)).tiers["default"][0].rates
    assert (rates.input, rates.output) == (Rate(2_000_000), Rate(0))


def test_two_lists_that_disagree_are_a_doubt() -> None:
    with pytest.raises(DoubtError, match="two public price lists disagree"):
        card(a_model(), limit=LIMIT._replace(output_rate=Rate(8_000_001)))


def test_a_cliff_that_one_list_does_not_have_is_a_doubt() -> None:
    plain = a_model(context=400_000)
    steep = a_model(
        (None, {**PRICES, "input_mtok": listed.TieredPrices(Decimal(2), [listed.Tier(200_000, Decimal(4))])})
    )
    with pytest.raises(DoubtError, match="what long inputs cost"):
        card(plain, limit=LIMIT._replace(cliff_tokens=272_000))
    assert card(plain, limit=LIMIT._replace(context_tokens=272_000, cliff_tokens=400_000)).context_tokens == 400_000
    assert len(card(steep, limit=LIMIT._replace(cliff_tokens=272_000)).tiers["default"]) == 2
    assert len(card(steep, limit=LIMIT._replace(cliff_tokens=200_000)).tiers["default"]) == 2
    with pytest.raises(DoubtError, match="what long inputs cost"):
        card(steep, limit=LIMIT._replace(cliff_tokens=128_000))


def test_hours_that_one_list_does_not_have_are_a_doubt() -> None:
    night = listed.TimeOfDateConstraint(time(0, tzinfo=UTC), time(6, tzinfo=UTC))
    model = a_model((None, PRICES), (night, {"input_mtok": Decimal(1), "output_mtok": Decimal(4)}))
    assert "default" in card(model).tiers
    with pytest.raises(DoubtError, match="cheaper at some hours"):
        card(model, limit=LIMIT._replace(one_price_a_day=True))
    assert "default" in card(a_model(), limit=LIMIT._replace(one_price_a_day=True)).tiers


def test_the_second_list_may_name_the_price_of_any_time() -> None:
    later = {"input_mtok": Decimal(4), "output_mtok": Decimal(16)}
    model = a_model((None, PRICES), (listed.StartDateConstraint(date(2027, 1, 1)), later))
    assert (
        card(model).tiers
        == card(model, limit=LIMIT._replace(input_rate=Rate(4_000_000), output_rate=Rate(16_000_000))).tiers
    )


def test_a_condition_of_an_unknown_kind_is_a_doubt() -> None:
    @dataclass
    class MoonPhase:
        full: bool

        def active(self, request_timestamp: datetime) -> bool:
            return self.full

    with pytest.raises(DoubtError, match="MoonPhase"):
        card(a_model((None, PRICES), (MoonPhase(True), PRICES)))


# ---- cliffs -------------------------------------------------------------------------------------------------------


def test_a_cliff_of_any_class_makes_a_step() -> None:
    prices = {"input_mtok": cliffs("2", (200, "4")), "output_mtok": cliffs("8", (100, "9"), (200, "10"))}
    steps = card(a_model((None, prices))).tiers["default"]
    assert [(step.above_input_tokens, step.rates.input, step.rates.output) for step in steps] == [
        (0, Rate(2_000_000), Rate(8_000_000)),
        (100, Rate(2_000_000), Rate(9_000_000)),
        (200, Rate(4_000_000), Rate(10_000_000)),
    ]


def test_a_window_that_ends_before_a_cliff_is_not_the_whole_window() -> None:
    prices = {"input_mtok": cliffs("2", (200_000, "4")), "output_mtok": Decimal(8)}
    limit = LIMIT._replace(context_tokens=200_000)
    made = card(a_model((None, prices), context=200_000), limit=limit)
    assert (made.context_tokens, made.context_tokens_unasked) == (1_000_000, 1_000_000)


def test_the_wider_of_two_windows_counts() -> None:
    assert card(a_model(context=3_000_000)).context_tokens == 3_000_000
    assert card(a_model(context=3)).context_tokens == 1_000_000
    assert card(a_model()).context_tokens == 1_000_000


# ---- tiers --------------------------------------------------------------------------------------------------------


def test_only_tiers_with_prices_of_their_own_are_priced() -> None:
    double = {key: price * 2 for key, price in PRICES.items()}
    model = a_model(
        variants=[
            a_variant({"service_tier": "default"}, {}),
            a_variant({"service_tier": "priority"}, double),
            a_variant({"service_tier": "partial"}, {"input_mtok": Decimal(4)}),
            a_variant({"service_tier": "later"}, double, since=date(2026, 12, 24)),
            a_variant({"speed": "fast"}, double),
            a_variant({"processing": "batch"}, {"input_mtok": Decimal(1)}),
            a_variant({"service_tier": "flex", "speed": "fast"}, double),
        ]
    )
    assert sorted(card(model).tiers) == ["default", "fast", "priority"]
    assert card(model).tiers["priority"][0].rates.input == Rate(4_000_000)


def test_the_first_active_variant_of_a_tier_names_its_prices() -> None:
    first, second = (
        {"input_mtok": Decimal(5), "output_mtok": Decimal(9)},
        {key: price * 9 for key, price in PRICES.items()},
    )
    model = a_model(
        variants=[
            a_variant({"service_tier": "flex"}, first, since=date(2026, 11, 1)),
            a_variant({"service_tier": "flex"}, second, since=date(2026, 10, 1)),
        ]
    )
    assert card(model).tiers["flex"][0].rates.input == Rate(5_000_000)


def test_a_tier_that_lists_no_cliff_rises_with_the_ordinary_price() -> None:
    prices = {"input_mtok": cliffs("2", (200, "4")), "output_mtok": cliffs("8", (200, "12"))}
    half = {"input_mtok": Decimal(1), "output_mtok": Decimal(4)}
    flex = card(a_model((None, prices), variants=[a_variant({"service_tier": "flex"}, half)])).tiers["flex"]
    assert [(step.above_input_tokens, step.rates.input, step.rates.output) for step in flex] == [
        (0, Rate(1_000_000), Rate(4_000_000)),
        (200, Rate(2_000_000), Rate(6_000_000)),
    ]


def test_a_tier_with_cliffs_of_its_own_keeps_them() -> None:
    own = {"input_mtok": cliffs("1", (500, "7")), "output_mtok": Decimal(4)}
    prices = {"input_mtok": cliffs("2", (200, "4")), "output_mtok": Decimal(8)}
    flex = card(a_model((None, prices), variants=[a_variant({"service_tier": "flex"}, own)])).tiers["flex"]
    assert [(step.above_input_tokens, step.rates.input) for step in flex] == [
        (0, Rate(1_000_000)),
        (500, Rate(7_000_000)),
    ]


def test_inference_in_the_us_has_a_tier_beside_every_tier() -> None:
    model = a_model(variants=[a_variant({"speed": "fast"}, {key: price * 2 for key, price in PRICES.items()})])
    tiers = card(model, provider="anthropic", limit=LIMIT._replace(us_percent=110)).tiers
    assert sorted(tiers) == ["default", "default@us", "fast", "fast@us"]
    assert tiers["default@us"][0].rates.input == Rate(2_200_000)
    assert tiers["fast@us"][0].rates.output == Rate(17_600_000)
    assert tiers["fast"][0].rates.cache_write_5m == Rate(8_000_000)


def test_a_variant_in_a_unit_that_nothing_bounds_is_a_doubt() -> None:
    with pytest.raises(DoubtError, match="output_audio_mtok"):
        card(a_model(variants=[a_variant({"speed": "fast"}, {"output_audio_mtok": Decimal(1)})]))


# ---- time ---------------------------------------------------------------------------------------------------------


LATER = {"input_mtok": Decimal(4), "output_mtok": Decimal(6)}


def test_prices_without_conditions_hold_for_ever() -> None:
    assert card(a_model()).valid_until == FOREVER


def test_before_a_change_of_price_the_dearer_of_both_counts_class_by_class() -> None:
    model = a_model((None, PRICES), (listed.StartDateConstraint(date(2026, 11, 24)), LATER))
    change = Instant(MIDNIGHT + DAY)
    long_before = card(model, Instant(change - HORIZON - 1))
    just_before = card(model, Instant(change - HORIZON))
    after = card(model, change)
    assert long_before.tiers["default"][0].rates[:2] == (Rate(2_000_000), Rate(8_000_000))
    assert just_before.tiers["default"][0].rates[:2] == (Rate(4_000_000), Rate(8_000_000))
    assert after.tiers["default"][0].rates[:2] == (Rate(4_000_000), Rate(6_000_000))
    assert (long_before.valid_until, just_before.valid_until, after.valid_until) == (change - HORIZON, change, FOREVER)


def test_before_every_condition_the_first_price_is_the_price() -> None:
    first, second = (listed.StartDateConstraint(date(2027, month, 1)) for month in (1, 2))
    assert ordinary(a_model((first, PRICES), (second, LATER))).input == Rate(2_000_000)


def test_a_tier_that_begins_within_the_horizon_is_not_priced_yet() -> None:
    model = a_model(variants=[a_variant({"service_tier": "flex"}, PRICES, since=date(2026, 11, 24))])
    assert sorted(card(model, Instant(MIDNIGHT + DAY - 1)).tiers) == ["default"]
    assert sorted(card(model, Instant(MIDNIGHT + DAY)).tiers) == ["default", "flex"]


def at(hour: int, minute: int = 0) -> Instant:
    return Instant(MIDNIGHT + (hour * 60 + minute) * 60 * SECOND)


@pytest.mark.parametrize(
    ("now", "price", "until"),
    [
        (at(0), 2, at(0, 45)),
        (at(0, 45), 4, at(1)),
        (at(1), 4, at(3, 45)),
        (at(3, 59), 4, at(4)),
        (at(4), 2, at(24, 45)),
        (at(23, 59), 2, at(24, 45)),
    ],
)
def test_a_price_by_time_of_day_counts_from_a_quarter_of_an_hour_before(
    now: Instant, price: int, until: Instant
) -> None:
    peak = listed.TimeOfDateConstraint(time(1, tzinfo=UTC), time(4, tzinfo=UTC))
    found = card(a_model((None, PRICES), (peak, LATER)), now)
    assert found.tiers["default"][0].rates.input == Rate(price * 1_000_000)
    assert found.valid_until == until


def test_times_of_day_may_pass_midnight_and_be_told_in_other_zones() -> None:
    east = timezone(timedelta(hours=8))
    night = listed.TimeOfDateConstraint(time(6, tzinfo=east), time(10, tzinfo=east))
    model = a_model((None, PRICES), (night, LATER))
    assert ordinary(model, at(21, 44)).input == Rate(2_000_000)
    assert ordinary(model, at(21, 45)).input == Rate(4_000_000)
    assert ordinary(model, at(25, 59)).input == Rate(4_000_000)
    assert ordinary(model, at(26)).input == Rate(2_000_000)
    odd = listed.TimeOfDateConstraint(time(12, 7, 30, 500), time(13))
    assert card(a_model((None, PRICES), (odd, LATER)), at(11, 30)).valid_until == Instant(
        at(11, 52) + 30 * SECOND + 500
    )
    naive = listed.TimeOfDateConstraint(time(22), time(2))
    assert card(a_model((None, PRICES), (naive, LATER)), at(23)).valid_until == at(25, 45)


times = st.integers(0, 24 * 60 - 1).map(lambda minutes: time(minutes // 60, minutes % 60, tzinfo=UTC))
conditions = st.one_of(
    st.builds(listed.TimeOfDateConstraint, times, times),
    st.builds(listed.StartDateConstraint, st.dates(date(2026, 11, 20), date(2026, 11, 27))),
)
some_prices = st.integers(1, 9).map(lambda price: {"input_mtok": Decimal(price), "output_mtok": Decimal(10 - price)})


@given(
    st.lists(st.tuples(conditions, some_prices), max_size=3),
    st.integers(-2 * DAY, 2 * DAY),
    st.integers(0, DAY),
    st.integers(0, HORIZON),
)
def test_while_a_card_holds_no_price_up_to_the_horizon_is_above_it(
    prices: list[tuple[Any, dict[str, Any]]], offset: int, age: int, duration: int
) -> None:
    model = a_model((None, PRICES), *prices)
    made = Instant(NOW + offset)
    found = card(model, made)
    used = min(made + age, found.valid_until - 1)
    billed = model.get_prices(datetime.fromtimestamp(0, UTC) + timedelta(microseconds=used + duration))
    rates = found.tiers["default"][0].rates
    assert rates.input >= Rate.from_usd_per_million(vars(billed)["input_mtok"])
    assert rates.output >= Rate.from_usd_per_million(vars(billed)["output_mtok"])


def test_images_are_counted_by_the_rule_of_the_provider() -> None:
    assert (card(a_model()).image_tokens_max, card(a_model()).image.rule) == (1_190, ImageRule.TILES)
    assert card(a_model(), provider="anthropic").image == ImageBound(ImageRule.CLAUDE)


def test_the_family_is_the_provider_s() -> None:
    assert card(a_model(), provider="anthropic").family is Family.CLAUDE
    assert card(a_model(), provider="google").family is Family.BYTE_LEVEL


# ---- audio --------------------------------------------------------------------------------------------------------


def test_audio_without_a_price_costs_as_much_as_text() -> None:
    rates = ordinary(a_model((None, PRICES)))
    assert (rates.audio_extra, rates.audio_cache_read_extra) == (Rate(0), Rate(0))


def test_cached_audio_without_a_price_costs_as_much_as_fresh_audio() -> None:
    prices = PRICES | {"input_audio_mtok": Decimal(5), "cache_read_mtok": Decimal("0.2")}
    rates = ordinary(a_model((None, prices)))
    assert (rates.audio_extra, rates.audio_cache_read_extra) == (Rate(3_000_000), Rate(4_800_000))


def test_audio_that_is_cheaper_than_text_is_billed_as_text() -> None:
    prices = PRICES | {"input_audio_mtok": Decimal(1), "cache_audio_read_mtok": Decimal("0.1")}
    rates = ordinary(a_model((None, prices)))
    assert (rates.audio_extra, rates.audio_cache_read_extra) == (Rate(0), Rate(0))


def test_two_lists_that_disagree_on_audio_are_a_doubt() -> None:
    limit = LIMIT._replace(audio_rate=Rate(5_000_000))
    with pytest.raises(DoubtError, match="what audio costs"):
        card(a_model((None, PRICES)), limit=limit)
    assert card(a_model((None, PRICES | {"input_audio_mtok": Decimal(5)})), limit=limit).model == "gpt-5"
