"""The bill: what a call did cost, from the usage that the provider reports."""

from __future__ import annotations

from bursar.call import Unmetered, Usage
from bursar.money import NANODOLLARS_MAX, Money, cost
from bursar.pricing.quote import Quote
from bursar.pricing.rates import rates_at, tier_name


def bill(usage: Usage, quote: Quote) -> Money | Unmetered:
    """Give the exact cost of the usage, or say why it cannot be one (then the hold is captured whole).

    The rates are those of the model that was asked for: a reply that names another model does not make it cheaper.
    A tier that has no price is billed at the dearest rates of the quote.
    """
    counts = (
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_5m_tokens,
        usage.cache_write_1h_tokens,
    )
    if min(counts) < 0:
        return Unmetered("the reported usage has a negative count")
    steps = quote.card.tiers.get(tier_name(usage.service_tier))
    total_input = sum(counts) - usage.output_tokens
    rates = quote.rates if steps is None else rates_at(steps, total_input)
    amount = cost(zip(counts, rates, strict=True))
    if amount.nanodollars > NANODOLLARS_MAX:
        return Unmetered("the reported usage costs more than the ledger can count")
    return amount
