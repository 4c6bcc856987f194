"""The holds of dead workers are captured, again and again, and a ledger in trouble does not end that."""

from __future__ import annotations

import asyncio

import pytest
from ledger_kit import authorize, opened, run_virtual

from bursar.ledger.reaper import reap, reap_once
from bursar.ledger.store import LedgerUnavailableError
from bursar.money import BrokenInvariantError


def test_every_dead_worker_is_reaped_once() -> None:
    async def scenario() -> None:
        store = opened()
        store.do(authorize("c1"))
        store.do(authorize("c2", worker="w2"))
        store.dead = ("w2",)
        assert await reap_once(store) == 1
        assert await reap_once(store) == 0
        assert store.books.holds["c2"].state == "expired"
        assert store.books.holds["c1"].state == "open"

    run_virtual(scenario())


def test_a_worker_that_turns_out_to_live_is_no_harm() -> None:
    async def scenario() -> None:
        store = opened()

        async def wrong() -> tuple[str, ...]:
            return ("w1",)

        store.dead_workers = wrong  # type: ignore[method-assign]
        store.do(authorize("c1"))
        assert await reap_once(store) == 0
        assert store.books.holds["c1"].state == "open"

    run_virtual(scenario())


@pytest.mark.parametrize("trouble", [LedgerUnavailableError("disk full"), BrokenInvariantError("I1")])
def test_the_reaper_goes_on_after_trouble(trouble: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        store = opened()
        store.do(authorize("c1"))
        store.dead = ("w1",)
        store.lose_before.append(trouble)
        task = asyncio.create_task(reap(store, 5))
        await asyncio.sleep(4)
        assert store.books.holds["c1"].state == "open"
        await asyncio.sleep(12)
        assert store.books.holds["c1"].state == "expired"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert "could not be captured" in caplog.text
        assert "1 holds of dead workers" in caplog.text

    run_virtual(scenario())
