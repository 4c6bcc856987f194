"""People hear of what happens: signed, at least once, again where it failed, and never at the cost of a call."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from bodies import CHAT
from conftest import wire_up
from scripted import Provider, Served, answer, play, provider
from standardwebhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from bursar.clock import SECOND, Instant
from bursar.edge import outbox
from bursar.edge.outbox import GIVE_UP_AFTER, LEASE, Teller, wait_after
from bursar.edge.webhooks import Webhook, facts, sentence
from bursar.ledger.account import Amounts, Ask, Authorize, Basis, Limits, OpenScope, Settle
from bursar.ledger.store import DAY, DeliveryState, HappeningRow
from bursar.stores.sqlite import SqliteStore

OLD = "whsec_" + "b2xkLXNlY3JldC1vZi10d2VudHktZm91ci1ieXRlcw=="
NEW = "whsec_" + "bmV3LXNlY3JldC1vZi10d2VudHktZm91ci1ieXRlcw=="
OTHER = "whsec_" + "b3RoZXItc2VjcmV0LW9mLXR3ZW50eS1mb3VyLWI="
NOON = Instant(1_795_435_200 * SECOND)
ASK = Ask(100, 40, 0, 1, 10, 10, 1, False)
TOOK = play(answer(b"ok", content_type="text/plain"))
FAILED = play(answer(b"no", status=500))


class Hands:
    def __init__(self) -> None:
        self.instant = NOON

    def now(self) -> Instant:
        return self.instant


def headers(served: Served) -> dict[str, str]:
    return {name: served.header(name) for name in ("webhook-id", "webhook-timestamp", "webhook-signature")}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


async def test_receivers_are_told_what_happened_and_who_says_so(tmp_path: Path) -> None:
    os.environ |= {"WIRE_HOOK_SECRET": f"{OLD} {NEW}"}
    async with provider() as ops, provider() as slack:
        ops.script = slack.script = TOOK
        webhooks = {
            "down": {"url": f"http://127.0.0.1:{free_port()}/", "secret_env": "WIRE_HOOK_SECRET"},
            "ops": {"url": f"{ops.url}/bursar?to=ops", "secret_env": "WIRE_HOOK_SECRET"},
            "slack": {"url": f"{slack.url}/services/T/B", "format": "slack", "events": ["exhausted"]},
        }
        keys = {"wire": {"run": {"usd": "1.00", "calls": 2}, "key_env": "BURSAR_WIRE_TEST_KEY"}}
        async with wire_up(tmp_path, webhooks=webhooks, keys=keys) as wire:
            wire.provider.script = play(answer(CHAT.reply))
            # Nobody waits for a receiver that is down.
            statuses = [(await wire.post(CHAT.path, CHAT.request, x_bursar_run="<!channel>")).status for _ in range(3)]
            assert statuses == [400] * 3
            statuses = [(await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")).status for _ in range(3)]
            assert statuses[:2] == [200, 200]
            assert statuses[2] != 200
            await wire.until(lambda: len(ops.served) == 3 and len(slack.served) == 1)
    told = [Verifier(NEW).verify(served.body, headers(served)) for served in ops.served]
    assert told == [Verifier(OLD).verify(served.body, headers(served)) for served in ops.served]
    with pytest.raises(WebhookVerificationError):
        Verifier(OTHER).verify(ops.served[0].body, headers(ops.served[0]))
    assert [one["id"] for one in told] == [served.header("webhook-id") for served in ops.served]
    assert sorted((one["kind"], one.get("percent")) for one in told) == [
        ("exhausted", None),
        ("threshold", 50),
        ("threshold", 100),
    ]
    (refused,) = [one for one in told if one["kind"] == "exhausted"]
    where = {"subject": "run:r1/calls/lifetime", "scope": "run:r1", "unit": "calls", "period": "lifetime"}
    assert refused.items() >= {**where, "limit": 2, "spent": 2, "asked": 1}.items()
    assert {served.path for served in ops.served} == {"/bursar?to=ops"}
    (text,) = json.loads(slack.served[0].body).values()
    assert text == (
        "bursar: run:r1 is at its cap of 2 calls: a call that may take up to 1 calls was refused, 2 calls is spent"
    )
    assert slack.served[0].header("webhook-signature") == ""


async def test_what_happens_at_the_end_is_told_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "EVERY_SECONDS", 3600.0)
    monkeypatch.setattr(outbox, "LAST_SECONDS", 20.0)
    async with provider() as chat:
        chat.script = TOOK
        webhooks = {"chat": {"url": chat.url, "format": "slack"}}
        keys = {"wire": {"run": {"usd": "1.00", "calls": 1}, "key_env": "BURSAR_WIRE_TEST_KEY"}}
        async with wire_up(tmp_path, webhooks=webhooks, keys=keys) as wire:
            wire.provider.script = play(answer(CHAT.reply))
            known = await wire.store.declared("webhook:chat")
            while not known:
                known = await wire.store.declared("webhook:chat")
            assert (await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")).status == 200
        assert [served.json["text"] for served in chat.served] == [
            "bursar: run:r1 has spent 100% of its cap of 1 calls: 1 calls"
        ]


async def test_a_gateway_ends_though_a_receiver_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "LAST_SECONDS", 0.01)
    clock, arrived = Hands(), asyncio.Event()
    async with ledger(tmp_path, clock) as (store,), provider() as receiver:

        async def never(_served: Served, _writer: asyncio.StreamWriter) -> None:
            arrived.set()
            await asyncio.Event().wait()

        receiver.script = never
        await teller(store, receiver, clock).tell()
        await spend(store, "r1")
        tellers = outbox.Tellers(store, [Webhook("ops", receiver.url)], clock)
        tellers.begin()
        await arrived.wait()
        await tellers.end()
        ((delivery,),) = [row.deliveries for row in await store.outbox.newest()]
        assert delivery.state is DeliveryState.WAITING


async def test_a_loop_is_told_once(tmp_path: Path) -> None:
    keys = {"wire": {"run": {"usd": "1.00", "loops": 2}, "key_env": "BURSAR_WIRE_TEST_KEY"}}
    async with wire_up(tmp_path, keys=keys) as wire:
        wire.provider.script = play(answer(CHAT.reply))
        statuses = [(await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")).status for _ in range(5)]
        assert statuses == [200] * 3 + [429] * 2
        await wire.gateway._news.drain()
        (row,) = await wire.store.outbox.newest(("loop",))
        assert sentence(row) == "run:r1 repeats the same request and is refused (2 times by now)"
    tools = HappeningRow(1, "loop", "", NOON, "run:r1", {"tools": ["ls", "c\nat"], "count": 9})
    assert sentence(tools) == "run:r1 repeats the tools ls, c?at and is refused (9 times by now)"


@pytest.mark.parametrize(
    ("account", "command"),
    [
        ("run:r1/calls/lifetime", "bursar runs raise r1 --calls CAP"),
        ("key:ci/usd/rolling-5h 0", "bursar budgets set key:ci --usd CAP --period 'rolling 5h'"),
        ("org/usd/day@Europe:Berlin 2", "bursar budgets set org --usd CAP --period 'day' --timezone Europe/Berlin"),
    ],
)
def test_who_is_asked_reads_what_to_type(account: str, command: str) -> None:
    unit = account.split("/")[1]
    row = HappeningRow(1, "asking", "", NOON, account, {"unit": unit, "limit": 2, "seconds": 60})
    assert sentence(row).endswith(f" for more: `{command}`")


def test_a_kind_that_is_not_known_here_is_told_as_it_is() -> None:
    row = HappeningRow(1, "comet", "k", NOON, "model:m1", {"off": 3})
    assert sentence(row) == 'comet: model:m1 {"off": 3}'
    assert facts(row).items() >= {"kind": "comet", "at": "2026-11-23T12:00:00.000+00:00", "off": 3}.items()


# ---- again and again, on a clock of the test's own ------------------------------------------------------------------


@asynccontextmanager
async def ledger(folder: Path, clock: Hands, gateways: int = 1) -> AsyncIterator[list[SqliteStore]]:
    async with AsyncExitStack() as stack:
        stores = [SqliteStore(folder / "ledger.db", clock) for _ in range(gateways)]
        for store in stores:
            await store.start()
            stack.push_async_callback(store.close)
        yield stores


async def spend(store: SqliteStore, run: str, usd: int = 60) -> None:
    path = (f"run:{run}", "key:ci")
    await store.submit(OpenScope("key:ci", "", Limits()))
    await store.submit(OpenScope(path[0], "key:ci", Limits(usd=100)))
    await store.submit(Authorize(f"c-{run}", store.worker, path, ASK, "m<1>", "openai"))
    held = Amounts(100, 1, 50)
    await store.submit(Settle(f"c-{run}", store.worker, Amounts(usd, 1, 20), Basis.METERED, path, held))


def teller(store: SqliteStore, receiver: Provider, clock: Hands, **changes: bool) -> Teller:
    return Teller(store, Webhook("ops", receiver.url, **changes), clock)  # type: ignore[arg-type]


async def test_what_failed_is_told_again_ever_later_with_the_same_id(tmp_path: Path) -> None:
    clock = Hands()
    async with ledger(tmp_path, clock) as (store,), provider() as receiver:
        one = teller(store, receiver, clock)
        assert await one.tell() == 0
        await spend(store, "r1")
        receiver.script = FAILED
        waits = []
        for attempt in range(1, 13):
            assert await one.tell() == 0
            assert len(receiver.served) == attempt
            waits.append(wait_after(attempt) // SECOND)
            clock.instant = Instant(clock.instant + wait_after(attempt) - 1)
            assert await one.tell() == 0
            assert len(receiver.served) == attempt
            clock.instant = Instant(clock.instant + 1)
        assert waits == [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]
        receiver.script = TOOK
        assert await one.tell() == 1
        clock.instant = Instant(clock.instant + DAY)
        assert await one.tell() == 0
        assert len(receiver.served) == 13
        assert len({served.header("webhook-id") for served in receiver.served}) == 1
        ((delivery,),) = [row.deliveries for row in await store.outbox.newest()]
        assert (delivery.state, delivery.attempts, delivery.said) == (DeliveryState.DELIVERED, 13, "status 200 ok")


@pytest.mark.parametrize(("status", "after"), [(500, GIVE_UP_AFTER + 1), (410, 0)])
async def test_in_the_end_it_is_given_up_and_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int, after: int
) -> None:
    clock = Hands()
    async with ledger(tmp_path, clock) as (store,), provider() as receiver:
        one = teller(store, receiver, clock)
        await one.tell()
        await spend(store, "r1")
        receiver.script = FAILED
        if after:
            await one.tell()
            clock.instant = Instant(NOON + after)
        receiver.script = play(answer(b"gone", status=status))
        assert await one.tell() == 0
        assert "gave up telling 127.0.0.1 of threshold run:r1/usd/lifetime" in caplog.text
        clock.instant = Instant(clock.instant + DAY)
        receiver.script = TOOK
        assert await one.tell() == 0
        ((delivery,),) = [row.deliveries for row in await store.outbox.newest()]
        assert delivery.state is DeliveryState.GIVEN_UP


async def test_of_many_gateways_one_tells_and_the_next_where_it_dies_on_the_way(tmp_path: Path) -> None:
    clock = Hands()
    async with ledger(tmp_path, clock, gateways=3) as stores, provider() as receiver:
        tellers = [teller(store, receiver, clock) for store in stores]
        await tellers[0].tell()
        for number in range(6):
            await spend(stores[0], f"r{number}")
        receiver.script = TOOK
        delivered = 0
        for _ in range(2):  # all of them may have seen the same four
            delivered += sum(await asyncio.gather(*(one.tell() for one in tellers * 4)))
        assert delivered == len(receiver.served) == 6
        await spend(stores[0], "last")
        arrived = asyncio.Event()

        async def never(_served: Served, _writer: asyncio.StreamWriter) -> None:
            arrived.set()
            await asyncio.Event().wait()

        receiver.script = never
        dying = asyncio.create_task(tellers[0].tell())
        await arrived.wait()
        dying.cancel()
        receiver.script = TOOK
        assert await tellers[1].tell() == 0
        clock.instant = Instant(NOON + LEASE)
        assert sum(await asyncio.gather(*(one.tell() for one in tellers))) == 1
        assert receiver.served[-1].header("webhook-id") == receiver.served[-2].header("webhook-id")


async def test_a_new_webhook_is_not_told_what_was_before_it(tmp_path: Path) -> None:
    clock = Hands()
    async with ledger(tmp_path, clock) as (store,), provider() as receiver:
        receiver.script = TOOK
        await spend(store, "r1")
        clock.instant = Instant(NOON + 1)
        assert await teller(store, receiver, clock).tell() == 0
        await spend(store, "r2")
        assert await teller(store, receiver, clock).tell() == 1
        assert receiver.served[0].json["subject"] == "run:r2/usd/lifetime"


async def test_an_overrun_is_told_with_its_figures_and_no_name_calls_a_channel(tmp_path: Path) -> None:
    clock = Hands()
    async with ledger(tmp_path, clock) as (store,), provider() as receiver, provider() as slack:
        receiver.script = slack.script = TOOK
        plain, chat = teller(store, receiver, clock), Teller(store, Webhook("chat", slack.url, is_slack=True), clock)
        await plain.tell()
        await chat.tell()
        await spend(store, "r1", usd=1_500_000_000)
        assert (await plain.tell(), await chat.tell()) == (3, 3)
        (told,) = [served.json for served in receiver.served if served.json["kind"] == "overrun"]
        assert told["call"] == told["subject"] == "c-r1"
        assert told["overrun"] == {"usd": "1.4999999", "calls": 0, "tokens": 0}
        assert "run:r1/usd/lifetime" in str(told["accounts"])
        texts = [str(served.json["text"]) for served in slack.served]
        cost = "cost more than was held for it, by 1.4999999 usd; its run is stopped"
        assert f"bursar: the call c-r1 to m&lt;1&gt; at openai {cost}" in texts
        assert any(text.startswith("bursar: m&lt;1&gt; is let through no more") for text in texts)
