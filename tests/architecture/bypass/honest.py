"""The one way through, which must pass: quote, authorize, take the union apart, send, bill, capture."""

from __future__ import annotations

from bursar.call import Call, Usage
from bursar.clock import Instant
from bursar.ledger.account import Denied
from bursar.ledger.hold import Ledger, OpenHold
from bursar.money import Money
from bursar.pricing.bill import bill
from bursar.pricing.quote import OutputPolicy, PriceBook, worst_case
from bursar.pricing.rates import Unpriced
from bursar.upstream.client import Upstream


async def pay(call: Call, book: PriceBook, ledger: Ledger, upstream: Upstream, usage: Usage) -> str:
    quote = worst_case(call, book, Instant(0), OutputPolicy())
    if isinstance(quote, Unpriced):
        return quote.message
    match await ledger.authorize(quote, "c1", ("run:r1",)):
        case Denied() as denied:
            return denied.reason
        case OpenHold() as hold:
            async with hold, await upstream.send(hold):
                cost = bill(usage, hold.quote)
                if isinstance(cost, Money):
                    hold.capture(cost, usage)
    return "paid"
