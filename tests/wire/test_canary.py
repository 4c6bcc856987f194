"""The canary: a gateway that would let a call with nothing left through lets none through, and says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bodies import CHAT
from conftest import Wire, wire_up
from scripted import Answer, answer, exchange, play, request

from bursar.edge import canary as room
from bursar.edge.canary import RUN_SCOPE, State
from bursar.edge.runs import Runs
from bursar.edge.webhooks import sentence
from bursar.events import CallGranted
from bursar.ledger import rules
from bursar.ledger.account import AccountState, Authorize, Denied, SetLimit, SetState, Unit
from bursar.ledger.hold import Ledger, OpenHold
from bursar.pricing.quote import Quote

REACHED = "a call with nothing left was sent to a provider"


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    async with wire_up(tmp_path) as made:
        made.provider.script = play(answer(CHAT.reply))
        yield made


async def begin(wire: Wire) -> None:
    await wire.gateway.canary.begin(f"http://127.0.0.1:{wire.port}")


async def readyz(wire: Wire) -> tuple[int, dict[str, object]]:
    got = await exchange(wire.port, request("/readyz", b"", {}, method="GET"))
    return got.status, got.json


async def metrics(wire: Wire) -> dict[str, float]:
    got = await exchange(wire.port, request("/metrics", b"", {}, method="GET"))
    lines = [line.rpartition(" ") for line in got.body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines if "_created" not in name}


async def ask(wire: Wire) -> Answer:
    return await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")


async def told(wire: Wire) -> list[str]:
    return [sentence(row) for row in reversed(await wire.store.outbox.newest())]


def grant_all(path: object, op: Authorize) -> int:
    """Decide on no limit at all."""
    return op.ask.tokens_wanted


_AUTHORIZE_NOW = Ledger.authorize_now


async def charge_the_key_only(
    self: Ledger, quote: Quote, call_id: str, scopes: tuple[str, ...], also: tuple[str, ...] = ()
) -> OpenHold | Denied:
    """Forget the run, as a build in which no run is held to its cap."""
    return await _AUTHORIZE_NOW(self, quote, call_id, scopes[1:], also)


async def nobody_pays(self: Runs, caller: object, named: object) -> tuple[str, ...]:
    raise ZeroDivisionError("a bug on the way to the accounts")


async def test_ready_is_who_has_proven_that_a_spent_cap_refuses_and_says_when(wire: Wire) -> None:
    before = await readyz(wire)
    assert before == (503, before[1])
    assert (before[1]["status"], before[1]["cap_proven_at"]) == ("the cap is not proven yet", None)
    await begin(wire)
    status, said = await readyz(wire)
    assert (status, said["status"], said["canary"]) == (200, "ok", "green")
    assert said["cap_proven_at"] == room.iso(wire.gateway.canary.proven_at or 0)  # type: ignore[arg-type]


async def test_where_the_check_is_unwired_the_next_canary_stops_all_calls_until_one_is_refused_again(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(wire)
    assert (await ask(wire)).status == 200
    with monkeypatch.context() as broken:
        broken.setattr(Ledger, "authorize_now", charge_the_key_only)
        wire.gateway.canary.hurry()
        await wire.until(lambda: wire.gateway.canary.state is State.RED)
        status, said = await readyz(wire)
        assert (status, said["status"], said["why"], said["canary"]) == (503, "canary red", REACHED, "red")
        got = await ask(wire)
        assert (got.status, got.headers["retry-after"]) == (503, "5")
        error = got.json["error"]
        assert isinstance(error, dict)
        assert error["code"] == "ledger_unavailable"
        assert REACHED in error["message"]
        assert (await metrics(wire))["bursar_canary_up"] == 0
        assert len(wire.provider.served) == 1
    wire.gateway.canary.hurry()
    await wire.until(lambda: wire.gateway.canary.state is State.GREEN)
    assert (await ask(wire)).status == 200
    assert (await readyz(wire))[0] == 200
    await wire.gateway.canary.end()
    await wire.gateway.canary.prove()
    worker = wire.store.worker
    assert await told(wire) == [
        f"the canary of worker {worker} is red, and no call is let through there: {REACHED}",
        f"the canary of worker {worker} is green again",
    ]
    assert (await wire.account(RUN_SCOPE)).captured == 0
    assert await wire.audit() == []


@pytest.mark.parametrize(
    ("owner", "name", "broken"), [(Runs, "admit", nobody_pays), (rules, "_affordable_output", grant_all)]
)
async def test_a_bug_on_the_way_is_red_though_nothing_was_sent(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, broken: object
) -> None:
    await begin(wire)
    with monkeypatch.context() as mending:
        mending.setattr(owner, name, broken)
        await wire.gateway.canary.prove()
        assert "was answered 500 internal instead of" in wire.gateway.canary.why
    assert wire.gateway.canary.state is State.RED
    assert (await ask(wire)).status == 503
    # The ledger froze the accounts that were about to break their limit; those of the canary are its own to open again.
    await wire.gateway.canary.prove()
    assert (await ask(wire)).status == 200


async def test_what_somebody_gives_the_canary_makes_it_red_and_is_taken_from_it(wire: Wire) -> None:
    await begin(wire)
    await wire.store.submit(SetLimit(RUN_SCOPE, Unit.USD, 10**9))
    await wire.store.submit(SetLimit(RUN_SCOPE, Unit.CALLS, 5))
    await wire.gateway.canary.prove()
    assert wire.gateway.canary.state is State.RED
    await wire.gateway.canary.prove()
    assert [account.limit for account in await wire.store.accounts(RUN_SCOPE)] == [0, 0]
    assert (await ask(wire)).status == 200


async def test_a_canary_without_an_answer_is_red(wire: Wire) -> None:
    await wire.gateway.canary.begin("http://127.0.0.1:1")
    assert (await readyz(wire))[1]["why"] == "a call with nothing left got no answer within 20 seconds"
    assert (await ask(wire)).status == 503
    assert (await metrics(wire))["bursar_canary_proven_timestamp_seconds"] == 0


async def test_a_ledger_that_is_away_is_not_red(wire: Wire, tmp_path: Path) -> None:
    await begin(wire)
    proven_at = wire.gateway.canary.proven_at
    away = tmp_path / "away.db"
    (tmp_path / "ledger.db").rename(away)
    await wire.gateway.canary.prove()
    status, said = await readyz(wire)
    assert (status, said["status"], said["canary"]) == (503, "ledger unavailable", "green")
    assert wire.gateway.canary.proven_at == proven_at
    away.rename(tmp_path / "ledger.db")
    assert (await ask(wire)).status == 200
    await wire.gateway.canary.prove()
    assert wire.gateway.canary.why == ""
    assert await told(wire) == []


async def test_who_stops_everybody_stops_the_canary_and_has_proven_nothing(wire: Wire) -> None:
    await wire.store.submit(SetLimit("org", Unit.USD, None, opens=True))
    await wire.store.submit(SetState("org", AccountState.STOPPED))
    await begin(wire)
    status, said = await readyz(wire)
    assert (status, said["why"]) == (503, "org is stopped, so no call came as far as its cap")
    assert (await ask(wire)).status == 429
    await wire.store.submit(SetState("org", AccountState.OPEN))
    await wire.gateway.canary.prove()
    assert (await readyz(wire))[0] == 200


async def test_calls_wait_for_the_first_answer(wire: Wire) -> None:
    wire.gateway.canary.expect()
    waiting = asyncio.create_task(ask(wire))
    await wire.until(lambda: bool(wire.gateway.canary._has_answer._waiters))  # type: ignore[attr-defined]
    assert wire.provider.served == []
    await begin(wire)
    assert (await waiting).status == 200


async def test_nobody_sees_the_canary_among_the_calls_or_can_be_one(wire: Wire) -> None:
    await begin(wire)
    await wire.gateway.canary.prove()
    assert [row.run for row in await wire.store.runs()] == []
    row = await wire.store.run(room.RUN)
    assert row is not None
    assert row.calls_refused == 2
    assert [name for name in await metrics(wire) if "refusals" in name] == []
    assert await told(wire) == []
    assert [event for event in wire.events if isinstance(event, CallGranted)] == []
    assert await wire.holds() == ()
    hours = wire.gateway._parts.idle_hours
    assert (hours.of(room.KEY_SCOPE), hours.shortest) == (None, 24)
    named = await wire.post(CHAT.path, CHAT.request, x_bursar_run=room.RUN)
    assert (named.status, named.json["error"]["code"]) == (400, "unreadable")  # type: ignore[index]
    models = await exchange(
        wire.port, request("/v1/models", b"", {"authorization": "Bearer bursar-wire-test-secret"}, method="GET")
    )
    assert "canary" not in json.dumps(models.json)


async def test_a_stranger_at_the_trap_sets_off_nothing(wire: Wire) -> None:
    await begin(wire)
    port = int(wire.gateway.canary.upstream_url.rpartition(":")[2])
    got = await exchange(port, request("/v1/chat/completions", b"{}", {"authorization": "Bearer sk-guess"}))
    assert got.status == 400
    assert wire.gateway.canary.state is State.GREEN


async def test_a_canary_that_fails_itself_is_red(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    await begin(wire)
    monkeypatch.setattr(room, "secrets", None)
    wire.gateway.canary.hurry()
    await wire.until(lambda: wire.gateway.canary.state is State.RED)
    assert wire.gateway.canary.why.startswith("the canary itself has failed")
