"""Calls and cards for the tests of pricing."""

from __future__ import annotations

from collections.abc import Mapping

from bursar.call import Body, CacheWrite, Call, Image, Input, Output
from bursar.clock import Instant
from bursar.money import Rate
from bursar.pricing.quote import OutputPolicy, Quote, worst_case
from bursar.pricing.rates import FOREVER, Card, Family, ImageBound, Rates, Step, Unpriced

NOW = Instant(1_795_435_200_000_000)
"""2026-11-23T12:00Z."""


def a_rate_of_each(input_: int, output: int, read: int, write_5m: int, write_1h: int) -> Rates:
    return Rates(Rate(input_), Rate(output), Rate(read), Rate(write_5m), Rate(write_1h))


RATES = a_rate_of_each(3_000_000, 15_000_000, 300_000, 3_750_000, 6_000_000)


def an_input(
    text_bytes: int = 1_000,
    *,
    is_ascii: bool = True,
    nfc_bytes: int | None = None,
    messages: int = 0,
    tools: int = 0,
    tool_json_bytes: int = 0,
    fixed_tokens: int = 0,
    images: tuple[Image, ...] = (),
    opaque: bool = False,
) -> Input:
    nfc = text_bytes if nfc_bytes is None else nfc_bytes
    return Input(text_bytes, is_ascii, nfc, messages, tools, tool_json_bytes, fixed_tokens, images, opaque)


def a_call(
    given: Input | None = None,
    output: Output | None = None,
    *,
    upstream: str = "openai",
    model: str = "gpt-5",
    cache_write: CacheWrite = CacheWrite.NONE,
    service_tier: str = "default",
) -> Call:
    return Call(
        dialect="openai_chat",
        upstream=upstream,
        model=model,
        stream=False,
        body=Body("{}", {}),
        input=given or an_input(),
        output=output or Output(tokens_asked=1_000),
        cache_write=cache_write,
        service_tier=service_tier,
    )


def a_card(
    tiers: Mapping[str, tuple[Step, ...]] | None = None,
    *,
    family: Family = Family.BYTE_LEVEL,
    context_tokens: int = 1_000_000,
    output_tokens_max: int = 100_000,
    image_tokens_max: int = 5_000,
    image: ImageBound | None = None,
) -> Card:
    return Card(
        model="gpt-5",
        provider="openai",
        family=family,
        context_tokens=context_tokens,
        output_tokens_max=output_tokens_max,
        tiers=tiers or {"default": (Step(0, RATES),)},
        image_tokens_max=image_tokens_max,
        source="a test",
        valid_until=FOREVER,
        image=image or ImageBound(),
    )


class OneCard:
    """A price book with a single page."""

    def __init__(self, page: Card | Unpriced) -> None:
        self.page = page

    def card(self, upstream: str, model: str, now: Instant) -> Card | Unpriced:
        return self.page


def quoted(call: Call, card: Card, policy: OutputPolicy | None = None) -> Quote:
    quote = worst_case(call, OneCard(card), NOW, policy or OutputPolicy())
    assert isinstance(quote, Quote)
    return quote
