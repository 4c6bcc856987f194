"""Each provider gets what it takes, in its own place and with its own key; and is billed by its own words."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from bodies import CHAT, MESSAGES, Format, sse
from conftest import Wire, wire_up
from scripted import Answer, Served, answer, chunked, cut, play

from bursar.ledger.account import HoldState

OWN = {"input": "0.40", "output": "1.60", "context_tokens": 1_000_000, "output_tokens_max": 100_000}
"""The prices of gpt-4.1-mini, so that one reply costs the same everywhere."""


@dataclass(frozen=True)
class Sent:
    """One provider: how it is set up, what the client sends, and what has to arrive."""

    name: str
    path: str
    key: tuple[str, str]
    settings: dict[str, Any] = field(default_factory=dict)
    model: str = "some-model"
    models: dict[str, Any] = field(default_factory=lambda: {"some-model": OWN})
    fmt: Format = CHAT
    asked: dict[str, Any] = field(default_factory=dict)
    bound_in: str = "max_tokens"
    body: dict[str, Any] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    presumed: tuple[int, ...] = (408, 500, 502, 503, 529)
    void: tuple[int, ...] = (400, 401, 403, 404, 429)
    cost_nanodollars: int = CHAT.cost_nanodollars

    @property
    def request(self) -> dict[str, Any]:
        unbounded = {name: value for name, value in self.fmt.request.items() if name != "max_tokens"}
        bound = {"max_tokens": 100} if self.fmt is MESSAGES else {}
        return unbounded | bound | {"model": self.model} | self.asked


CASES = (
    Sent("groq", "/openai/v1/chat/completions", ("authorization", "Bearer K"), {"base_url": "PROVIDER/openai/v1"},
         bound_in="max_completion_tokens", absent=("service_tier", "max_tokens")),
    Sent("mistral", "/v1/chat/completions", ("authorization", "Bearer K"), absent=("stream_options", "service_tier")),
    Sent("deepseek", "/v1/chat/completions", ("authorization", "Bearer K"),
         body={"stream_options": {"include_usage": True}}),
    Sent("xai", "/v1/chat/completions", ("authorization", "Bearer K"), bound_in="max_completion_tokens",
         presumed=(403, 408, 500, 503), void=(400, 401, 404, 429)),
    Sent("openrouter", "/api/v1/chat/completions", ("authorization", "Bearer K"), {"base_url": "PROVIDER/api/v1"},
         asked={"provider": {"order": ["a"], "max_price": {"prompt": 99}}, "reasoning": {"effort": "low"}},
         body={"usage": {"include": True},
               "provider": {"order": ["a"], "max_price": {"prompt": 0.4, "completion": 1.6}}},
         presumed=(), void=(400, 402, 403, 404, 429, 500, 502, 503)),
    Sent("litellm", "/v1/chat/completions", ("authorization", "Bearer K"), {"deployments": {"fast": "some-model"}},
         model="fast", bound_in="max_completion_tokens",
         body={"num_retries": 0, "disable_fallbacks": True, "model": "fast"}),
    Sent("azure", "/openai/v1/chat/completions", ("api-key", "K"), {"deployments": {"prod": "some-model"}},
         model="prod", bound_in="max_completion_tokens", body={"model": "prod"}, absent=("service_tier",),
         presumed=(400, 408, 422, 500, 503), void=(401, 403, 404, 429)),
    Sent("azure-dated", "/openai/deployments/prod%2Feu/chat/completions?api-version=2025-03-01", ("api-key", "K"),
         {"provider": "azure", "deployments": {"prod/eu": "gpt-4.1-mini"}, "api_version": "2025-03-01",
          "price_percent": 200}, model="prod/eu", models={}, bound_in="max_completion_tokens", presumed=(400, 408),
         void=(401, 429), cost_nanodollars=2 * CHAT.cost_nanodollars),
    Sent("compat", "/v1beta/openai/chat/completions", ("authorization", "Bearer K"),
         {"dialect": "openai", "path_prefix": "/v1beta/openai"}, bound_in="max_completion_tokens"),
    Sent("ollama", "/v1/chat/completions", ("authorization", ""), {"key_env": ""}),
    Sent("vllm", "/v1/chat/completions", ("authorization", ""), body={"stream_options": {"include_usage": True}}),
    Sent("lmstudio", "/v1/chat/completions", ("authorization", "")),
    Sent("bedrock", "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/invoke-with-response-stream",
         ("authorization", "Bearer K"), {"region": "us-east-1"}, model="us.anthropic.claude-sonnet-4-5-20250929-v1:0",
         models={}, fmt=MESSAGES, body={"anthropic_version": "bedrock-2023-05-31", "anthropic_beta": ["a-1", "b-2"]},
         absent=("model", "stream", "service_tier"), presumed=(408, 424, 500, 503), void=(400, 403, 404, 429),
         cost_nanodollars=MESSAGES.cost_nanodollars * 11 // 10),
    Sent("claude-elsewhere", "/anthropic/v1/messages", ("x-api-key", "K"),
         {"dialect": "anthropic", "base_url": "PROVIDER/anthropic"}, fmt=MESSAGES, model="claude-x",
         models={"claude-x": OWN}, absent=("service_tier",), presumed=(), void=(400, 500, 529),
         cost_nanodollars=CHAT.cost_nanodollars),
)  # fmt: skip
by_provider = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def set_up(folder: Path, case: Sent) -> Any:
    secrets = {case.name: "K"} if case.key[1] else {}
    return wire_up(folder, secrets=secrets, upstreams={case.name: {**case.settings}}, models=case.models)


async def post(wire: Wire, case: Sent, **more: Any) -> Answer:
    path = f"/{case.name}{case.fmt.path}"
    return await wire.post(path, case.request | more, x_bursar_run="r1", anthropic_beta="a-1,b-2")


async def the_end(wire: Wire) -> tuple[HoldState, str, int, int]:
    await wire.settled(1)
    (hold,) = await wire.holds()
    assert await wire.audit() == []
    return hold.state, hold.basis, hold.captured.usd, hold.held.usd


@by_provider
async def test_a_call_arrives_where_and_how_the_provider_takes_it(tmp_path: Path, case: Sent) -> None:
    async with set_up(tmp_path, case) as wire:
        wire.provider.script = play(chunked(*case.fmt.stream))
        got = await post(wire, case, stream=True)
        assert got.status == 200, got.body
        (served,) = wire.provider.served
        assert served.path == case.path
        assert served.header(case.key[0]) == case.key[1]
        assert "K" not in served.path
        sent = served.json
        assert isinstance(sent[case.bound_in], int)
        for name, value in case.body.items():
            assert sent[name] == value, name
        assert not set(case.absent) & sent.keys()
        if case.fmt is CHAT:
            assert {"max_tokens", "max_completion_tokens"} & sent.keys() == {case.bound_in}


@by_provider
async def test_usage_is_billed_at_the_price_that_the_provider_has(tmp_path: Path, case: Sent) -> None:
    async with set_up(tmp_path, case) as wire:
        wire.provider.script = play(answer(case.fmt.reply))
        got = await post(wire, case)
        assert (got.status, got.body) == (200, case.fmt.reply)
        state, basis, captured, held = await the_end(wire)
        assert (state, basis, captured) == (HoldState.CAPTURED, "metered", case.cost_nanodollars)
        assert captured < held


@by_provider
async def test_an_error_is_billed_where_the_provider_may_bill_it(tmp_path: Path, case: Sent) -> None:
    async with set_up(tmp_path, case) as wire:
        for number, status in enumerate((*case.presumed, *case.void), 1):
            wire.provider.script = play(answer(b'{"error":{}}', status=status))
            assert (await post(wire, case)).status == status
            await wire.settled(number)
        ends = [hold.state for hold in await wire.holds()]
        assert ends.count(HoldState.CAPTURED) == len(case.presumed)
        assert ends.count(HoldState.VOID) == len(case.void)


@by_provider
async def test_a_stream_that_breaks_is_presumed(tmp_path: Path, case: Sent) -> None:
    async with set_up(tmp_path, case) as wire:
        wire.provider.script = cut(chunked(*case.fmt.stream[:2])[: -len(b"0\r\n\r\n")])
        await post(wire, case, stream=True)
        state, basis, captured, held = await the_end(wire)
        assert (state, basis, captured) == (HoldState.CAPTURED, "presumed", held)


# ---- what only one of them does -----------------------------------------------------------------------------------


def reply_with(usage: dict[str, Any]) -> bytes:
    return json.dumps(json.loads(CHAT.reply) | {"usage": usage}).encode()


def one(name: str) -> Sent:
    return next(case for case in CASES if case.name == name)


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_of_xai_is_billed_as_output(tmp_path: Path, stream: bool) -> None:
    details = {"reasoning_tokens": 20}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": details}
    last = {"id": "x", "object": "chat.completion.chunk", "choices": [], "usage": usage}
    async with set_up(tmp_path, one("xai")) as wire:
        made = chunked(*CHAT.stream[:3], *sse(last, done=True)) if stream else answer(reply_with(usage))
        wire.provider.script = play(made)
        await post(wire, one("xai"), stream=stream)
        assert (await the_end(wire))[2] == 10 * 400 + 25 * 1600


async def test_cached_input_of_deepseek_is_billed_at_its_rate(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 6}
    case = Sent("deepseek", "", ("", "K"), models={"some-model": OWN | {"cache_read": "0.10"}})
    async with set_up(tmp_path, case) as wire:
        wire.provider.script = play(answer(reply_with(usage)))
        await post(wire, case)
        assert (await the_end(wire))[2] == 6 * 400 + 4 * 100 + 5 * 1600


@pytest.mark.parametrize(
    ("cost", "nanodollars"), [(0.000123, 123_000), (0, CHAT.cost_nanodollars), (None, CHAT.cost_nanodollars)]
)
async def test_openrouter_is_believed_what_it_charged(tmp_path: Path, cost: object, nanodollars: int) -> None:
    async with set_up(tmp_path, one("openrouter")) as wire:
        wire.provider.script = play(answer(reply_with({"prompt_tokens": 10, "completion_tokens": 5, "cost": cost})))
        await post(wire, one("openrouter"))
        assert (await the_end(wire))[:3] == (HoldState.CAPTURED, "metered", nanodollars)


async def test_a_charge_above_the_hold_is_booked_in_full_and_stops_the_model(tmp_path: Path) -> None:
    async with set_up(tmp_path, one("openrouter")) as wire:
        wire.provider.script = play(answer(reply_with({"prompt_tokens": 10, "completion_tokens": 5, "cost": 0.9})))
        await post(wire, one("openrouter"))
        _state, _basis, captured, held = await the_end(wire)
        assert captured == held
        assert (await wire.account("run:r1")).overrun == 900_000_000 - held
        assert (await post(wire, one("openrouter"))).status != 200
        assert len(wire.provider.served) == 1


async def test_a_charge_below_nothing_is_presumed(tmp_path: Path) -> None:
    async with set_up(tmp_path, one("openrouter")) as wire:
        wire.provider.script = play(answer(reply_with({"prompt_tokens": 10, "completion_tokens": 5, "cost": -1})))
        await post(wire, one("openrouter"))
        _state, basis, captured, held = await the_end(wire)
        assert (basis, captured) == ("presumed", held)


@pytest.mark.parametrize("field", ["models", "route", "plugins", "preset"])
async def test_what_makes_a_router_buy_something_else_is_refused(tmp_path: Path, field: str) -> None:
    async with set_up(tmp_path, one("openrouter")) as wire:
        got = await post(wire, one("openrouter"), **{field: ["x"]})
        assert (got.status, got.json["error"]["code"]) == (422, "unbounded")  # type: ignore[index]
        assert wire.provider.served == []


@pytest.mark.parametrize("name", ["azure", "litellm"])
async def test_a_deployment_that_nobody_explained_is_refused(tmp_path: Path, name: str) -> None:
    async with set_up(tmp_path, one(name)) as wire:
        got = await post(wire, one(name), model="gpt-4.1-mini")
        assert got.status == 422
        assert "deployments = {" in got.json["error"]["message"]  # type: ignore[index]
        assert wire.provider.served == []


async def test_each_upstream_has_its_own_limits_of_time(tmp_path: Path) -> None:
    async def silent(_served: object, _writer: object) -> None: ...

    case = Sent("groq", "", ("", "K"), {"idle_seconds_max": 0.05})
    async with set_up(tmp_path, case) as wire:
        wire.provider.script = silent
        assert (await post(wire, case)).status == 502
        state, basis, _captured, _held = await the_end(wire)
        assert (state, basis) == (HoldState.CAPTURED, "presumed")


async def leaves(wire: Wire, case: Sent, after_events: int, gone: asyncio.Event) -> None:
    """Begin a stream, read some of its events, and leave without a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    writer.write(wire.raw(f"/{case.name}{case.fmt.path}", case.request | {"stream": True}, x_bursar_run="r1"))
    for _ in range(after_events):
        await reader.readuntil(b"\n\n")
    writer.transport.abort()
    gone.set()


