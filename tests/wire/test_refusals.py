"""At the cap the next call is refused before it is sent, in the words and with the status that stop its client."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from bodies import CHAT, FORMATS, MESSAGES, RESPONSES, Format
from conftest import KEY_ENV, Wire, wire_up
from scripted import Served, answer, chunked, exchange, play, request

from bursar.events import CallRefused
from bursar.ledger.account import AccountState, SetLimit, SetState, Unit

by_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
CAP_OF_ZERO = {"keys": {"wire": {"key_env": KEY_ENV, "run": {"usd": "1.00", "calls": 0}}}}


@by_format
@pytest.mark.parametrize("stream", [False, True])
async def test_museum_1_a_cap_of_zero_refuses_the_first_call(tmp_path: Path, fmt: Format, stream: bool) -> None:
    async with wire_up(tmp_path, **CAP_OF_ZERO) as wire:
        got = await wire.post(fmt.path, fmt.request | {"stream": stream}, x_bursar_run="r1")
        assert got.status == 429
        assert got.headers["x-should-retry"] == "false"
        assert "retry-after" not in got.headers
        assert wire.provider.served == []
        assert await wire.holds() == ()


@by_format
async def test_a_refusal_has_the_shape_of_its_dialect_and_all_the_figures(tmp_path: Path, fmt: Format) -> None:
    async with wire_up(tmp_path, **CAP_OF_ZERO) as wire:
        body = (await wire.post(fmt.path, fmt.request, x_bursar_run="r1")).json
        error = body["error"]
        assert isinstance(error, dict)
        assert "cap of 0 calls on run:r1 is spent" in error["message"]
        if fmt is MESSAGES:
            assert body["type"] == "error"
        else:
            assert error["code"] == "cap_exhausted"
        found = error.get("bursar") or body.get("bursar")
        assert isinstance(found, dict)
        assert {name: found[name] for name in ("scope", "unit", "limit", "captured", "held", "asked", "run")} == {
            "scope": "run:r1",
            "unit": "calls",
            "limit": 0,
            "captured": 0,
            "held": 0,
            "asked": 1,
            "run": "r1",
        }
        assert found["advice"]
        assert found["resets_at"] is None


@pytest.mark.parametrize(
    ("user_agent", "status"),
    [
        ("OpenAI/Python 3.54.0", 429),
        ("Anthropic/Python 2.12.0", 429),
        ("claude-cli/2.1.197 (external, sdk-cli)", 429),
        ("Agents/Python 0.24.0", 429),
        ("langchain-anthropic/1.7.7", 429),
        ("codex_exec/0.169.0 (Debian 12.0.0; x86_64) unknown (codex_exec; 0.169.0)", 400),
        ("litellm/1.106.2", 400),
        ("opencode/1.18.33 ai-sdk/provider-utils/4.0.46 runtime/bun/1.3.14", 402),
        ("QwenCode/0.15.10 (linux; x64)", 402),
        ("GeminiCLI-tui/0.61.0/gemini-3.1-pro-preview (linux; x64; terminal)", 402),
        ("google-genai-sdk/2.34.0 gl-python/3.12.1 langchain-google-genai/4.4.2-ChatGoogleGenerativeAI", 402),
        ("ai/7.0.173 ai-sdk/provider-utils/4.0.66 runtime/node.js/v20.20.2", 402),
        ("ai-sdk/openai-compatible/3.0.37 ai-sdk/provider-utils/5.0.30 runtime/bun/1.3.13", 402),
    ],
)
async def test_museum_36_the_status_is_the_one_that_stops_this_client(
    tmp_path: Path, user_agent: str, status: int
) -> None:
    async with wire_up(tmp_path, **CAP_OF_ZERO) as wire:
        got = await wire.post(CHAT.path, CHAT.request, user_agent=user_agent)
        assert (got.status, got.headers["x-should-retry"]) == (status, "false")


@pytest.mark.parametrize(("user_agent", "status"), [("codex_exec/0.169.0 (Debian 12.0.0; x86_64)", 400), ("x", 422)])
@pytest.mark.parametrize(("change", "code"), [({"model": "gpt-99"}, "unpriced"), ({"background": True}, "unbounded")])
async def test_codex_gets_a_400_for_what_cannot_be_allowed_because_it_retries_a_422(
    wire: Wire, change: dict[str, object], code: str, user_agent: str, status: int
) -> None:
    got = await wire.post(RESPONSES.path, RESPONSES.request | change, user_agent=user_agent)
    assert (got.status, got.json["error"]["code"]) == (status, code)  # type: ignore[index]
    (event,) = wire.events
    assert isinstance(event, CallRefused)
    assert (event.status, event.code) == (status, code)


@pytest.mark.parametrize("status", [429, 402, 400])
async def test_the_status_can_be_fixed(tmp_path: Path, status: int) -> None:
    async with wire_up(tmp_path, **CAP_OF_ZERO, policy={"refusal_status": status}) as wire:
        assert (await wire.post(CHAT.path, CHAT.request, user_agent="opencode/1")).status == status


async def test_what_others_hold_is_refused_for_now_only(tmp_path: Path) -> None:
    one_call = {"keys": {"wire": {"key_env": KEY_ENV, "run": {"usd": "1.00", "calls": 1}}}}
    async with wire_up(tmp_path, **one_call) as wire:
        has_request, may_answer = asyncio.Event(), asyncio.Event()

        async def slow(_served: Served, writer: asyncio.StreamWriter) -> None:
            has_request.set()
            await may_answer.wait()
            writer.write(answer(CHAT.reply))
            await writer.drain()

        wire.provider.script = slow
        first = asyncio.create_task(wire.post(CHAT.path, CHAT.request, x_bursar_run="r1"))
        await has_request.wait()
        second = await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1", user_agent="opencode/1")
        assert (second.status, second.headers["retry-after"]) == (429, "1")
        assert second.json["error"]["code"] == "cap_held"  # type: ignore[index]
        assert "x-should-retry" not in second.headers
        may_answer.set()
        assert (await first).status == 200
        third = await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")
        assert third.json["error"]["code"] == "cap_exhausted"  # type: ignore[index]


async def test_a_call_waits_its_turn_and_goes_out_when_money_comes_free(tmp_path: Path) -> None:
    # Each call may take up to $0.051 of $0.10 and costs next to nothing.
    tight = {"keys": {"wire": {"key_env": KEY_ENV, "run": {"usd": "0.10", "calls": 20}}}}
    body = CHAT.request | {"max_tokens": 32_000}
    async with wire_up(tmp_path, **tight, policy={"wait_seconds_max": 20}) as wire:
        waiting: list[asyncio.StreamWriter] = []
        two = asyncio.Event()

        async def hold_back(_served: Served, writer: asyncio.StreamWriter) -> None:
            waiting.append(writer)
            two.set()

        wire.provider.script = hold_back
        calls = [asyncio.create_task(wire.post(CHAT.path, body, x_bursar_run="r1")) for _ in range(3)]
        for _ in range(3):
            await two.wait()
            two.clear()
            assert len(waiting) == 1
            waiting.pop().write(answer(CHAT.reply))
        assert [(await call).status for call in calls] == [200, 200, 200]
        await wire.settled(3)
        assert (await wire.account("run:r1")).captured == 3 * CHAT.cost_nanodollars


async def test_a_waiter_whose_client_left_takes_nothing(tmp_path: Path) -> None:
    one_call = {"keys": {"wire": {"key_env": KEY_ENV, "run": {"usd": "1.00", "calls": 2}}}}
    async with wire_up(tmp_path, **one_call, policy={"wait_seconds_max": 20}) as wire:
        await wire.post(CHAT.path, b"{}", x_bursar_run="r1")
        writers: list[asyncio.StreamWriter] = []
        arrived = asyncio.Semaphore(0)

        async def hold_back(_served: Served, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            arrived.release()

        wire.provider.script = hold_back
        calls = [asyncio.create_task(wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")) for _ in range(2)]
        await arrived.acquire()
        await arrived.acquire()
        _reader, leaver = await asyncio.open_connection("127.0.0.1", wire.port)
        leaver.write(wire.raw(CHAT.path, CHAT.request, x_bursar_run="r1"))
        await wire.until(lambda: wire.gateway._parts.gate.ledger.waiting == 1)
        leaver.transport.abort()
        await wire.until(lambda: wire.gateway._parts.gate.ledger.waiting == 0)
        for writer in writers:
            writer.write(answer(CHAT.reply, status=400))
        assert [(await call).status for call in calls] == [400, 400]
        await wire.settled(2)
        calls_account = await wire.account("run:r1", Unit.CALLS)
        assert (calls_account.held, calls_account.captured) == (0, 0)
        assert len(wire.provider.served) == 2


async def test_near_the_cap_the_bound_is_lowered_and_says_so(tmp_path: Path) -> None:
    small = {"keys": {"wire": {"key_env": KEY_ENV, "run": {"usd": "0.01", "calls": 20}}}}
    async with wire_up(tmp_path, **small) as wire:
        wire.provider.script = play(answer(CHAT.reply))
        got = await wire.post(CHAT.path, CHAT.request | {"max_tokens": 30_000}, x_bursar_run="r1")
        assert got.status == 200
        bound = wire.provider.served[0].json["max_tokens"]
        assert isinstance(bound, int)
        assert 256 <= bound < 30_000
        assert got.headers["x-bursar-output-tokens-max"] == str(bound)


async def test_near_cap_refuse_lowers_nothing(tmp_path: Path) -> None:
    small = {"keys": {"wire": {"key_env": KEY_ENV, "run": {"usd": "0.01", "calls": 20}}}}
    async with wire_up(tmp_path, **small, policy={"near_cap": "refuse"}) as wire:
        got = await wire.post(CHAT.path, CHAT.request | {"max_tokens": 30_000}, x_bursar_run="r1")
        assert (got.status, wire.provider.served) == (429, [])
        message = got.json["error"]["message"]  # type: ignore[index]
        assert "the cap of $0.01 on run:r1 has too little left ($0.00 spent, $0.00 held, this call may take" in message


async def test_museum_14_a_model_without_a_price_is_refused(wire: Wire) -> None:
    got = await wire.post(CHAT.path, CHAT.request | {"model": "gpt-99"}, x_bursar_run="r1")
    assert (got.status, got.json["error"]["code"]) == (422, "unpriced")  # type: ignore[index]
    assert '[models."gpt-99"]' in got.json["error"]["message"]  # type: ignore[index]
    assert wire.provider.served == []


async def test_museum_28_a_free_model_stays_usable_at_a_spent_cap(tmp_path: Path) -> None:
    free = {"input": "0", "output": "0", "context_tokens": 8192, "output_tokens_max": 1024}
    broke = {"keys": {"wire": {"key_env": KEY_ENV, "run": {"usd": "0.00", "calls": 20}}}}
    async with wire_up(tmp_path, **broke, models={"my-own": free}) as wire:
        wire.provider.script = play(answer(CHAT.reply))
        assert (await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")).status == 429
        got = await wire.post(CHAT.path, CHAT.request | {"model": "my-own"}, x_bursar_run="r1")
        assert (got.status, got.headers["x-bursar-cost-usd"]) == (200, "0.00")


async def test_museum_32_a_changed_limit_counts_from_the_next_call(wire: Wire) -> None:
    wire.provider.script = play(answer(CHAT.reply))
    assert (await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")).status == 200
    await wire.store.submit(SetLimit("run:r1", Unit.CALLS, 1))
    assert (await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")).status == 429
    await wire.store.submit(SetLimit("run:r1", Unit.CALLS, 2))
    assert (await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")).status == 200


async def test_a_stopped_run_is_refused_until_it_is_resumed(wire: Wire) -> None:
    wire.provider.script = play(answer(CHAT.reply))
    assert (await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")).status == 200
    await wire.store.submit(SetState("run:r1", AccountState.STOPPED))
    got = await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")
    assert (got.status, got.json["error"]["code"]) == (429, "run_stopped")  # type: ignore[index]
    await wire.store.submit(SetState("run:r1", AccountState.OPEN))
    assert (await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")).status == 200


@by_format
async def test_museum_5_many_loops_at_once_get_exactly_the_cap(tmp_path: Path, fmt: Format) -> None:
    wide = {"keys": {"wire": {"key_env": KEY_ENV, "run": {"usd": "5.00", "calls": 20}}}}
    async with wire_up(tmp_path, **wide, policy={"wait_seconds_max": 20}) as wire:
        wire.provider.script = play(chunked(*fmt.stream))

        async def loop() -> int:
            served = 0
            while (await wire.post(fmt.path, fmt.request | {"stream": True}, x_bursar_run="r1")).status == 200:
                served += 1
            return served

        assert sum(await asyncio.gather(*(loop() for _ in range(64)))) == 20
        assert len(wire.provider.served) == 20
        assert (await wire.account("run:r1")).captured == 20 * fmt.cost_nanodollars
        assert await wire.audit() == []


async def test_a_websocket_is_told_to_use_http(wire: Wire) -> None:
    upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    raw = request(RESPONSES.path, b"", upgrade | {"sec-websocket-key": "x"}, method="GET")
    assert (await exchange(wire.port, raw)).status == 426


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images/generations",
        "/v1/chat/completions/",
        "/V1/chat/completions",
        "/v1//chat/completions",
        "/v1%2fchat/completions",
        "/v1/chat/completions%20",
        "/v1/chat/../chat/completions",
        "//v1/chat/completions",
        "/x/v1/chat/completions",
        "/r//v1/chat/completions",
        "/v1/responses/compact",
        "/v1/messages/batches",
        "/v1/realtime",
    ],
)
async def test_museum_23_a_path_that_is_not_in_the_table_is_not_passed_on(wire: Wire, path: str) -> None:
    got = await wire.post(path, CHAT.request)
    assert got.status == 404
    assert json.loads(got.body)["error"]["code"] == "unmetered"
    assert wire.provider.served == []


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/v1/chat/completions", "/openai/v1/chat/completions"])
async def test_the_spellings_that_clients_use_lead_to_the_same_place(wire: Wire, path: str) -> None:
    wire.provider.script = play(answer(CHAT.reply))
    assert (await wire.post(path, CHAT.request, x_bursar_run="r1")).status == 200
    assert wire.provider.served[0].path == "/v1/chat/completions"


async def test_an_upstream_of_another_dialect_is_not_a_way_around(wire: Wire) -> None:
    assert (await wire.post("/anthropic/v1/chat/completions", CHAT.request)).status == 404
    assert wire.provider.served == []


# ---- the gateway itself -----------------------------------------------------------------------------------------


async def plain(wire: Wire, method: str, path: str) -> int:
    return (await exchange(wire.port, request(path, b"", {}, method=method))).status


async def test_it_says_that_it_lives_and_is_ready(wire: Wire) -> None:
    assert await plain(wire, "GET", "/livez") == 200
    assert await plain(wire, "GET", "/readyz") == 503  # until its canary has proven that a spent cap refuses
    await wire.gateway.canary.begin(f"http://127.0.0.1:{wire.port}")
    assert await plain(wire, "GET", "/readyz") == 200
    assert await plain(wire, "GET", "/v1/chat/completions") == 404


async def test_when_the_ledger_cannot_write_nothing_is_sent(wire: Wire, tmp_path: Path) -> None:
    wire.provider.script = play(answer(CHAT.reply))
    assert (await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")).status == 200
    away = tmp_path / "away.db"
    (tmp_path / "ledger.db").rename(away)
    got = await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")
    assert (got.status, got.headers["retry-after"]) == (503, "1")
    assert got.json["error"]["code"] == "ledger_unavailable"  # type: ignore[index]
    assert await plain(wire, "GET", "/readyz") == 503
    assert len(wire.provider.served) == 1
    away.rename(tmp_path / "ledger.db")
    assert (await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")).status == 200


async def test_a_bug_in_the_gateway_is_a_500_and_its_hold_is_settled(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire.provider.script = play(answer(CHAT.reply))

    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("bursar.proxy.settle", broken)
    got = await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")
    assert got.status == 500
    await wire.settled(1)
    (hold,) = await wire.holds()
    assert (hold.basis, hold.captured) == ("presumed", hold.held)


async def test_a_query_with_odd_bytes_is_refused(wire: Wire) -> None:
    raw = wire.raw(CHAT.path + "?q", CHAT.request, x_bursar_run="r1").replace(b"?q", b"?\xc3\xa9", 1)
    assert (await exchange(wire.port, raw)).status == 400
    long = await wire.post(CHAT.path + "?q=" + "x" * 9000, CHAT.request, x_bursar_run="r1")
    assert long.status == 414
    assert wire.provider.served == []
