"""What every store remembers of writes that are sent twice, and how it gives long lists in pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from test_store_contract import ENGINES, Hands

from bursar.clock import SECOND, Instant
from bursar.ledger.account import Ask, Authorize, HoldState, Limits, OpenScope, Void
from bursar.ledger.store import ANSWER_KEPT, ANSWER_PENDING, Said, Store

ASK = Ask(100, 40, 0, 1, 10, 10, 1, False)


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest_asyncio.fixture(params=sorted(ENGINES))
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Hands) -> AsyncIterator[Store]:
    make: Callable[[Path, Hands], Store] = ENGINES[request.param]
    made = make(tmp_path, clock)
    await made.start()
    await made.submit(OpenScope("key:ci", "", Limits()))
    yield made
    await made.close()


async def test_a_name_is_claimed_by_one_and_its_answer_is_given_to_all_others(store: Store) -> None:
    claims = await asyncio.gather(*(store.recall("ci:n1", f"request {i}") for i in range(4)))
    assert sorted(claims, key=lambda one: one is None) == [Said("request 0", 0, "")] * 3 + [None]
    await store.remember("ci:n1", 201, '{"run":"r1"}')
    await store.remember("ci:n1", 200, "another answer")
    await store.forget("ci:n1")
    assert await store.recall("ci:n1", "request 9") == Said("request 0", 201, '{"run":"r1"}')
    assert await store.recall("other:n1", "request 0") is None


async def test_a_claim_that_is_given_up_is_free_at_once_and_one_that_is_left_after_a_while(
    store: Store, clock: Hands
) -> None:
    assert await store.recall("n", "one") is None
    await store.forget("n")
    assert await store.recall("n", "two") is None
    clock.instant = Instant(clock.instant + ANSWER_PENDING)
    assert await store.recall("n", "three") == Said("two", 0, "")
    clock.instant = Instant(clock.instant + 1)
    assert await store.recall("n", "three") is None


async def test_an_answer_is_kept_for_a_day(store: Store, clock: Hands) -> None:
    assert await store.recall("n", "one") is None
    await store.remember("n", 200, "{}")
    clock.instant = Instant(clock.instant + ANSWER_KEPT)
    assert await store.recall("n", "one") == Said("one", 200, "{}")
    clock.instant = Instant(clock.instant + 1)
    assert await store.recall("n", "one") is None


async def test_runs_come_in_pages_the_newest_first(store: Store, clock: Hands) -> None:
    for run, seconds in (("b", 0), ("a", 0), ("c", 1), ("e", 2), ("d", 2), ("@own", 0)):
        clock.instant = Instant(clock.instant + seconds * SECOND)
        await store.submit(OpenScope(f"run:{run}", "key:ci", Limits(usd=1), label=run))
    everything = [row.run for row in await store.runs(9)]
    pages: list[str] = []
    while page := await store.runs(2, pages[-1] if pages else ""):
        pages += [row.run for row in page]
    assert pages == everything
    assert sorted(pages) == ["a", "b", "c", "d", "e"]  # and not the gateway's own
    assert await store.run("@own") is not None
    assert await store.runs(9, "nobody") == ()
    one = await store.run("c")
    assert one is not None
    assert (one.run, one.label, one.owner, len(one.accounts)) == ("c", "c", "key:ci", 2)
    assert await store.run("nobody") is None


async def test_holds_come_in_pages_the_newest_first(store: Store) -> None:
    for number in range(5):
        await store.submit(Authorize(f"c{number}", store.worker, ("key:ci",), ASK, "m", "u"))
    await store.submit(Void("c1", store.worker, "never sent"))
    assert [hold.call_id for hold in await store.holds(None, 2, "c4")] == ["c3", "c2"]
    assert [hold.call_id for hold in await store.holds(HoldState.OPEN, 9, "c3")] == ["c2", "c0"]
    assert await store.holds(None, 9, "c0") == await store.holds(None, 9, "nobody") == ()
