"""The fake provider over real sockets: what it says, what it bills, and how it breaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from bursar.drill.answering import Config
from bursar.drill.fake_provider import FakeProvider
from bursar.drill.faults import Dice, Fault, FaultKind

APIS = ("chat", "responses", "messages")
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
# 400 bytes of text at 4 bytes a token, and 3 tokens each for one message and the frame: 106 tokens.
TEXT = "word" * 100
INPUT_TOKENS = 106
# gpt-4.1 costs 2,000 and 8,000 nanodollars a token, claude-haiku-4-5 1,000 and 5,000.
PRICES = {"chat": (2_000, 8_000), "responses": (2_000, 8_000), "messages": (1_000, 5_000)}
FIXED = Config(output_tokens_least=40, output_tokens_most=40)


def ask(api: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": TEXT}]
    body: dict[str, Any] = {"model": "claude-haiku-4-5" if api == "messages" else "gpt-4.1"}
    body["input" if api == "responses" else "messages"] = messages
    if api == "messages":
        body["max_tokens"] = 1_000
    return {**body, **fields}


def bill(api: str, output_tokens: int, input_tokens: int = INPUT_TOKENS) -> int:
    into, out = PRICES[api]
    return input_tokens * into + output_tokens * out


@asynccontextmanager
async def provider(config: Config = FIXED) -> AsyncIterator[tuple[FakeProvider, aiohttp.ClientSession]]:
    async with (
        FakeProvider(config) as running,
        aiohttp.ClientSession(running.base_url, headers={"authorization": "Bearer k"}) as session,
    ):
        yield running, session


def data_of(stream: bytes) -> list[Any]:
    lines = [line[6:] for line in stream.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def usage_of(api: str, body: dict[str, Any]) -> tuple[int, int]:
    into, out = ("prompt_tokens", "completion_tokens") if api == "chat" else ("input_tokens", "output_tokens")
    return body["usage"][into], body["usage"][out]


@pytest.mark.parametrize("api", APIS)
async def test_an_answer_reports_what_is_billed(api: str) -> None:
    async with provider() as (running, session):
        async with session.post(PATHS[api], json=ask(api)) as response:
            body = await response.json()
        assert usage_of(api, body) == (INPUT_TOKENS, 40)
        assert running.till.total.nanodollars == bill(api, 40)
        assert running.till.by_key["k"].calls == 1


@pytest.mark.parametrize("api", APIS)
async def test_a_stream_reports_what_is_billed(api: str) -> None:
    fields = {"stream": True} | ({"stream_options": {"include_usage": True}} if api == "chat" else {})
    async with provider() as (running, session):
        async with session.post(PATHS[api], json=ask(api, **fields)) as response:
            events = data_of(await response.read())
        match api:
            case "chat":
                assert usage_of(api, events[-1]) == (INPUT_TOKENS, 40)
                assert events[-1]["choices"] == []
                assert events[0]["choices"][0]["delta"]["role"] == "assistant"
            case "responses":
                assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
                assert events[-1]["type"] == "response.completed"
                assert usage_of(api, events[-1]["response"]) == (INPUT_TOKENS, 40)
                assert [event["sequence_number"] for event in events] == list(range(len(events)))
            case _:
                kinds = [event["type"] for event in events]
                assert kinds[:3] == ["message_start", "content_block_start", "ping"]
                assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
                assert usage_of(api, events[-2]) == (INPUT_TOKENS, 40)
        assert running.till.total.nanodollars == bill(api, 40)


async def test_a_chat_stream_has_a_usage_chunk_only_when_it_is_asked_for() -> None:
    async with provider() as (running, session):
        async with session.post(PATHS["chat"], json=ask("chat", stream=True)) as response:
            events = data_of(await response.read())
        assert all(event["choices"] and "usage" not in event for event in events)
        assert running.till.total.nanodollars == bill("chat", 40)


@pytest.mark.parametrize(
    ("api", "field"),
    [
        ("chat", "max_tokens"),
        ("chat", "max_completion_tokens"),
        ("responses", "max_output_tokens"),
        ("messages", "max_tokens"),
    ],
)
async def test_the_output_bound_is_kept_and_said(api: str, field: str) -> None:
    async with provider() as (running, session):
        async with session.post(PATHS[api], json=ask(api, **{field: 17})) as response:
            body = await response.json()
        reason = {
            "chat": lambda: body["choices"][0]["finish_reason"] == "length",
            "responses": lambda: body["incomplete_details"]["reason"] == "max_output_tokens",
            "messages": lambda: body["stop_reason"] == "max_tokens",
        }
        assert reason[api]()
        assert running.till.total.nanodollars == bill(api, 17)


async def test_every_choice_is_billed() -> None:
    async with provider() as (running, session):
        async with session.post(PATHS["chat"], json=ask("chat", n=3)) as response:
            assert len((await response.json())["choices"]) == 3
        assert running.till.total.nanodollars == bill("chat", 120)


async def test_hidden_reasoning_is_billed_as_output() -> None:
    async with provider(Config(output_tokens_least=40, output_tokens_most=40, reasoning_percent=50)) as (
        running,
        session,
    ):
        async with session.post(PATHS["chat"], json=ask("chat")) as response:
            body = await response.json()
        assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 20
        assert len(body["choices"][0]["message"]["content"]) == 80
        assert running.till.total.nanodollars == bill("chat", 40)


async def test_claude_writes_and_reads_its_cache_where_it_is_asked_to() -> None:
    first = {"type": "text", "text": "abcd" * 2_000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    second = {"type": "text", "text": "efgh" * 1_000, "cache_control": {"type": "ephemeral"}}
    body = ask("messages", messages=[{"role": "user", "content": [first, second, {"type": "text", "text": TEXT}]}])
    async with provider() as (running, session):
        for _ in range(2):
            async with session.post(PATHS["messages"], json=body) as response:
                assert response.status == 200
        written, read = (line.used for line in running.till.ledger)
        assert (written.cache_write_1h_tokens, written.cache_write_5m_tokens, written.input_tokens) == (
            2_000,
            1_000,
            106,
        )
        assert (read.cache_read_tokens, read.cache_write_5m_tokens, read.input_tokens) == (3_000, 0, 106)
        # 2,000 x $2 + 1,000 x $1.25, then 3,000 x $0.10 per million, and each time the rest at list price
        costs = [line.nanodollars for line in running.till.ledger]
        assert costs == [5_250_000 + bill("messages", 40), 300_000 + bill("messages", 40)]


async def test_openai_reads_repeated_beginnings_from_its_cache_in_steps_of_128_tokens() -> None:
    long = [{"role": "user", "content": "abcd" * 2_000}]
    async with provider() as (running, session):
        for more in ([], [{"role": "user", "content": TEXT}]):
            async with session.post(PATHS["chat"], json=ask("chat", messages=[*long, *more])) as response:
                assert response.status == 200
        first, second = (line.used for line in running.till.ledger)
        assert (first.input_tokens, first.cache_read_tokens) == (2_006, 0)
        assert (second.input_tokens, second.cache_read_tokens) == (2_109 - 1_920, 1_920)


@pytest.mark.parametrize(
    ("api", "fields", "status"),
    [
        ("chat", {"model": "gpt-99"}, 404),
        ("chat", {"model": "claude-haiku-4-5"}, 404),
        ("chat", {"model": None}, 400),
        ("chat", {"max_tokens": 5, "max_completion_tokens": 5}, 400),
        ("chat", {"max_tokens": 0}, 400),
        ("chat", {"max_tokens": 32_769}, 400),
        ("chat", {"max_tokens": "5"}, 400),
        ("chat", {"service_tier": "priority"}, 400),
        ("responses", {"max_output_tokens": 15}, 400),
        ("messages", {"max_tokens": None}, 400),
        ("messages", {"max_tokens": 1_024, "thinking": {"type": "enabled", "budget_tokens": 1_024}}, 400),
        ("messages", {"messages": [{"role": "user", "content": "x" * 800_001}]}, 400),
    ],
)
async def test_a_mistake_is_answered_as_the_provider_does_and_not_billed(
    api: str, fields: dict[str, Any], status: int
) -> None:
    async with provider() as (running, session):
        async with session.post(PATHS[api], json=ask(api, **fields)) as response:
            assert response.status == status
            assert "message" in (await response.json())["error"]
        assert (running.till.total.calls, running.till.unbilled, running.till.in_flight) == (0, 1, 0)


async def test_dearer_tiers_and_modes_are_billed_dearer() -> None:
    async with provider() as (running, session):
        for body in (
            ask("chat", model="gpt-5", service_tier="priority"),
            ask("messages", speed="fast"),
            ask("messages", inference_geo="us"),
        ):
            async with session.post(PATHS["messages" if "max_tokens" in body else "chat"], json=body) as response:
                assert response.status == 200
        usual = bill("messages", 40)
        priority = 2 * (106 * 1_250 + 40 * 10_000)
        assert [line.nanodollars for line in running.till.ledger] == [priority, 2 * usual, usual * 110 // 100]


# ---- faults ---------------------------------------------------------------------------------------------------------


async def strike(api: str, fault: Fault, *, stream: bool) -> tuple[int, bytes, bool, int]:
    """Give status, body, whether the connection broke, and what was billed, for a call that this fault strikes."""
    fields = {"stream": True} if stream else {}
    async with provider(Config(output_tokens_least=40, output_tokens_most=40, slow_ms=20)) as (running, session):
        running.script(faults=(fault,))
        status, body, broke = 0, b"", False
        try:
            async with session.post(PATHS[api], json=ask(api, max_tokens=200, **fields)) as response:
                status = response.status
                body = await response.read()
        except (aiohttp.ClientError, ConnectionError):
            broke = True
        assert running.till.in_flight == 0
        return status, body, broke, running.till.total.nanodollars


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503, 529])
@pytest.mark.parametrize("api", ["chat", "messages"])
async def test_an_error_status_is_not_billed_unless_the_fault_says_so(api: str, status: int) -> None:
    fault = Fault(FaultKind.STATUS, count=1, status=status)
    assert (await strike(api, fault, stream=False))[::3] == (status, 0)
    billed = Fault(FaultKind.STATUS, count=1, status=status, billed=True)
    assert (await strike(api, billed, stream=False))[::3] == (status, bill(api, 40))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", [FaultKind.CUT_HEAD, FaultKind.CUT_MIDDLE, FaultKind.TRUNCATE])
async def test_an_answer_that_breaks_off_is_billed_in_full(kind: FaultKind, stream: bool) -> None:
    status, _, broke, nanodollars = await strike("messages", Fault(kind, count=1), stream=stream)
    assert broke
    assert status == (0 if kind is FaultKind.CUT_HEAD else 200)
    assert nanodollars == bill("messages", 40)


async def test_usage_can_be_missing_garbage_or_a_lie() -> None:
    _, body, _, nanodollars = await strike("messages", Fault(FaultKind.NO_USAGE, count=1), stream=False)
    assert "usage" not in json.loads(body)
    assert nanodollars == bill("messages", 40)
    _, body, _, nanodollars = await strike("messages", Fault(FaultKind.GARBAGE_USAGE, count=1), stream=False)
    assert json.loads(body)["usage"] == {"input_tokens": "many", "output_tokens": -7, "total_tokens": None}
    assert nanodollars == bill("messages", 40)
    _, body, _, nanodollars = await strike("messages", Fault(FaultKind.LYING_USAGE, count=1), stream=False)
    assert json.loads(body)["usage"]["output_tokens"] == 1_400
    assert nanodollars == bill("messages", 1_400)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_huge_answer_ends_at_the_bound_and_slow_or_packed_ones_arrive_whole(stream: bool) -> None:
    assert (await strike("messages", Fault(FaultKind.HUGE, count=1), stream=stream))[3] == bill("messages", 200)
    plain = await strike("messages", Fault(FaultKind.SLOW, count=1), stream=stream)
    packed = await strike("messages", Fault(FaultKind.GZIP, count=1), stream=stream)
    assert plain == packed
    assert plain[2:] == (False, bill("messages", 40))


async def test_a_call_that_hangs_is_billed_when_its_client_leaves() -> None:
    async with provider() as (running, session):
        running.script(faults=(Fault(FaultKind.HANG, count=1),))
        call = asyncio.create_task(session.post(PATHS["chat"], json=ask("chat")).__aenter__())
        while not running.till.total.calls:
            await asyncio.sleep(0)
        call.cancel()
        while running.till.in_flight:
            await asyncio.sleep(0)
        assert running.till.clients_gone == 1
        assert running.till.total.nanodollars == bill("chat", 40)


async def test_a_client_that_leaves_in_mid_stream_is_billed_in_full() -> None:
    async with provider(Config(output_tokens_least=40, output_tokens_most=40, chunk_ms=50)) as (running, session):
        async with session.post(PATHS["messages"], json=ask("messages", stream=True)) as response:
            await response.content.readany()
            response.close()
        while running.till.in_flight:
            await asyncio.sleep(0)
        assert running.till.clients_gone == 1
        assert running.till.total.nanodollars == bill("messages", 40)


def test_faults_by_chance_are_the_same_for_the_same_seed() -> None:
    import random

    faults = (Fault(FaultKind.SLOW, percent=30), Fault(FaultKind.GZIP, percent=20))

    def thrown(seed: int) -> list[Fault | None]:
        dice = Dice(random.Random(seed), faults)
        return [dice.throw() for _ in range(1_000)]

    assert thrown(1) == thrown(1) != thrown(2)
    assert 250 < sum(fault is faults[0] for fault in thrown(1)) < 350
    assert 150 < sum(fault is faults[1] for fault in thrown(1)) < 250


async def test_scripted_faults_strike_in_order_and_then_are_over() -> None:
    async with provider() as (running, session):
        script = {
            "faults": [{"kind": "status", "status": 503, "count": 2}, {"kind": "status", "status": 429, "count": 1}]
        }
        async with session.post("/script", json=script) as response:
            assert response.status == 200
        seen = []
        for _ in range(4):
            async with session.post(PATHS["chat"], json=ask("chat")) as response:
                seen.append(response.status)
        assert seen == [503, 503, 429, 200]
        assert running.till.unbilled == 3


@pytest.mark.parametrize(
    "script", [b"[]", b"{", b'{"faults": [{"kind": "?"}]}', b'{"replies": [{"tool_calls": [{}]}]}']
)
async def test_a_script_that_makes_no_sense_is_refused(script: bytes) -> None:
    async with provider() as (_, session), session.post("/script", data=script) as response:
        assert response.status == 400


# ---- as a server ----------------------------------------------------------------------------------------------------


async def test_the_till_can_be_read_and_emptied_over_http() -> None:
    async with provider() as (_, session):
        async with session.post(PATHS["chat"], json=ask("chat")) as response:
            assert response.status == 200
        async with session.get("/till?ledger=5") as response:
            till = await response.json()
        assert (till["calls"], till["nanodollars"]) == (1, bill("chat", 40))
        assert till["ledger"][0]["used"]["output_tokens"] == 40
        async with session.post("/till/reset") as response:
            assert response.status == 200
        async with session.get("/till") as response:
            assert (await response.json())["calls"] == 0


async def test_what_costs_nothing_is_not_billed() -> None:
    async with provider() as (running, session):
        async with session.head("/") as response:
            assert response.status == 200
        async with session.get("/v1/models") as response:
            assert "gpt-4.1" in [row["id"] for row in (await response.json())["data"]]
        async with session.post("/v1/messages/count_tokens", json=ask("messages")) as response:
            assert (await response.json())["input_tokens"] == INPUT_TOKENS
        async with session.post("/v1/embeddings", json={}) as response:
            assert response.status == 404
        assert (running.till.requests, running.till.total.calls) == (0, 0)


async def test_requests_that_are_sent_ahead_are_answered_in_order() -> None:
    async with FakeProvider(FIXED) as running:
        host, port = running.base_url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /till HTTP/1.1\r\nhost: x\r\n\r\n" * 500 + b"HEAD / HTTP/1.1\r\nconnection: close\r\n\r\n")
        answers = await reader.read()
        writer.close()
        assert answers.count(b"HTTP/1.1 200 OK") == 501


async def test_what_is_not_http_is_refused() -> None:
    async with FakeProvider(FIXED) as running:
        host, port = running.base_url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
        writer.close()


async def test_the_openai_sdk_is_content_with_it() -> None:
    reply = {"text": "let me see", "tool_calls": [{"name": "ls", "arguments": {"path": "."}}]}
    async with (
        FakeProvider(FIXED) as running,
        openai.AsyncOpenAI(base_url=f"{running.base_url}/v1", api_key="k", max_retries=0) as client,
    ):
        running.script(replies=(reply, {"text": "done", "when_body_has": "tool_call_id"}, reply))
        messages: list[Any] = [{"role": "user", "content": "what is here?"}]
        said = (await client.chat.completions.create(model="gpt-4.1", messages=messages)).choices[0]
        assert said.finish_reason == "tool_calls"
        call = (said.message.tool_calls or [])[0]
        messages += [
            said.message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "a"},
        ]
        async with client.chat.completions.stream(model="gpt-4.1", messages=messages) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].message.content == "done"
        async with client.responses.stream(model="gpt-4.1", input="what is here?") as events:
            response = await events.get_final_response()
        assert [item.type for item in response.output] == ["message", "function_call"]
        assert response.output_text == "let me see"


async def test_the_anthropic_sdk_is_content_with_it() -> None:
    reply = {"text": "let me see", "tool_calls": [{"name": "ls", "arguments": {"path": "."}}], "repeat": True}
    async with (
        FakeProvider(FIXED) as running,
        anthropic.AsyncAnthropic(base_url=running.base_url, api_key="k", max_retries=0) as client,
    ):
        running.script(replies=({**reply, "when_model": "claude-haiku"},))
        ask_it: dict[str, Any] = {"max_tokens": 99, "messages": [{"role": "user", "content": "what is here?"}]}
        message = await client.messages.create(model="claude-haiku-4-5", **ask_it)
        async with client.messages.stream(model="claude-haiku-4-5", **ask_it) as stream:
            streamed = await stream.get_final_message()
        for said in (message, streamed):
            assert said.stop_reason == "tool_use"
            assert [block.type for block in said.content] == ["text", "tool_use"]
            assert said.content[1].input == {"path": "."}
        plain = await client.messages.create(model="claude-sonnet-5", **ask_it)
        assert plain.stop_reason == "end_turn"
        assert plain.usage.output_tokens == 40
