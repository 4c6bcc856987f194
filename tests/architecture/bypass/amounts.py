"""Each line tries to count with something that is not Money, or to bill what nobody metered."""

from __future__ import annotations

from bursar.call import Call, Unmetered, Usage
from bursar.clock import Instant
from bursar.ledger.hold import Ledger, OpenHold
from bursar.money import ZERO, Money, Rate, cost
from bursar.pricing.bill import bill
from bursar.pricing.quote import OutputPolicy, PriceBook, Quote, worst_case


def an_int_for_money(hold: OpenHold, usage: Usage) -> None:
    hold.capture(5, usage)  # error: arg-type


def a_float_for_money() -> Money:
    return Money(0.15)  # error: arg-type


def money_plus_a_number() -> Money:
    return ZERO + 1  # error: no-any-return, operator


def money_times_a_float() -> Money:
    return ZERO * 1.1  # error: operator, return-value


def a_rate_for_money(rate: Rate) -> Money:
    return ZERO + rate  # error: operator


def tokens_times_a_float() -> Money:
    return cost([(1000, 0.15)])  # error: list-item


def a_cost_without_usage(hold: OpenHold) -> None:
    hold.capture(ZERO)  # error: call-arg


def a_void_without_proof(hold: OpenHold) -> None:
    hold.void()  # error: call-arg


def a_bill_for_an_unmetered_reply(unmetered: Unmetered, quote: Quote) -> Money | Unmetered:
    return bill(unmetered, quote)  # error: arg-type


def a_bill_not_taken_apart(hold: OpenHold, usage: Usage) -> None:
    hold.capture(bill(usage, hold.quote), usage)  # error: arg-type


def a_price_not_taken_apart(call: Call, book: PriceBook) -> Money:
    return worst_case(call, book, Instant(0), OutputPolicy()).fixed  # error: union-attr


async def an_unpriced_call(ledger: Ledger, call: Call, book: PriceBook) -> None:
    quote = worst_case(call, book, Instant(0), OutputPolicy())
    await ledger.authorize(quote, "c1", ("run:r1",))  # error: arg-type


async def on_no_account(ledger: Ledger, quote: Quote) -> None:
    await ledger.authorize(quote, "c1")  # error: call-arg


async def on_accounts_left_open(ledger: Ledger, quote: Quote) -> None:
    await ledger.authorize(quote, "c1", None)  # error: arg-type
