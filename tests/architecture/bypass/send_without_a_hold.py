"""Each line tries to reach the provider with something that does not pay."""

from __future__ import annotations

from bursar.call import Call
from bursar.ledger.account import Denied, Granted
from bursar.ledger.hold import Ledger, OpenHold
from bursar.pricing.quote import Quote
from bursar.upstream.client import Upstream


async def nothing(upstream: Upstream) -> None:
    await upstream.send()  # error: call-arg


async def none(upstream: Upstream) -> None:
    await upstream.send(None)  # error: arg-type


async def the_call_itself(upstream: Upstream, call: Call) -> None:
    await upstream.send(call)  # error: arg-type


async def only_a_quote(upstream: Upstream, quote: Quote) -> None:
    await upstream.send(quote)  # error: arg-type


async def what_the_store_answered(upstream: Upstream, granted: Granted) -> None:
    await upstream.send(granted)  # error: arg-type


async def a_refusal(upstream: Upstream, denied: Denied) -> None:
    await upstream.send(denied)  # error: arg-type


async def an_answer_not_taken_apart(upstream: Upstream, ledger: Ledger, quote: Quote) -> None:
    await upstream.send(await ledger.authorize(quote, "c1", ("run:r1",)))  # error: arg-type


async def an_answer_not_waited_for(upstream: Upstream, ledger: Ledger, quote: Quote) -> None:
    await upstream.send(ledger.authorize(quote, "c1", ("run:r1",)))  # error: arg-type


async def perhaps_a_hold(upstream: Upstream, hold: OpenHold | None) -> None:
    await upstream.send(hold)  # error: arg-type


async def a_hold_and_another_body(upstream: Upstream, hold: OpenHold) -> None:
    await upstream.send(hold, b"{}")  # error: call-arg


async def a_hold_and_a_switch(upstream: Upstream, hold: OpenHold) -> None:
    await upstream.send(hold, skip=True)  # error: call-arg


class LooksLikeAHold:
    dispatched = False

    def dispatch(self) -> None: ...


async def a_look_alike(upstream: Upstream) -> None:
    await upstream.send(LooksLikeAHold())  # error: arg-type
