"""Ladders of rates: cliffs, and the dearest of what can apply."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing_samples import RATES, a_card, a_rate_of_each

from bursar.pricing.rates import (
    Rates,
    Step,
    dearest_rates,
    dearest_steps,
    rates_at,
    steps_times,
    surcharged,
    tier_name,
)

some_rates = st.builds(a_rate_of_each, *[st.integers(0, 100)] * 5)
ladders = st.builds(
    lambda starts, rates: tuple(Step(start, rates[index]) for index, start in enumerate([0, *sorted(starts)])),
    st.sets(st.integers(1, 20), max_size=3),
    st.lists(some_rates, min_size=4, max_size=4),
)


@pytest.mark.parametrize(("tokens", "step"), [(0, 0), (100, 0), (101, 1), (200, 1), (201, 2), (10**9, 2)])
def test_a_cliff_begins_above_its_threshold(tokens: int, step: int) -> None:
    steps = tuple(Step(start, RATES.times(100 + start)) for start in (0, 100, 200))
    assert rates_at(steps, tokens) == steps[step].rates


def test_the_dearest_rates_are_taken_class_by_class() -> None:
    one, other = a_rate_of_each(1, 9, 1, 9, 1), a_rate_of_each(2, 8, 2, 8, 2)
    assert dearest_rates([one, other]) == a_rate_of_each(2, 9, 2, 9, 2)


@given(st.lists(ladders, min_size=1, max_size=4), st.integers(0, 30))
def test_the_dearest_ladder_is_at_every_length_the_dearest_of_its_ladders(
    many: list[tuple[Step, ...]], tokens: int
) -> None:
    assert rates_at(dearest_steps(many), tokens) == dearest_rates(rates_at(steps, tokens) for steps in many)


@given(ladders, ladders, ladders, st.integers(0, 30), st.integers(0, 30))
def test_what_is_reachable_covers_the_tier_asked_for_the_default_and_every_shorter_input(
    default: tuple[Step, ...], flex: tuple[Step, ...], us: tuple[Step, ...], one: int, other: int
) -> None:
    shorter, longer = sorted((one, other))
    card = a_card({"default": default, "flex": flex, "flex@us": us, "priority": (Step(0, RATES),)})
    bound = rates_at(card.reachable["flex"], longer)
    for steps in (default, flex, us):
        for most, real in zip(bound, rates_at(steps, shorter), strict=True):
            assert most >= real


def test_a_dearer_tier_that_was_not_asked_for_is_not_reachable() -> None:
    card = a_card({"default": (Step(0, RATES),), "priority": (Step(0, RATES.times(200)),)})
    assert card.reachable["default"] == (Step(0, RATES),)
    assert card.reachable["priority"] == (Step(0, RATES.times(200)),)


def test_a_call_that_asks_for_the_ordinary_tier_may_be_run_in_the_us() -> None:
    card = a_card({"default": (Step(0, RATES),), "default@us": (Step(0, RATES.times(110)),)})
    assert card.reachable["default"] == (Step(0, RATES.times(110)),)
    assert card.reachable["default@us"] == (Step(0, RATES.times(110)),)


def test_a_call_that_asks_for_the_us_may_be_served_anywhere() -> None:
    tiers = {"default": (Step(0, RATES),), "fast": (Step(0, RATES.times(300)),), "fast@us": (Step(0, RATES),)}
    assert a_card(tiers).reachable["fast@us"] == (Step(0, RATES.times(300)),)


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("default", "default"),
        ("", "default"),
        ("standard", "default"),
        ("standard_only", "default"),
        ("ON_DEMAND", "default"),
        ("Priority", "priority"),
        ("standard@us", "default@us"),
        ("fast@us", "fast@us"),
        ("auto", "auto"),
    ],
)
def test_providers_name_the_ordinary_tier_in_several_ways(reported: str, name: str) -> None:
    assert tier_name(reported) == name


def test_a_surcharge_raises_every_rate_of_every_tier_and_what_is_reachable() -> None:
    card = surcharged(a_card({"default": (Step(0, RATES),), "flex": (Step(0, RATES.times(50)),)}), 110)
    assert card.tiers == {"default": (Step(0, RATES.times(110)),), "flex": (Step(0, RATES.times(50).times(110)),)}
    assert card.reachable["flex"] == card.tiers["default"]


def test_without_a_surcharge_the_card_is_the_same_one() -> None:
    card = a_card()
    assert surcharged(card, 100) is card


def test_a_share_of_the_steps_keeps_their_thresholds() -> None:
    steps = (Step(0, RATES), Step(7, RATES))
    assert [step.above_input_tokens for step in steps_times(steps, 50)] == [0, 7]
    assert isinstance(RATES.times(50), Rates)