@by_provider
async def test_when_the_client_leaves_the_rest_is_read_and_metered(tmp_path: Path, case: Sent) -> None:
    async with set_up(tmp_path, case) as wire:
        gone = asyncio.Event()

        async def script(_served: Served, writer: asyncio.StreamWriter) -> None:
            raw = chunked(*case.fmt.stream)
            first = len(chunked(case.fmt.stream[0])) - len(b"0\r\n\r\n")
            writer.write(raw[:first])
            await writer.drain()
            await gone.wait()
            writer.write(raw[first:])
            await writer.drain()

        wire.provider.script = script
        await leaves(wire, case, 1, gone)
        assert (await the_end(wire))[:3] == (HoldState.CAPTURED, "metered", case.cost_nanodollars)


@pytest.mark.parametrize(("own", "basis"), [(5, "metered"), (None, "presumed")])
async def test_how_long_the_rest_is_read_is_the_upstreams_own_or_the_policys(
    tmp_path: Path, own: int | None, basis: str
) -> None:
    """The policy says: not at all."""
    settings = {"base_url": "PROVIDER"} | ({} if own is None else {"read_on_seconds_max": own})
    case = Sent("groq", "", ("", "K"), settings)
    policy = {"read_on_seconds_max": 0}
    async with wire_up(
        tmp_path, secrets={"groq": "K"}, upstreams={"groq": settings}, policy=policy, models=case.models
    ) as wire:
        gone = asyncio.Event()

        async def script(_served: Served, writer: asyncio.StreamWriter) -> None:
            raw = chunked(*CHAT.stream)
            first = len(chunked(CHAT.stream[0])) - len(b"0\r\n\r\n")
            writer.write(raw[:first])
            await writer.drain()
            await (gone if own else asyncio.Event()).wait()
            writer.write(raw[first:])
            await writer.drain()

        wire.provider.script = script
        await leaves(wire, case, 1, gone)
        assert (await the_end(wire))[:2] == (HoldState.CAPTURED, basis)


async def test_each_upstream_has_its_own_limit_of_a_whole_answer(tmp_path: Path) -> None:
    async def endless(_served: Served, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked(CHAT.stream[0])[: -len(b"0\r\n\r\n")])
        await writer.drain()
        await asyncio.Event().wait()

    case = Sent("groq", "", ("", "K"), {"total_seconds_max": 0.05})
    async with set_up(tmp_path, case) as wire:
        wire.provider.script = endless
        assert not (await post(wire, case, stream=True)).is_complete
        assert (await the_end(wire))[:2] == (HoldState.CAPTURED, "presumed")
