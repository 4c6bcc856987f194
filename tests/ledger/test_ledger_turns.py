"""Turns across gateways: while an older call waits for an account, no younger one of another gateway passes it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from ledger_kit import KEY, PATH, RUN, MemoryStore, a_quote, an_ask, authorize, opened, run_virtual, settle_down

from bursar.clock import SECOND
from bursar.ledger.account import (
    Amounts,
    Authorize,
    Basis,
    Denied,
    Granted,
    Limits,
    OpenScope,
    Reason,
    Settle,
)
from bursar.ledger.hold import Ledger, OpenHold, ask_of
from bursar.ledger.rules import CLAIM_FRESH, CLAIM_RENEWED_AFTER

USD = f"{RUN}/usd/lifetime"
SMALL = an_ask(bounded=True)
"""Holds 3,000 nanodollars."""
LARGE = an_ask(4_000, bounded=True)
"""Holds 9,000 nanodollars."""
WHOLE = an_ask(1_000, fixed=7_500, bounded=True)
"""Holds more than 7,500 nanodollars, however few tokens it is granted."""


def a_store() -> MemoryStore:
    store = opened(run=Limits(usd=10_000))
    assert isinstance(store.do(authorize("c0", SMALL)), Granted)
    return store


def waiting(call_id: str, ask: object = LARGE, worker: str = "w1") -> Authorize:
    return authorize(call_id, ask, worker=worker, is_in_line=True)  # type: ignore[arg-type]


def denied(answer: object) -> Denied:
    assert isinstance(answer, Denied), answer
    return answer


def test_a_younger_call_does_not_pass_the_one_that_waits() -> None:
    store = a_store()
    assert denied(store.do(waiting("large"))).reason is Reason.HELD
    younger = denied(store.do(authorize("small", SMALL, worker="w2")))
    assert (younger.reason, younger.account, younger.asked) == (Reason.HELD, USD, 3_000)
    # Nor does it pass when it stands first in a line of its own gateway.
    assert denied(store.do(waiting("small", SMALL, "w2"))).reason is Reason.HELD
    store.do(Settle("c0", "w1", Amounts(0, 1, 0), Basis.METERED, PATH, Amounts(3_000, 1, 1_100)))
    assert denied(store.do(waiting("small", SMALL, "w2"))).reason is Reason.HELD
    assert isinstance(store.do(waiting("large")), Granted)
    assert store.books.claims[USD] == [claim for claim in store.books.claims[USD] if claim.call_id == "small"]


def test_a_call_that_was_refused_for_good_keeps_nobody_waiting() -> None:
    store = a_store()
    store.do(waiting("large", WHOLE))
    assert denied(store.do(authorize("small", SMALL, worker="w2"))).reason is Reason.HELD
    assert denied(store.do(replace(waiting("large", WHOLE), is_in_line=False, is_last_try=True))).reason is Reason.HELD
    assert isinstance(store.do(authorize("small", SMALL, worker="w2")), Granted)
    # Nor one for which too little is left, since what was held is spent now.
    store = a_store()
    store.do(waiting("large", WHOLE))
    store.do(Settle("c0", "w1", Amounts(3_000, 1, 1_100), Basis.METERED, PATH, Amounts(3_000, 1, 1_100)))
    assert denied(store.do(waiting("large", WHOLE))).reason is Reason.EXHAUSTED
    assert isinstance(store.do(authorize("small", SMALL, worker="w2")), Granted)


def test_a_claim_that_nobody_renews_is_no_claim() -> None:
    store = a_store()
    store.do(waiting("large"))
    store.clock.advance(CLAIM_FRESH // SECOND - 1)
    assert denied(store.do(authorize("small", SMALL, worker="w2"))).reason is Reason.HELD
    store.clock.advance(1)
    assert isinstance(store.do(authorize("small", SMALL, worker="w2")), Granted)


def test_a_claim_is_renewed_now_and_then_and_keeps_its_age() -> None:
    store = a_store()
    begin = store.clock.instant
    store.do(waiting("large"))
    store.clock.instant += CLAIM_RENEWED_AFTER - 1  # type: ignore[assignment]
    store.do(waiting("large"))
    assert [(claim.since, claim.at) for claim in store.books.claims[USD]] == [(begin, begin)]
    store.clock.instant += 1  # type: ignore[assignment]
    store.do(waiting("large"))
    assert [(claim.since, claim.at) for claim in store.books.claims[USD]] == [(begin, begin + CLAIM_RENEWED_AFTER)]


def test_who_does_not_wait_leaves_no_claim() -> None:
    store = a_store()
    store.do(authorize("large", LARGE))
    store.do(replace(waiting("large"), is_last_try=True))
    exhausted = an_ask(40_000, fixed=20_000, bounded=True)
    assert denied(store.do(waiting("too large", exhausted))).reason is Reason.EXHAUSTED
    assert not store.books.claims


def test_the_last_try_and_what_costs_nothing_pass_by() -> None:
    store = a_store()
    store.do(waiting("large"))
    free = an_ask(1_000, fixed=0, each=0, tokens_fixed=0, bounded=True)
    assert isinstance(store.do(authorize("free", free, worker="w2")), Granted)
    assert isinstance(store.do(authorize("last", SMALL, worker="w2", is_last_try=True)), Granted)


def test_two_claims_of_one_instant_have_an_order() -> None:
    store = a_store()
    store.do(waiting("b"))
    store.do(waiting("a", worker="w2"))
    store.do(Settle("c0", "w1", Amounts(0, 1, 0), Basis.METERED, PATH, Amounts(3_000, 1, 1_100)))
    assert denied(store.do(waiting("b"))).reason is Reason.HELD
    assert isinstance(store.do(waiting("a", worker="w2")), Granted)


@pytest.mark.parametrize("seed", range(3))
def test_a_large_call_of_one_gateway_is_not_starved_by_the_small_ones_of_another(seed: int) -> None:
    """Small calls come and go all the time, so that there is never room for the large one by chance."""
    large, small = a_quote(900, floor=900), a_quote(300, floor=300)
    room = ask_of(large).amounts(900).usd

    async def scenario() -> None:
        store = MemoryStore()
        store.do(OpenScope(KEY, "", Limits()))
        store.do(OpenScope(RUN, KEY, Limits(usd=room * 50)))
        store.do(OpenScope("run:full", KEY, Limits(usd=room)))
        path = (KEY, "run:full")
        one, other = Ledger(store, 30.0), Ledger(store, 30.0)
        served: list[str] = []

        async def call(ledger: Ledger, name: str, seconds: float) -> None:
            hold = await ledger.authorize(large if name == "large" else small, f"{name}-{seed}", path)
            if isinstance(hold, OpenHold):
                served.append(name)
                async with hold:
                    await asyncio.sleep(seconds)
                    hold.void("nothing was sent")

        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(call(other, f"first{number}", 1.0 + number / 3))
            await settle_down()
            group.create_task(call(one, "large", 0.1))
            for number in range(60):
                await asyncio.sleep(0.2)
                group.create_task(call(other, f"small{number}", 0.9 + seed / 10))
                store.clock.advance(0.2)
        assert "large" in served[:12], served

    run_virtual(scenario())
