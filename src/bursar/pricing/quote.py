"""The quote: the most that a call can cost. This module is the only mint of `Quote`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from bursar.call import CacheWrite, Call, Input, ServerTool
from bursar.clock import Instant
from bursar.money import Money, Rate, cost, ensure
from bursar.pricing.counted import BYTES_PER_TOKEN_HOPED, CountedBy, InputCount, provider_bound, tokenizer_bound
from bursar.pricing.images import image_tokens
from bursar.pricing.rates import Card, Family, Rates, Unpriced, rates_at, tier_name

_SEAL = object()

# Providers keep to the bound that we send; some count a few tokens of formatting on top of it.
OUTPUT_MARGIN_TOKENS = 64
# What a provider adds around messages and tools. The formulas are not published; these are above all that was measured.
TOKENS_PER_MESSAGE = 16
TOKENS_PER_TOOL = 64
TOKENS_PER_CALL = 512
# Claude gets a system prompt about tools as soon as there is one: 804 tokens is the longest that is documented.
CLAUDE_TOKENS_FOR_TOOLS = 1_024


@dataclass(frozen=True, slots=True)
class OutputPolicy:
    """How many output tokens a call gets when it names no bound, and how far a bound may be lowered near the cap."""

    tokens_default: int = 32_768
    """The bound for a client that sends none (at most the model's own)."""
    tokens_floor: int = 256
    """A call is refused rather than bounded below this."""
    tokens_comfort: int = 4_096
    """While money is held by others, a call waits rather than being bounded below this."""
    clamps: bool = True
    """False: `near_cap = "refuse"`; a bound is never lowered."""


class PriceBook(Protocol):
    """Knows the card of a model at an instant, or says why it has none."""

    def card(self, upstream: str, model: str, now: Instant) -> Card | Unpriced:
        """Give the card that holds for a call that is made now."""
        ...


@dataclass(frozen=True, slots=True)
class Quote:
    """The most that a call can cost: a fixed part, and a part per output token up to the bound that is sent."""

    call: Call
    card: Card
    rates: Rates
    """The dearest rates that can apply to this call, class by class."""
    input_tokens: int
    """Upper bound of all input tokens, of every inference that the call may take."""
    fixed: Money
    """Input, margin and fees: what is due even with no output."""
    fixed_tokens: int
    """Input bound plus the output margin, in tokens (for budgets in tokens)."""
    per_output_token: Rate
    """Picodollars per token of the output bound, all choices together."""
    output_tokens: int
    """The output bound that is wanted, per choice."""
    output_tokens_floor: int
    """The lowest output bound this call may be given, per choice."""
    output_tokens_comfort: int
    """The output bound below which the call rather waits for money that others hold."""
    client_bounded: bool
    """Whether the bound is the client's own (then it is kept while it can come free) or ours."""
    seal: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        ensure(self.seal is _SEAL, "only worst_case() makes a Quote")


def worst_case(
    call: Call, book: PriceBook, now: Instant, policy: OutputPolicy, counted: InputCount | None = None
) -> Quote | Unpriced:
    """Give the most that the call can cost when it is made now, or say why that is not known.

    A count of its input, where there is one, only ever lowers the bound that its bytes give.
    """
    ensure(counted is None or counted.call is call, "a count bounds the call that was counted, and no other")
    card = book.card(call.upstream, call.model, now)
    if isinstance(card, Unpriced):
        return card
    steps = card.reachable.get(tier_name(call.service_tier))
    if steps is None:
        return _tier_unpriced(call, card)
    unknown = [tool for tool in call.server_tools.uses_max if tool not in card.fees]
    if unknown:
        return _fee_unpriced(call, unknown[0])
    input_tokens = _all_input(call, card, counted)
    rates = rates_at(steps, priced_length(call, card, input_tokens))
    choices = call.output.choices
    margin_tokens = (OUTPUT_MARGIN_TOKENS + call.output.tokens_extra) * choices
    wanted, floor = _output_bounds(call, card, policy)
    return Quote(
        call=call,
        card=card,
        rates=rates,
        input_tokens=input_tokens,
        fixed=cost(((input_tokens, _dearest_input(rates, call)), (margin_tokens, rates.output), *_fees(call, card))),
        fixed_tokens=input_tokens + margin_tokens,
        per_output_token=Rate(rates.output.picodollars * choices),
        output_tokens=wanted,
        output_tokens_floor=floor,
        output_tokens_comfort=max(floor, min(policy.tokens_comfort, wanted)),
        client_bounded=call.output.tokens_asked is not None,
        seal=_SEAL,
    )


def _all_input(call: Call, card: Card, counted: InputCount | None) -> int:
    """Bound the input of every inference: what the provider's tools bring is only bounded by the context window."""
    first, window = input_bound(call.input, card, counted), _window(call, card)
    if not call.takes_long_context:
        first = min(first, window)
    return first + (call.server_tools.passes_max - 1) * window


def _window(call: Call, card: Card) -> int:
    return card.context_tokens if call.takes_long_context else card.context_tokens_unasked


def priced_length(call: Call, card: Card, input_tokens: int) -> int:
    """Give the length of input that decides on the rates: no inference is longer than the window, however many are."""
    return input_tokens if call.server_tools.passes_max == 1 else min(input_tokens, _window(call, card))


def _fees(call: Call, card: Card) -> list[tuple[int, Rate]]:
    return [(uses, card.fees[tool]) for tool, uses in call.server_tools.uses_max.items()]


def input_bound(given: Input, card: Card, counted: InputCount | None = None) -> int:
    """Give an upper bound of the input tokens that this model makes of the input.

    A request above the context window is refused by the provider, unbilled; so the window bounds every input. What
    comes from elsewhere may have changed since it was counted, so only the window bounds that.
    """
    window = card.context_tokens * given.pieces
    if given.opaque:
        return window
    tokens = _text_tokens(given, card.family) + _frame_tokens(given)
    if counted is not None:
        tokens = min(tokens, _counted_tokens(counted, given))
    # Providers do not say whether their counts of an image are what they bill, so it is bounded as it is without.
    for image in given.images:
        tokens += image_tokens(image, card)
    return min(tokens + card.added_tokens, window)


def counting_saves(quote: Quote) -> tuple[Money, int]:
    """Give how much less, in money and in tokens, may be asked for at best once the input is counted."""
    call = quote.call
    hoped = call.input.text_bytes // BYTES_PER_TOKEN_HOPED
    # What the provider's tools will bring is not there to be counted.
    is_unseen = call.input.opaque or call.server_tools.passes_max > 1
    tokens = 0 if is_unseen else max(quote.input_tokens - hoped, 0)
    return cost(((tokens, _dearest_input(quote.rates, call)),)), tokens


def _counted_tokens(counted: InputCount, given: Input) -> int:
    if counted.by is CountedBy.PROVIDER:
        return provider_bound(counted.tokens)
    return tokenizer_bound(counted.tokens) + _frame_tokens(given)


def _frame_tokens(given: Input) -> int:
    frame = TOKENS_PER_MESSAGE * given.messages + TOKENS_PER_CALL
    return frame + TOKENS_PER_TOOL * given.tools + given.fixed_tokens


def _text_tokens(given: Input, family: Family) -> int:
    if family is Family.BYTE_LEVEL:
        # No token is shorter than a byte; one token begins the text. Tools may reach the model with their non-ASCII
        # characters escaped, three times as long.
        tools = 0 if given.is_ascii else 2 * given.tool_json_bytes
        return given.text_bytes + tools + 1
    # Claude's tokenizer is not public and makes up to 1.67 tokens of an ASCII byte (2.33 of a byte of normalised text).
    for_tools = CLAUDE_TOKENS_FOR_TOOLS if given.tools else 0
    if given.is_ascii:
        return (given.text_bytes * 7 + 3) // 4 + for_tools
    mixed = given.nfc_bytes - given.lone_ascii_bytes
    return (given.lone_ascii_bytes * 7 + mixed * 10 + given.tool_json_bytes * 2 + 3) // 4 + for_tools


def _dearest_input(rates: Rates, call: Call) -> Rate:
    """Give the dearest rate that an input token can be billed at."""
    fresh, read = rates.input.picodollars, rates.cache_read.picodollars
    if call.input.audio:
        fresh += rates.audio_extra.picodollars
        read += rates.audio_cache_read_extra.picodollars
    dearest = max(Rate(fresh), Rate(read))
    if call.cache_write is CacheWrite.NONE:
        return dearest
    if call.cache_write in (CacheWrite.IMPLICIT, CacheWrite.FIVE_MINUTES):
        return max(dearest, rates.cache_write_5m)
    return max(dearest, rates.cache_write_5m, rates.cache_write_1h)


def _output_bounds(call: Call, card: Card, policy: OutputPolicy) -> tuple[int, int]:
    """Give the output bound that is wanted and the lowest that is acceptable, per choice."""
    output = call.output
    asked = policy.tokens_default if output.tokens_asked is None else output.tokens_asked
    wanted = max(min(asked, card.output_tokens_max), output.tokens_min)
    if not policy.clamps:
        return wanted, wanted
    return wanted, min(max(policy.tokens_floor, output.tokens_min), wanted)


def _fee_unpriced(call: Call, tool: ServerTool) -> Unpriced:
    return Unpriced(
        call.model,
        f"What one use of {tool} costs with {call.model!r} is not in the price list, so this call cannot be bounded; "
        f"nothing was sent. Take the tool out of the request, or give the model a price of its own in bursar.toml, "
        f'with fees = {{ {tool} = "..." }} (USD for one use).',
    )


def _tier_unpriced(call: Call, card: Card) -> Unpriced:
    priced = ", ".join(sorted({name.partition("@")[0] for name in card.tiers}))
    return Unpriced(
        call.model,
        f"The service tier {call.service_tier!r} of {call.model!r} is not in the price list, so this call cannot be "
        f"bounded; nothing was sent. Tiers with a price: {priced}.",
    )
