"""Runs that nobody uses are found and stopped, and go on when somebody lets them; on every store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from test_store_contract import ENGINES, Hands

from bursar.clock import SECOND, Instant
from bursar.edge.admin.books import set_state
from bursar.edge.idle import IdleHours, stop_idle
from bursar.ledger.account import AccountState, Ask, Authorize, Limits, OpenScope, SetState, Void
from bursar.ledger.store import IdleRun, Store

HOUR = 3600
ASK = Ask(100, 40, 0, 1, 10, 10, 1, False)
A_DAY = IdleHours(24, {})


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest_asyncio.fixture(params=sorted(ENGINES))
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Hands) -> AsyncIterator[Store]:
    made = ENGINES[request.param](tmp_path, clock)
    await made.start()
    await made.submit(OpenScope("key:ci", "", Limits()))
    for run in ("a", "b", "c"):
        await made.submit(OpenScope(f"run:{run}", "key:ci", Limits(calls=9)))
    yield made
    await made.close()


def later(clock: Hands, hours: int) -> None:
    clock.instant = Instant(clock.instant + hours * HOUR * SECOND)


async def stopped(store: Store) -> list[str]:
    return sorted({one.scope for one in await store.accounts() if one.state is AccountState.STOPPED})


async def test_a_run_is_idle_since_it_was_opened_or_used_and_never_while_a_call_is_in_flight(
    store: Store, clock: Hands
) -> None:
    path = ("run:b", "key:ci")
    await store.submit(Authorize("c-1", store.worker, path, ASK, "m1", "openai"))
    later(clock, 5)
    await store.use_run("run:c")
    await store.use_run("run:nobody")
    later(clock, 1)
    assert await store.idle_runs(6 * HOUR) == (IdleRun("run:a", "key:ci", 6 * HOUR),)
    assert await store.idle_runs(6 * HOUR + 1) == ()
    await store.submit(Void("c-1", store.worker, "never sent"))
    assert [one.scope for one in await store.idle_runs(6 * HOUR)] == ["run:a", "run:b"]
    assert [one.scope for one in await store.idle_runs(HOUR, after="run:a")] == ["run:b", "run:c"]


async def test_an_idle_run_is_stopped_by_name_and_goes_on_when_it_is_resumed(store: Store, clock: Hands) -> None:
    later(clock, 23)
    assert await stop_idle(store, A_DAY) == 0
    await store.use_run("run:a")
    later(clock, 1)
    assert await stop_idle(store, A_DAY) == 2
    assert await stopped(store) == ["run:b", "run:c"]
    by = [entry.detail["by"] async for entry in store.entries() if entry.kind == "state"]
    assert by == ["idle", "idle"]
    assert await set_state(store, "b", AccountState.OPEN, "ann") is None
    assert await stop_idle(store, A_DAY) == 0
    assert await stopped(store) == ["run:c"]
    assert await store.audit() == ()


async def test_keys_may_have_hours_of_their_own_for_their_runs(store: Store, clock: Hands) -> None:
    await store.submit(OpenScope("run:long", "key:slow", Limits(calls=1)))
    await store.submit(OpenScope("run:ever", "key:ever", Limits(calls=1)))
    hours = IdleHours(24, {"key:slow": 48, "key:ever": None})
    later(clock, 30)
    await store.submit(SetState("run:c", AccountState.STOPPED, "ann"))
    assert await stop_idle(store, hours) == 2
    later(clock, 30)
    assert await stop_idle(store, hours) == 1
    assert "run:ever" not in await stopped(store)
    assert await stop_idle(store, IdleHours(None, {})) == 0
