"""The bill: what a call did cost, from the usage that the provider reports."""

from __future__ import annotations

from bursar.call import Unmetered, Usage
from bursar.money import NANODOLLARS_MAX, Money, cost
from bursar.pricing.quote import Quote, priced_length
from bursar.pricing.rates import rates_at, tier_name


def bill(usage: Usage, quote: Quote) -> Money | Unmetered:
    """Give the exact cost of the usage, or say why it cannot be one (then the hold is captured whole).

    What the provider itself says that it charged is the bill. Else the rates are those of the model that was asked for:
    a reply that names another model does not make it cheaper. A tier that has no price is billed at the dearest rates
    of the quote.
    """
    amount = usage.cost if usage.cost is not None else _priced(usage, quote)
    if isinstance(amount, Money) and amount.nanodollars > NANODOLLARS_MAX:
        return Unmetered("the reported usage costs more than the ledger can count")
    return amount


def _priced(usage: Usage, quote: Quote) -> Money | Unmetered:
    steps = quote.card.tiers.get(tier_name(usage.service_tier))
    cached = usage.cache_read_tokens + usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    length = priced_length(quote.call, quote.card, usage.input_tokens + cached)
    rates = quote.rates if steps is None else rates_at(steps, length)
    lines = (
        (usage.input_tokens, rates.input),
        (usage.output_tokens, rates.output),
        (usage.cache_read_tokens, rates.cache_read),
        (usage.cache_write_5m_tokens, rates.cache_write_5m),
        (usage.cache_write_1h_tokens, rates.cache_write_1h),
        (usage.audio_input_tokens, rates.audio_extra),
        (usage.audio_cache_read_tokens, rates.audio_cache_read_extra),
    )
    if min(*(tokens for tokens, _ in lines), *usage.tool_uses.values()) < 0:
        return Unmetered("the reported usage has a negative count")
    if not any(tokens for tokens, _ in lines):
        # No call reads nothing: a server that counts nothing does not count.
        return Unmetered("the reported usage counts nothing at all")
    if not usage.tool_uses.keys() <= quote.call.server_tools.uses_max.keys():
        return Unmetered("a tool on the provider's side was used that the call did not offer")
    return cost((*lines, *((times, quote.card.fees[tool]) for tool, times in usage.tool_uses.items())))
