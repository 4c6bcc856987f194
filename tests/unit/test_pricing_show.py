"""What a card says is told in lines and words, with the changes of price that are known to come."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_pricing_newer import MODEL, NOW
from test_pricing_update import book

from bursar.clock import SECOND, Instant
from bursar.pricing.rates import FOREVER, Card, ImageBound, ImageRule
from bursar.pricing.show import CHANGES_AHEAD_MAX, facts, schedule

HOUR = 3600 * SECOND


def card(model: dict[str, Any] = MODEL) -> Card:
    found = book(model).card("openai", "gpt-7", NOW)
    assert isinstance(found, Card)
    return found


def test_a_plain_model_has_one_line_and_few_words() -> None:
    shown = facts(card())
    assert [line[:7] for line in shown.rates] == [("default", 0, "0.10", "2.00", "0.10", "0.10", "0.10")]
    assert shown.conditions[0] == "default: the ordinary tier"
    assert shown.valid_until is None
    assert (shown.context_tokens, shown.context_tokens_unasked, shown.added_tokens) == (1000, 1000, 0)


def test_tiers_regions_cliffs_windows_and_additions_are_told_in_words() -> None:
    plain = card()
    steps = plain.tiers["default"]
    cliff = (*steps, steps[0]._replace(above_input_tokens=500))
    tiers = {"default": cliff, "fast": steps, "flex@us": steps}
    shown = facts(replace(plain, tiers=tiers, context_tokens_unasked=500, added_tokens=7, valid_until=Instant(NOW + 1)))
    assert shown.conditions[:6] == (
        "default: the ordinary tier",
        "fast: fast mode",
        "flex@us: service tier flex, run in the US only",
        "above 500 input tokens the whole call has the dearer rates",
        "above 500 input tokens only when the longer window is asked for",
        "the provider puts up to 7 tokens of its own in front of every input",
    )
    assert [line.above_input_tokens for line in shown.rates if line.tier == "default"] == [0, 500]
    assert shown.valid_until == NOW + 1


@pytest.mark.parametrize("rule", list(ImageRule))
def test_every_way_of_counting_an_image_has_its_words(rule: ImageRule) -> None:
    words = facts(replace(card(), image=ImageBound(rule))).conditions
    assert sum("image" in line for line in words) == 1


def test_a_model_without_known_changes_has_no_schedule() -> None:
    assert schedule(book(MODEL), "openai", "gpt-7", NOW) == ()
    assert schedule(book(MODEL), "openai", "gpt-8", NOW) == ()


def test_a_price_that_changes_on_a_day_is_in_the_schedule_before_it_with_the_dearer_of_both() -> None:
    prices = [
        {"prices": MODEL["prices"]},
        {"constraint": {"start_date": "2026-12-20"}, "prices": {"input_mtok": 0.1, "output_mtok": 1}},
    ]
    (change,) = schedule(book({**MODEL, "prices": prices}), "openai", "gpt-7", NOW)
    instant, (line,) = change
    assert line.output == "1.00"
    assert instant % (24 * HOUR) == 0


def test_prices_by_the_time_of_day_are_shown_a_few_ahead() -> None:
    night = {
        "constraint": {"start_time": "01:00:00Z", "end_time": "04:00:00Z"},
        "prices": {"input_mtok": 0.1, "output_mtok": 4},
    }
    changes = schedule(book({**MODEL, "prices": [{"prices": MODEL["prices"]}, night]}), "openai", "gpt-7", NOW)
    assert 2 <= len(changes) <= CHANGES_AHEAD_MAX
    assert [lines[0].output for _, lines in changes] == (["4.00", "2.00"] * CHANGES_AHEAD_MAX)[: len(changes)]
    instants = [instant for instant, _ in changes]
    assert instants == sorted(instants)
    # The dearer rate is held from as long before as a call may take, and no longer than it is asked.
    assert instants[1] % (24 * HOUR) == 4 * HOUR
    assert 0 < (HOUR - instants[0]) % (24 * HOUR) <= 2 * HOUR


class Ending:
    """A book in which a model has a price until an instant, then either none or the same."""

    def __init__(self, *, becomes_unpriced: bool) -> None:
        self.first = replace(card(), valid_until=Instant(NOW + HOUR))
        self.becomes_unpriced = becomes_unpriced

    def card(self, upstream: str, model: str, now: Instant) -> Any:
        if now < NOW + HOUR:
            return self.first
        if self.becomes_unpriced:
            return book(MODEL).card("openai", "gpt-8", now)
        return replace(self.first, valid_until=FOREVER)


def test_a_price_that_ends_is_shown_as_none_and_one_that_goes_on_is_no_change() -> None:
    assert schedule(Ending(becomes_unpriced=True), "openai", "gpt-7", NOW) == ((NOW + HOUR, ()),)
    assert schedule(Ending(becomes_unpriced=False), "openai", "gpt-7", NOW) == ()
