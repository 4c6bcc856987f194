"""Each line tries to make a quote or a hold outside of its mint, or to change one."""

from __future__ import annotations

from bursar.call import Call
from bursar.ledger.account import Granted
from bursar.ledger.hold import OpenHold
from bursar.ledger.store import Store
from bursar.money import ZERO, Rate
from bursar.pricing.quote import Quote
from bursar.pricing.rates import Card, Rates


def a_hold_from_nothing() -> OpenHold:
    return OpenHold()  # error: call-arg


def a_hold_from_a_grant(quote: Quote, granted: Granted, store: Store) -> OpenHold:
    return OpenHold(quote, granted)  # error: call-arg


def a_free_quote(call: Call, card: Card, rates: Rates) -> Quote:
    return Quote(  # error: call-arg
        call=call,
        card=card,
        rates=rates,
        input_tokens=0,
        fixed=ZERO,
        fixed_tokens=0,
        per_output_token=Rate(0),
        output_tokens=0,
        output_tokens_floor=0,
        output_tokens_comfort=0,
        client_bounded=True,
    )


def a_cheaper_quote(quote: Quote) -> None:
    quote.fixed = ZERO  # error: misc


def a_hold_for_another_quote(hold: OpenHold, cheaper: Quote) -> None:
    hold.quote = cheaper  # error: misc
