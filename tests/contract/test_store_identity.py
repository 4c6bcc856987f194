"""Many calls at once, each on six accounts and more, at several gateways of one ledger; on every store."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from test_store_contract import ENGINES, NOON, Hands

from bursar.call import Usage
from bursar.edge.callers import Caller, Callers, Unauthorized, digest, new_secret, template_to_json
from bursar.edge.identity import AccountPath, Asked, Claims, account_path, claims
from bursar.edge.runs import Runs
from bursar.ledger.account import (
    AccountState,
    Denied,
    Limits,
    OpenScope,
    Reason,
    SetLimit,
    SetState,
    Taken,
    TooManyRuns,
    Unit,
)
from bursar.ledger.hold import Ledger, OpenHold
from bursar.ledger.store import Store
from bursar.money import Money

sys.path.insert(0, str(Path(__file__).parents[1] / "ledger"))

from ledger_kit import a_quote

CALLS, RUNS, JOBS = 64, 5, 3
KEY = Caller("ci", "", Limits(calls=1000), runs_per_hour_max=None, team="red", user="eve", tags=("env=prod",))
CENT = 10_000_000


@pytest_asyncio.fixture(params=sorted(ENGINES))
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Store, Store]]:
    """Two gateways on one ledger."""
    made = [ENGINES[request.param](tmp_path, Hands()) for _ in range(2)]
    for one in made:
        await one.start()
    await made[0].submit(OpenScope(KEY.scope, "", Limits()))
    yield made[0], made[1]
    for one in made:
        await one.close()


async def path_of(runs: Runs, caller: Caller, run: str, tags: str = "") -> AccountPath | Taken | TooManyRuns:
    headers = {"x-bursar-run": run, **({"x-bursar-tags": tags} if tags else {})}
    claimed = claims(caller, Asked("", headers, None, ()), NOON)
    assert isinstance(claimed, Claims)
    path = await account_path(runs, caller, claimed)
    assert isinstance(path, (AccountPath, Taken, TooManyRuns))
    return path


async def one_call(ledger: Ledger, runs: Runs, number: int, chance: random.Random) -> str:
    """Make a call as the gateway does; give its id where it was let through, and nothing where it was not."""
    path = await path_of(runs, KEY, f"r{number % RUNS}", f"job={number % JOBS}")
    assert isinstance(path, AccountPath)
    call_id = f"c{number}"
    quote = a_quote(chance.randrange(100, 3000))
    hold = await ledger.authorize(quote, call_id, path.scopes, path.also)
    if isinstance(hold, Denied):
        return ""
    async with hold:
        if chance.random() < 0.8:
            hold.dispatch()
            if chance.random() < 0.8:
                tokens = chance.randrange(hold.granted.output_tokens + 1)
                hold.capture(Money(tokens * 1000), Usage(0, tokens))
    return call_id


async def random_limits(store: Store, chance: random.Random) -> dict[str, int]:
    """Set a limit in one unit on everybody; give them by account."""
    scopes = ["org", "team:red", "user:eve", KEY.scope, "tag:env=prod", *(f"tag:job={one}" for one in range(JOBS))]
    for run in range(RUNS):
        await store.submit(OpenScope(f"run:r{run}", KEY.scope, KEY.template))
        scopes.append(f"run:r{run}")
    for scope in scopes:
        share = 4 if scope.startswith(("run:", "tag:job")) else 1
        if chance.random() < 0.5:
            await store.submit(SetLimit(scope, Unit.CALLS, chance.randrange(10, 60) // share, opens=True))
        else:
            await store.submit(SetLimit(scope, Unit.USD, chance.randrange(2, 10) * CENT // share, opens=True))
    return {one.id: one.limit for one in await store.accounts() if one.limit is not None}


@pytest.mark.parametrize("seed", range(3))
async def test_no_account_is_ever_over_and_a_refused_call_takes_nothing(stores: tuple[Store, Store], seed: int) -> None:
    chance = random.Random(seed)
    limits = await random_limits(stores[0], chance)
    sides = [(Ledger(store, 0), Runs(store)) for store in stores]
    made = await asyncio.gather(
        *(one_call(*sides[number % 2], number, random.Random(seed * 1000 + number)) for number in range(CALLS))
    )
    let_through = {call for call in made if call}
    assert 0 < len(let_through) < CALLS, f"seed {seed} refuses nobody, or everybody"
    used: Counter[str] = Counter()
    held: dict[str, tuple[int, int, int]] = {}
    async for entry in stores[0].entries():
        # The entry of a void says what was given back.
        amounts = (0, 0, 0) if entry.kind == "void" else (entry.usd, entry.calls, entry.tokens)
        before = held.get(entry.call_id, (0, 0, 0))
        for account in entry.accounts if entry.call_id else ():
            unit = list(Unit).index(Unit(account.rsplit("/", 2)[1]))
            used[account] += amounts[unit] - before[unit]
            assert used[account] <= limits.get(account, 2**63), (seed, entry)
        if entry.kind == "authorize":
            held[entry.call_id] = amounts
            scopes = {account.rsplit("/", 2)[0] for account in entry.accounts}
            number = int(entry.call_id[1:])
            mine = {f"run:r{number % RUNS}", f"tag:job={number % JOBS}"}
            assert scopes == {"org", "team:red", "user:eve", KEY.scope, "tag:env=prod"} | mine
    assert held.keys() == let_through
    for row in await stores[0].accounts():
        assert (row.held, row.overrun, row.captured) == (0, 0, used[row.id]), (seed, row)
    assert await stores[0].audit() == ()


async def test_renaming_runs_at_full_speed_yields_no_money_and_no_more_runs_than_the_key_may_open(
    stores: tuple[Store, Store],
) -> None:
    caller = replace(KEY, template=Limits(calls=3), runs_per_hour_max=10)
    await stores[0].submit(SetLimit(caller.scope, Unit.CALLS, 7))
    sides = [(Ledger(store, 0), Runs(store)) for store in stores]

    async def attempt(number: int) -> str:
        ledger, runs = sides[number % 2]
        path = await path_of(runs, caller, f"name-{number}")
        if not isinstance(path, AccountPath):
            return type(path).__name__
        hold = await ledger.authorize(a_quote(), f"c{number}", path.scopes, path.also)
        if isinstance(hold, Denied):
            return hold.scope
        async with hold:
            hold.dispatch()
        return "sent"

    told = Counter(await asyncio.gather(*(attempt(number) for number in range(100))))
    assert told == {"sent": 7, caller.scope: 3, "TooManyRuns": 90}
    assert len(await stores[0].runs()) == 10


async def test_what_an_operator_does_is_met_by_the_next_call_of_the_other_gateway(stores: tuple[Store, Store]) -> None:
    here, there = stores
    secret = new_secret()
    await here.put_key("ci", digest(secret), "", template_to_json(Limits(calls=100)))
    ledger, runs, callers = Ledger(there, 0), Runs(there), Callers(there, {}, {}, Hands())
    numbers = iter(range(100))

    async def attempt() -> str:
        caller = await callers.identify({"authorization": f"Bearer {secret}"})
        if isinstance(caller, Unauthorized):
            return caller.code
        path = await path_of(runs, caller, "r1", "env=dev")
        assert isinstance(path, AccountPath)
        hold = await ledger.authorize(a_quote(), f"c{next(numbers)}", path.scopes, path.also)
        if isinstance(hold, Denied):
            return f"{hold.reason} {hold.scope}"
        assert isinstance(hold, OpenHold)
        async with hold:
            hold.dispatch()
        return "sent"

    assert await attempt() == "sent"
    for scope in ("run:r1", "key:ci", "org", "tag:env=dev", "model:m1", "model:m*", "upstream:openai"):
        await here.submit(SetLimit(scope, Unit.CALLS, 0, opens=True))
        assert await attempt() == f"{Reason.EXHAUSTED} {scope}"
        await here.submit(SetLimit(scope, Unit.CALLS, None))
        await here.submit(SetState(scope, AccountState.STOPPED))
        assert await attempt() == f"{Reason.STOPPED} {scope}"
        await here.submit(SetState(scope, AccountState.OPEN))
        assert await attempt() == "sent"
    await here.put_key("ci", digest(secret), "", template_to_json(Limits(calls=100)), expires_at=NOON)
    assert await attempt() == "invalid_key"
    await here.put_key("ci", digest(secret), "", template_to_json(Limits(calls=100)))
    assert await attempt() == "sent"
    assert await here.revoke_key("ci") == 1
    assert await attempt() == "invalid_key"
