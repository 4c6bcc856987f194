"""A hold ends exactly once, whatever happens to the coroutine that owns it; and calls wait their turn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from ledger_kit import KEY, PATH, RUN, MemoryStore, a_quote, authorize, opened, run_virtual, settle_down

from bursar.call import ServerTool, Usage
from bursar.ledger.account import Amounts, Basis, Denied, Expire, HoldState, Limits, OpenScope, Reason, Settle, Void
from bursar.ledger.hold import FRESH_SECONDS, Ledger, OpenHold, ask_of
from bursar.ledger.store import LedgerUnavailableError, NotWrittenError
from bursar.money import BrokenInvariantError, Money

USD = f"{RUN}/usd/lifetime"
QUOTE = a_quote()
HELD = ask_of(QUOTE).amounts(1000)
FIXED = HELD.usd - 1_000_000
USAGE = Usage(input_tokens=3, output_tokens=4)


def room_for(calls: int, extra: int = 0) -> MemoryStore:
    return opened(Limits(usd=calls * HELD.usd + extra))


def ledger_on(store: MemoryStore, seconds: float = 30.0) -> Ledger:
    return Ledger(store, seconds)


async def take(ledger: Ledger, call_id: str = "c1", quote: Any = QUOTE, scopes: tuple[str, ...] = PATH) -> OpenHold:
    hold = await ledger.authorize(quote, call_id, scopes)
    assert isinstance(hold, OpenHold), hold
    return hold


def state_of(store: MemoryStore, call_id: str = "c1") -> str:
    return store.books.holds[call_id].state


def nothing_is_held(store: MemoryStore) -> bool:
    return all(balance.held == 0 for balance in store.books.names.values())


# ---- the end of a hold ----------------------------------------------------------------------------------------------


def test_a_captured_call_is_booked_at_its_cost_with_its_usage() -> None:
    async def scenario() -> None:
        store = room_for(1)
        ledger = ledger_on(store)
        usage = Usage(3, 4, 5, 6, 7, "priority", "m1-2026")
        async with await take(ledger) as hold:
            hold.dispatch()
            hold.capture(Money(77), usage)
        assert hold.settled is not None
        assert hold.settled.captured == Amounts(77, 1, 25)
        detail = json.loads(store.lines[-1].detail)
        assert detail["basis"] == "metered"
        assert json.loads(detail["usage"]) == {
            "input": 3, "output": 4, "cache_read": 5, "cache_write_5m": 6, "cache_write_1h": 7, "tier": "priority",
            "model": "m1-2026",
        }  # fmt: skip
        assert ledger.unsettled == 0
        assert nothing_is_held(store)

    run_virtual(scenario())


@pytest.mark.parametrize("charged", [0, 77])
def test_the_books_have_all_that_a_bill_was_made_of(charged: int) -> None:
    async def scenario() -> None:
        store = room_for(1)
        usage = Usage(
            9, 4, 5, audio_input_tokens=8, audio_cache_read_tokens=3, tool_uses={ServerTool.WEB_SEARCH: 2},
            cost=Money(charged),
        )  # fmt: skip
        async with await take(ledger_on(store)) as hold:
            hold.dispatch()
            hold.capture(Money(77), usage)
        assert json.loads(json.loads(store.lines[-1].detail)["usage"]) == {
            "input": 9, "output": 4, "cache_read": 5, "audio_input": 8, "audio_cache_read": 3, "web_search": 2,
            "charged_nanodollars": charged,
        }  # fmt: skip

    run_virtual(scenario())


def test_a_presumed_call_is_booked_whole() -> None:
    async def scenario() -> None:
        store = room_for(1)
        async with await take(ledger_on(store)) as hold:
            hold.dispatch()
            hold.presume("the stream broke off")
        assert store.account(USD).captured == HELD.usd
        assert store.books.holds["c1"].why == hold.why == "the stream broke off"

    run_virtual(scenario())


def test_a_voided_call_costs_nothing() -> None:
    async def scenario() -> None:
        store = room_for(1)
        async with await take(ledger_on(store)) as hold:
            hold.dispatch()
            hold.void("the provider answered 500")
        assert (state_of(store), store.account(USD).captured) == ("void", 0)
        assert hold.why == "the provider answered 500"

    run_virtual(scenario())


@pytest.mark.parametrize(("is_sent", "state"), [(True, "captured"), (False, "void")])
def test_forgetting_is_safe(is_sent: bool, state: str) -> None:
    async def scenario() -> None:
        store = room_for(1)

        async def careless() -> None:
            async with await take(ledger_on(store)) as hold:
                assert hold.why == ""
                if is_sent:
                    hold.dispatch()
                raise ValueError("bug")

        with pytest.raises(ValueError, match="bug"):
            await careless()
        assert state_of(store) == state
        assert store.account(USD).captured == (HELD.usd if is_sent else 0)

    run_virtual(scenario())


def test_leaving_a_hold_twice_settles_it_once() -> None:
    async def scenario() -> None:
        store = room_for(1)
        hold = await take(ledger_on(store))
        async with hold:
            hold.dispatch()
        async with hold:
            pass
        assert [type(op) for op in store.submitted[-2:]] != [Settle, Settle]

    run_virtual(scenario())


def test_a_hold_pays_for_one_dispatch_only() -> None:
    async def scenario() -> None:
        hold = await take(ledger_on(room_for(1)))
        async with hold:
            hold.dispatch()
            with pytest.raises(BrokenInvariantError, match="one dispatch"):
                hold.dispatch()
        other = await take(ledger_on(room_for(1)))
        async with other:
            other.void("changed my mind")
            with pytest.raises(BrokenInvariantError, match="pays for nothing"):
                other.dispatch()

    run_virtual(scenario())


def test_the_end_of_a_hold_is_said_once_and_a_cost_needs_a_dispatch() -> None:
    async def scenario() -> None:
        store = room_for(1)
        async with await take(ledger_on(store)) as hold:
            with pytest.raises(BrokenInvariantError, match="was sent"):
                hold.capture(Money(1), USAGE)
            hold.dispatch()
            hold.capture(Money(1), USAGE)
            with pytest.raises(BrokenInvariantError, match="said once"):
                hold.void("no")
        assert store.account(USD).captured == 1

    run_virtual(scenario())


def test_nobody_else_makes_a_hold() -> None:
    async def scenario() -> None:
        ledger = ledger_on(room_for(1))
        hold = await take(ledger)
        with pytest.raises(BrokenInvariantError, match=r"Ledger\.authorize"):
            OpenHold(QUOTE, hold.granted, authorize(), 0.0, ledger, object())

    run_virtual(scenario())


# ---- cancellation ---------------------------------------------------------------------------------------------------


async def one_call(ledger: Ledger, gate: asyncio.Event) -> None:
    async with await take(ledger) as hold:
        hold.dispatch()
        await gate.wait()
        hold.capture(Money(5), USAGE)


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("cancels", [1, 2, 3])
def test_museum_34_a_call_cancelled_at_any_point_is_settled_once(turns: int, cancels: int) -> None:
    async def scenario() -> None:
        store = room_for(1)
        ledger = ledger_on(store)
        gate = asyncio.Event()
        gate.set()
        task = asyncio.create_task(one_call(ledger, gate))
        for _ in range(turns):
            await asyncio.sleep(0)
        for _ in range(cancels):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(task, return_exceptions=True)
        await ledger.drain()
        assert nothing_is_held(store)
        ends = [op for op in store.submitted if isinstance(op, Settle | Void)]
        assert len(ends) == (1 if store.submitted[2:] else 0)

    run_virtual(scenario())


def test_a_settlement_outlives_a_caller_that_is_cancelled_twice() -> None:
    async def scenario() -> None:
        store = room_for(1)
        ledger = ledger_on(store)
        gate = asyncio.Event()
        task = asyncio.create_task(one_call(ledger, gate))
        await settle_down()
        store.gate.clear()
        gate.set()
        await settle_down()
        task.cancel()
        await settle_down()
        task.cancel()
        assert ledger.unsettled == 1
        store.gate.set()
        await ledger.drain()
        assert (state_of(store), store.account(USD).captured, task.cancelled()) == ("captured", 5, True)

    run_virtual(scenario())


def test_a_caller_that_leaves_while_the_store_grants_leaves_nothing_taken() -> None:
    async def scenario() -> None:
        store = room_for(1)
        ledger = ledger_on(store)
        store.gate.clear()
        task = asyncio.create_task(take(ledger))
        await settle_down()
        task.cancel()
        await settle_down()
        store.gate.set()
        await ledger.drain()
        assert task.cancelled()
        assert state_of(store) == "void"
        assert nothing_is_held(store)

    run_virtual(scenario())


# ---- lost replies ---------------------------------------------------------------------------------------------------


def test_a_lost_reply_is_asked_again_and_finds_its_hold() -> None:
    async def scenario() -> None:
        store = room_for(1)
        store.lose_after.extend([LedgerUnavailableError("reset"), LedgerUnavailableError("reset")])
        hold = await take(ledger_on(store))
        assert hold.granted.state is HoldState.OPEN
        assert store.account(USD).held == HELD.usd

    run_virtual(scenario())


def test_when_no_reply_comes_the_hold_is_voided_and_the_caller_told() -> None:
    async def scenario() -> None:
        store = room_for(1)
        ledger = ledger_on(store)
        store.lose_after.extend([LedgerUnavailableError("reset")] * 3)
        with pytest.raises(LedgerUnavailableError):
            await ledger.authorize(QUOTE, "c1", PATH)
        await ledger.drain()
        assert nothing_is_held(store)
        assert state_of(store) == "void"

    run_virtual(scenario())


def test_a_ledger_that_certainly_wrote_nothing_leaves_nothing_to_void() -> None:
    async def scenario() -> None:
        store = room_for(1)
        ledger = ledger_on(store)
        store.lose_before.extend([NotWrittenError("disk full")] * 3)
        with pytest.raises(LedgerUnavailableError):
            await ledger.authorize(QUOTE, "c1", PATH)
        assert ledger.unsettled == 0
        assert "c1" not in store.books.holds

    run_virtual(scenario())


def test_a_settlement_is_tried_until_it_is_written() -> None:
    async def scenario() -> None:
        store = room_for(1)
        ledger = ledger_on(store)
        async with await take(ledger) as hold:
            hold.dispatch()
            hold.capture(Money(5), USAGE)
            store.lose_before.extend([LedgerUnavailableError("disk full")] * 20)
        assert store.account(USD).captured == 5
        assert asyncio.get_running_loop().time() > 20

    run_virtual(scenario())


def test_a_settlement_whose_reply_is_lost_is_booked_once() -> None:
    async def scenario() -> None:
        store = room_for(1)
        async with await take(ledger_on(store)) as hold:
            hold.dispatch()
            hold.capture(Money(5), USAGE)
            store.lose_after.append(LedgerUnavailableError("reset"))
        assert store.account(USD).captured == 5
        assert hold.settled is not None
        assert hold.settled.repeated

    run_virtual(scenario())


def test_a_settlement_in_conflict_is_reported_and_over(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        store = room_for(1)
        async with await take(ledger_on(store)) as hold:
            hold.dispatch()
            store.do(Settle("c1", "w1", Amounts(9, 1, 9), Basis.METERED, PATH, HELD))
            hold.capture(Money(5), USAGE)
        assert hold.settled is None
        assert "conflict" in caplog.text

    run_virtual(scenario())


def test_a_settlement_that_breaks_an_invariant_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        store = room_for(1)
        ledger = ledger_on(store)

        async def wrong() -> None:
            async with await take(ledger) as hold:
                hold.dispatch()
                hold.capture(Money(-5), USAGE)

        with pytest.raises(BrokenInvariantError):
            await wrong()
        await ledger.drain()
        await settle_down()
        assert "broke an invariant" in caplog.text
        assert store.account(USD).state == "stopped"

    run_virtual(scenario())


def test_a_worker_that_was_declared_dead_goes_on_under_a_new_name() -> None:
    async def scenario() -> None:
        store = room_for(2)
        ledger = ledger_on(store)
        hold = await take(ledger)
        store.dead = ("w1",)
        store.do(Expire("w1"))
        with pytest.raises(LedgerUnavailableError, match="ended"):
            await ledger.authorize(QUOTE, "c1", PATH)
        other = await ledger.authorize(QUOTE, "c2", PATH)
        assert isinstance(other, OpenHold)
        assert (hold.worker, other.worker) == ("w1", "w1+")
        async with hold:
            hold.dispatch()
            hold.capture(Money(100), USAGE)
        assert hold.settled is not None
        assert hold.settled.captured.usd == 100
        async with other:
            other.void("not sent")
        assert store.account(USD).captured == 100
        assert store.account(USD).held == 0

    run_virtual(scenario())


def test_what_was_never_sent_is_given_back_after_the_worker_was_declared_dead() -> None:
    async def scenario() -> None:
        store = room_for(1)
        ledger = ledger_on(store)
        hold = await take(ledger)
        store.dead = ("w1",)
        store.do(Expire("w1"))
        assert store.account(USD).captured == HELD.usd
        async with hold:
            hold.void("the upstream was not reached")
        assert (store.account(USD).captured, store.account(USD).held) == (0, 0)

    run_virtual(scenario())


def test_a_process_that_is_always_declared_dead_says_so() -> None:
    async def scenario() -> None:
        store = room_for(1)
        store.books.fenced.update({"w1", "w1+", "w1++", "w1+++"})
        with pytest.raises(LedgerUnavailableError, match="again and again"):
            await Ledger(store, 0).authorize(QUOTE, "c1", PATH)

    run_virtual(scenario())


def test_a_hold_is_dispatched_unseen_only_while_it_is_fresh() -> None:
    async def scenario() -> None:
        store = room_for(2)
        ledger = ledger_on(store)
        hold = await take(ledger)
        asked = len(store.submitted)
        await hold.confirm()
        assert len(store.submitted) == asked
        await asyncio.sleep(FRESH_SECONDS + 1)
        await hold.confirm()
        assert len(store.submitted) == asked + 1
        store.dead = ("w1",)
        store.do(Expire("w1"))
        await asyncio.sleep(FRESH_SECONDS + 1)
        with pytest.raises(LedgerUnavailableError, match="ended"):
            await hold.confirm()
        store.books.holds.clear()
        with pytest.raises(LedgerUnavailableError, match="declared dead"):
            await hold.confirm()

    run_virtual(scenario())


@pytest.mark.parametrize("left", [0, 600_000, 2_000_000])
def test_a_hold_that_the_ledger_has_lost_is_not_dispatched_on_another_grant(left: int) -> None:
    async def scenario() -> None:
        store = room_for(1)
        ledger = ledger_on(store)
        hold = await take(ledger)
        # A backup was put back and accepted: the hold is not in it, and others have spent meanwhile.
        store.books.holds.clear()
        for balance in store.books.names.values():
            balance.held = 0
        store.books.names[USD].limit = store.books.names[USD].ceiling = left
        await asyncio.sleep(FRESH_SECONDS + 1)
        if left > HELD.usd:
            # All of it is set aside once more, which is as good.
            await hold.confirm()
            assert store.account(USD).held == HELD.usd
        else:
            with pytest.raises(LedgerUnavailableError, match="does not have the hold"):
                await hold.confirm()
        async with hold:
            pass
        assert nothing_is_held(store)
        assert state_of(store) == "void"

    run_virtual(scenario())


def test_an_answer_that_is_none_is_a_bug() -> None:
    async def scenario() -> None:
        store = room_for(1)

        class Odd(MemoryStore):
            async def submit(self, operation: Any) -> Any:
                return store.do(Expire("w1")) and store.do(Void("x", "w1", "x"))

        with pytest.raises(BrokenInvariantError, match="not an answer"):
            await Ledger(Odd(), 0).authorize(QUOTE, "c1", PATH)

    run_virtual(scenario())


# ---- waiting --------------------------------------------------------------------------------------------------------


def start(ledger: Ledger, call_id: str, quote: Any = QUOTE) -> asyncio.Task[OpenHold | Denied]:
    return asyncio.create_task(ledger.authorize(quote, call_id, PATH))


async def finish(hold: OpenHold, cost: int = 0) -> None:
    async with hold:
        hold.dispatch()
        hold.capture(Money(cost), USAGE)


def waiting(
    scenario: Callable[[MemoryStore, Ledger, OpenHold], Coroutine[Any, Any, None]], seconds: float = 30
) -> None:
    """Run a scenario that begins with one hold that leaves no room for a second."""

    async def run() -> None:
        store = room_for(1)
        ledger = ledger_on(store, seconds)
        first = await take(ledger, "first")
        await scenario(store, ledger, first)
        await ledger.drain()
        assert ledger.waiting == 0

    run_virtual(run())


def test_museum_10_what_others_hold_is_waited_for_and_then_had() -> None:
    async def scenario(store: MemoryStore, ledger: Ledger, first: OpenHold) -> None:
        task = start(ledger, "second")
        await settle_down()
        assert ledger.waiting == 1
        await finish(first)
        hold = await task
        assert isinstance(hold, OpenHold)
        assert asyncio.get_running_loop().time() < 0.05, "woken by the settlement, not by the tick"

    waiting(scenario)


def test_who_came_first_goes_first_and_newcomers_queue_behind() -> None:
    async def scenario(store: MemoryStore, ledger: Ledger, first: OpenHold) -> None:
        order: list[str] = []

        async def loop(call_id: str) -> None:
            hold = await take(ledger, call_id)
            order.append(call_id)
            await finish(hold)

        tasks = []
        for number in range(6):
            tasks.append(asyncio.create_task(loop(f"c{number}")))
            await settle_down()
        await finish(first)
        tasks.append(asyncio.create_task(loop("late")))
        await asyncio.gather(*tasks)
        assert order == [f"c{number}" for number in range(6)] + ["late"]

    waiting(scenario)


def test_a_newcomer_does_not_overtake_even_when_there_is_room_for_it() -> None:
    async def scenario(store: MemoryStore, ledger: Ledger, first: OpenHold) -> None:
        store.books.names[USD].limit = store.books.names[USD].ceiling = HELD.usd + FIXED + 200_000
        large = start(ledger, "large")
        await settle_down()
        small = start(ledger, "small", a_quote(100, floor=50))
        await settle_down()
        assert ledger.waiting == 2
        await finish(first)
        assert isinstance(await large, OpenHold)
        assert isinstance(await small, OpenHold)

    waiting(scenario)


def test_what_costs_nothing_does_not_queue_for_money() -> None:
    async def scenario(store: MemoryStore, ledger: Ledger, first: OpenHold) -> None:
        task = start(ledger, "second")
        await settle_down()
        # The line itself is asked: a quote of zero would need a price list of its own.
        line = ledger._queues
        free = ask_of(QUOTE)
        assert line.ahead_of(authorize("x", free)) is not None
        zero = replace(free, usd_fixed=0, picodollars_per_output_token=0)
        assert line.ahead_of(authorize("x", zero)) is None
        assert line.ahead_of(authorize("x", free, scopes=("run:other",))) is None
        await finish(first)
        await task

    waiting(scenario)


def test_a_wait_ends_with_the_answer_that_it_is_held() -> None:
    async def scenario(store: MemoryStore, ledger: Ledger, first: OpenHold) -> None:
        answer = await ledger.authorize(QUOTE, "second", PATH)
        assert isinstance(answer, Denied)
        assert answer.reason is Reason.HELD
        assert 30 <= asyncio.get_running_loop().time() < 31
        assert store.submitted[-1].is_last_try  # type: ignore[union-attr]
        await finish(first)

    waiting(scenario)


def test_the_last_try_takes_less_than_comfort() -> None:
    async def scenario(store: MemoryStore, ledger: Ledger, first: OpenHold) -> None:
        store.books.names[USD].limit = store.books.names[USD].ceiling = HELD.usd + FIXED + 200_000
        answer = await ledger.authorize(QUOTE, "second", PATH)
        assert isinstance(answer, OpenHold)
        assert answer.granted.output_tokens == 200
        await finish(first)

    waiting(scenario)


def test_without_waiting_the_first_try_is_the_last() -> None:
    async def scenario(store: MemoryStore, ledger: Ledger, first: OpenHold) -> None:
        answer = await ledger.authorize(QUOTE, "second", PATH)
        assert isinstance(answer, Denied)
        assert answer.reason is Reason.HELD
        assert asyncio.get_running_loop().time() == 0
        await finish(first)

    waiting(scenario, seconds=0)


def test_money_that_another_process_gives_back_is_seen_by_the_tick() -> None:
    async def scenario(store: MemoryStore, ledger: Ledger, first: OpenHold) -> None:
        task = start(ledger, "second")
        await settle_down()
        store.do(Void("first", "w1", "as another process would"))
        assert isinstance(await task, OpenHold)
        assert asyncio.get_running_loop().time() == pytest.approx(0.05)

    waiting(scenario)


def test_who_waits_for_spent_money_is_told_so() -> None:
    async def scenario(store: MemoryStore, ledger: Ledger, first: OpenHold) -> None:
        tasks = [start(ledger, "second"), start(ledger, "third")]
        await settle_down()
        await finish(first, cost=HELD.usd)
        for answer in await asyncio.gather(*tasks):
            assert isinstance(answer, Denied)
            assert answer.reason is Reason.EXHAUSTED
        assert asyncio.get_running_loop().time() < 0.05

    waiting(scenario)


@pytest.mark.parametrize("turns", range(8))
def test_who_leaves_the_line_leaves_nothing_taken_and_lets_the_next_one_try(turns: int) -> None:
    async def scenario(store: MemoryStore, ledger: Ledger, first: OpenHold) -> None:
        second, third = start(ledger, "second"), start(ledger, "third")
        await settle_down()
        ending = asyncio.create_task(finish(first))
        await settle_down(turns)
        second.cancel()
        await ending
        hold = await third
        assert isinstance(hold, OpenHold)
        await asyncio.gather(second, return_exceptions=True)
        if not second.cancelled():
            second_hold = second.result()
            assert isinstance(second_hold, OpenHold)
            await finish(second_hold)
        await finish(hold)
        await ledger.drain()
        assert nothing_is_held(store)

    waiting(scenario)


def test_the_line_is_bounded() -> None:
    async def scenario() -> None:
        store = room_for(1)
        ledger = Ledger(store, 30, waiters_max=1)
        await take(ledger, "first")
        second = start(ledger, "second")
        await settle_down()
        third = await ledger.authorize(QUOTE, "third", PATH)
        assert isinstance(third, Denied)
        assert third.reason is Reason.HELD
        assert asyncio.get_running_loop().time() < 1
        await second

    run_virtual(scenario())


def test_a_call_that_meets_another_full_account_moves_to_that_line() -> None:
    async def scenario() -> None:
        store = opened(Limits(usd=HELD.usd), Limits(usd=2 * HELD.usd + FIXED + 100_000))
        store.do(OpenScope("run:r2", KEY, Limits()))
        ledger = ledger_on(store)
        on_run = await take(ledger, "a")
        on_key = await take(ledger, "b", scopes=(KEY, "run:r2"))
        mover = start(ledger, "mover")
        await settle_down()
        # The run has room for the mover, but by now the key has not.
        store.books.names[USD].limit = store.books.names[USD].ceiling = 2 * HELD.usd
        await asyncio.sleep(0.2)
        behind = asyncio.create_task(ledger.authorize(QUOTE, "behind", (KEY, "run:r2")))
        await asyncio.sleep(0.2)
        assert ledger.waiting == 2
        assert not mover.done()
        await finish(on_key)
        assert isinstance(await mover, OpenHold)
        await finish(on_run)
        assert isinstance(await behind, OpenHold)

    run_virtual(scenario())


def test_a_whole_line_moves_when_another_account_of_the_scope_fills_up() -> None:
    async def scenario() -> None:
        store = opened(Limits(usd=10 * HELD.usd, calls=1))
        ledger = ledger_on(store)
        first = await take(ledger, "first")
        movers = [start(ledger, "a"), start(ledger, "b")]
        await settle_down()
        calls, usd = store.books.names[f"{RUN}/calls/lifetime"], store.books.names[USD]
        calls.limit = calls.ceiling = 9
        usd.limit = usd.ceiling = HELD.usd
        await asyncio.sleep(1)
        assert ledger.waiting == 2
        await finish(first)
        for mover in movers:
            hold = await mover
            assert isinstance(hold, OpenHold)
            await finish(hold)
        assert nothing_is_held(store)
        assert asyncio.get_running_loop().time() < 2

    run_virtual(scenario())


def test_parallel_calls_under_a_small_cap_all_finish_in_the_end() -> None:
    async def scenario() -> None:
        store = room_for(2, extra=700_000)
        ledger = ledger_on(store, 600)
        done = 0

        async def agent(name: int) -> None:
            nonlocal done
            for number in range(5):
                hold = await take(ledger, f"{name}-{number}")
                async with hold:
                    hold.dispatch()
                    await asyncio.sleep(0.2)
                    hold.capture(Money(1000), USAGE)
                done += 1

        await asyncio.gather(*(agent(name) for name in range(16)))
        assert done == 80
        assert nothing_is_held(store)
        assert store.account(USD).captured == 80_000

    run_virtual(scenario())


def test_who_asks_for_now_is_told_what_is_missing_and_does_not_wait() -> None:
    async def scenario() -> None:
        store = room_for(1)
        ledger = ledger_on(store)
        first = await ledger.authorize_now(QUOTE, "c1", PATH)
        assert isinstance(first, OpenHold)
        denied = await ledger.authorize_now(QUOTE, "c2", PATH)
        assert isinstance(denied, Denied)
        assert denied.reason is Reason.HELD
        assert asyncio.get_running_loop().time() == 0
        waiting = asyncio.create_task(ledger.authorize(QUOTE, "c3", PATH))
        await settle_down()
        # Not past those who wait, either.
        behind = await ledger.authorize_now(a_quote(1, floor=1), "c4", PATH)
        assert isinstance(behind, Denied)
        async with first:
            first.void("not sent")
        third = await waiting
        assert isinstance(third, OpenHold)
        async with third:
            third.void("not sent")
        assert nothing_is_held(store)

    run_virtual(scenario())
