"""When an upstream fails, the next one is asked: a hold, an id and a settlement of its own for every attempt."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from bodies import CHAT, FORMATS, MESSAGES, MODEL, RESPONSES, Format
from conftest import KEY_ENV, Wire, wire_up
from scripted import Answer, Provider, Script, answer, chunked, cut, play, provider

from bursar.call import Call, Head
from bursar.dialects.protocol import Quirks, Request
from bursar.dialects.table import DIALECTS
from bursar.edge.fallback import Fallbacks, Route, SpareCalls
from bursar.ledger.account import HoldState, Unit
from bursar.ledger.store import HoldRow

by_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
ERROR = json.dumps({"error": {"message": "busy", "type": "server_error"}}).encode()
NOBODY = "http://127.0.0.1:9"  # the discard port: nobody listens


@asynccontextmanager
async def two_upstreams(
    folder: Path,
    fmt: Format,
    routes: tuple[str, ...] = ("{first}", "spare"),
    *,
    run: dict[str, Any] | None = None,
    models: list[str] | None = None,
    **spare: Any,
) -> AsyncIterator[tuple[Wire, Provider]]:
    """A gateway whose usual upstream is `wire.provider`, and the spare that is asked when that one fails."""
    first = "anthropic" if fmt is MESSAGES else "openai"
    async with provider() as second:
        second.script = play(answer(fmt.reply))
        given = {"dialect": first, "base_url": second.url, "prices": first, "takes_service_tier": True, **spare}
        key = {"key_env": KEY_ENV, "run": run or {"usd": "1.00", "calls": 20}, "models": models or ["*"]}
        named = {fmt.request["model"]: [route.format(first=first) for route in routes]}
        upstreams: dict[str, Any] = {"spare": given, "third": {**given, "base_url": NOBODY}}
        async with wire_up(folder, upstreams=upstreams, keys={"wire": key}, fallback=named) as wire:
            yield wire, second


async def call(wire: Wire, fmt: Format, **more: Any) -> Answer:
    return await wire.post(fmt.path, fmt.request | more, x_bursar_run="r1")


async def the_holds(wire: Wire, count: int) -> list[HoldRow]:
    await wire.settled(count)
    assert await wire.audit() == []
    holds = sorted(await wire.holds(), key=lambda hold: hold.call_id)
    assert len(holds) == count
    run = await wire.account("run:r1")
    assert (run.held, run.captured) == (0, sum(hold.captured.usd for hold in holds))
    calls = await wire.account("run:r1", Unit.CALLS)
    assert (calls.held, calls.captured) == (0, sum(hold.captured.calls for hold in holds))
    return holds


# ---- when the next one is asked -----------------------------------------------------------------------------------


@by_format
@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
async def test_an_upstream_that_is_overloaded_is_followed_by_the_next(tmp_path: Path, fmt: Format, status: int) -> None:
    async with two_upstreams(tmp_path, fmt) as (wire, second):
        wire.provider.script = play(answer(ERROR, status))
        got = await call(wire, fmt)
        assert (got.status, got.body) == (200, fmt.reply)
        assert [len(wire.provider.served), len(second.served)] == [1, 1]
        assert wire.provider.served[0].body == second.served[0].body
        failed, paid = await the_holds(wire, 2)
        assert (failed.upstream, paid.upstream) == ("anthropic" if fmt is MESSAGES else "openai", "spare")
        assert paid.call_id == f"{failed.call_id}-a2"
        assert got.headers["x-bursar-call"] == paid.call_id
        assert got.headers["x-bursar-upstream"] == "spare"
        assert (paid.state, paid.basis, paid.captured.usd) == (HoldState.CAPTURED, "metered", fmt.cost_nanodollars)
        # A void attempt gives its call back; one that may have been billed counts, at its whole hold.
        if status == 429 or fmt is MESSAGES:
            assert (failed.state, failed.captured.usd, failed.captured.calls) == (HoldState.VOID, 0, 0)
        else:
            assert (failed.state, failed.basis) == (HoldState.CAPTURED, "presumed")
            assert (failed.captured.usd, failed.captured.calls) == (failed.held.usd, 1)


@by_format
async def test_a_connection_that_breaks_before_the_answer_is_charged_and_followed_by_the_next(
    tmp_path: Path, fmt: Format
) -> None:
    async with two_upstreams(tmp_path, fmt) as (wire, _second):
        wire.provider.script = cut(b"")
        got = await call(wire, fmt)
        assert (got.status, got.body) == (200, fmt.reply)
        broken, paid = await the_holds(wire, 2)
        assert (broken.basis, broken.captured) == ("presumed", broken.held)
        assert (paid.basis, paid.captured.usd) == ("metered", fmt.cost_nanodollars)


@by_format
async def test_an_upstream_that_is_not_reached_costs_nothing_and_no_call(tmp_path: Path, fmt: Format) -> None:
    async with two_upstreams(tmp_path, fmt, ("third", "spare")) as (wire, second):
        got = await wire.post(f"/third{fmt.path}", fmt.request, x_bursar_run="r1")
        assert (got.status, got.headers["x-bursar-upstream"]) == (200, "spare")
        unreached, paid = await the_holds(wire, 2)
        assert (unreached.upstream, unreached.state) == ("third", HoldState.VOID)
        assert (paid.upstream, paid.state) == ("spare", HoldState.CAPTURED)
        assert (len(wire.provider.served), len(second.served)) == (0, 1)


@by_format
async def test_a_stream_falls_back_before_its_first_byte(tmp_path: Path, fmt: Format) -> None:
    async with two_upstreams(tmp_path, fmt) as (wire, second):
        wire.provider.script = play(answer(ERROR, 503))
        second.script = play(chunked(*fmt.stream))
        got = await call(wire, fmt, stream=True)
        assert (got.status, got.is_complete) == (200, True)
        _failed, paid = await the_holds(wire, 2)
        assert (paid.basis, paid.captured.usd) == ("metered", fmt.cost_nanodollars)


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 408, 413, 422])
async def test_any_other_answer_is_the_answer(tmp_path: Path, status: int) -> None:
    async with two_upstreams(tmp_path, CHAT) as (wire, second):
        wire.provider.script = play(answer(CHAT.reply if status == 200 else ERROR, status))
        got = await call(wire, CHAT)
        assert (got.status, got.headers["x-bursar-upstream"]) == (status, "openai")
        assert second.served == []
        await the_holds(wire, 1)


@pytest.mark.parametrize("script", [cut(chunked(*CHAT.stream)[:300]), cut(answer(CHAT.reply)[:-5])])
async def test_an_answer_that_has_begun_is_never_asked_for_again(tmp_path: Path, script: Script) -> None:
    async with two_upstreams(tmp_path, CHAT) as (wire, second):
        wire.provider.script = script
        await call(wire, CHAT)
        assert second.served == []
        (hold,) = await the_holds(wire, 1)
        assert hold.state is HoldState.CAPTURED


# ---- when all fail ------------------------------------------------------------------------------------------------


@by_format
async def test_the_answer_of_the_last_upstream_is_passed_on_whatever_it_is(tmp_path: Path, fmt: Format) -> None:
    async with two_upstreams(tmp_path, fmt) as (wire, second):
        wire.provider.script = play(answer(ERROR, 500))
        second.script = play(answer(b'{"error":{"message":"slow down"}}', 429, extra="retry-after: 7\r\n"))
        got = await call(wire, fmt)
        assert (got.status, got.body) == (429, b'{"error":{"message":"slow down"}}')
        assert (got.headers["retry-after"], got.headers["x-bursar-upstream"]) == ("7", "spare")
        await the_holds(wire, 2)


@by_format
async def test_the_first_failure_is_told_when_no_other_upstream_answers(tmp_path: Path, fmt: Format) -> None:
    async with two_upstreams(tmp_path, fmt, ("{first}", "third")) as (wire, _second):
        wire.provider.script = play(answer(ERROR, 429))
        got = await call(wire, fmt)
        assert got.status == 429
        error = got.json["error"]
        assert isinstance(error, dict)
        assert "answered 429" in error["message"]
        first, third = await the_holds(wire, 2)
        assert (first.state, third.state, third.upstream) == (HoldState.VOID, HoldState.VOID, "third")


async def test_a_spare_that_cannot_be_paid_is_not_asked_and_no_cap_is_blamed(tmp_path: Path) -> None:
    run = {"usd": "1.00", "calls": 1}
    async with two_upstreams(tmp_path, CHAT, run=run) as (wire, second):
        wire.provider.script = cut(b"")
        got = await call(wire, CHAT)
        assert (got.status, got.json["error"]["code"]) == (502, "upstream_silent")  # type: ignore[index]
        assert second.served == []
        (hold,) = await the_holds(wire, 1)
        assert hold.basis == "presumed"


async def test_a_call_that_is_refused_for_money_is_not_offered_to_the_next(tmp_path: Path) -> None:
    async with two_upstreams(tmp_path, CHAT, run={"usd": "0.00", "calls": 5}) as (wire, second):
        got = await call(wire, CHAT)
        assert (got.status, got.json["error"]["code"]) == (429, "cap_exhausted")  # type: ignore[index]
        assert (wire.provider.served, second.served) == ([], [])


async def test_every_attempt_that_may_have_been_billed_counts(tmp_path: Path) -> None:
    async with two_upstreams(tmp_path, CHAT, run={"usd": "1.00", "calls": 2}) as (wire, second):
        wire.provider.script = play(answer(ERROR, 500))
        assert (await call(wire, CHAT)).status == 200
        await the_holds(wire, 2)
        got = await call(wire, CHAT)
        assert got.json["error"]["bursar"]["unit"] == "calls"  # type: ignore[index]
        assert (len(wire.provider.served), len(second.served)) == (1, 1)


# ---- which one is asked, and for what -----------------------------------------------------------------------------


async def test_another_model_is_asked_for_by_its_name_and_paid_at_its_price(tmp_path: Path) -> None:
    async with two_upstreams(tmp_path, CHAT, ("{first}", "spare/gpt-4.1")) as (wire, second):
        wire.provider.script = play(answer(ERROR, 503))
        got = await call(wire, CHAT)
        assert got.status == 200
        assert second.served[0].json == {**wire.provider.served[0].json, "model": "gpt-4.1"}
        first, paid = await the_holds(wire, 2)
        assert (first.model, paid.model) == (MODEL, "gpt-4.1")
        # gpt-4.1 costs five times what gpt-4.1-mini does.
        assert paid.held.usd > 4 * first.held.usd
        assert paid.captured.usd == 10 * 2_000 + 5 * 8_000


async def test_the_ways_of_the_spare_are_its_own(tmp_path: Path) -> None:
    async with two_upstreams(tmp_path, CHAT, output_field="max_tokens", takes_service_tier=False) as (wire, second):
        wire.provider.script = play(answer(ERROR, 503))
        request = {name: value for name, value in CHAT.request.items() if name != "max_tokens"}
        assert (await wire.post(CHAT.path, request, x_bursar_run="r1")).status == 200
        assert {"max_completion_tokens", "service_tier"} <= wire.provider.served[0].json.keys()
        assert "max_tokens" in second.served[0].json
        assert not {"max_completion_tokens", "service_tier"} & second.served[0].json.keys()


async def test_a_model_that_the_key_may_not_use_is_passed_over(tmp_path: Path) -> None:
    routes = ("{first}", "spare/gpt-4.1", "spare")
    async with two_upstreams(tmp_path, CHAT, routes, models=["*-mini"]) as (wire, second):
        wire.provider.script = play(answer(ERROR, 503))
        assert (await call(wire, CHAT)).status == 200
        assert [served.json["model"] for served in second.served] == [MODEL]


async def test_a_model_without_a_price_is_passed_over(tmp_path: Path) -> None:
    routes = ("{first}", "spare/gpt-99", "spare")
    async with two_upstreams(tmp_path, CHAT, routes) as (wire, second):
        wire.provider.script = play(answer(ERROR, 503))
        assert (await call(wire, CHAT)).status == 200
        assert [served.json["model"] for served in second.served] == [MODEL]
        await the_holds(wire, 2)


async def test_an_upstream_whose_key_is_missing_is_passed_over(tmp_path: Path) -> None:
    async with two_upstreams(tmp_path, CHAT, key_env="BURSAR_KEY_THAT_NOBODY_SET") as (wire, second):
        wire.provider.script = play(answer(ERROR, 503))
        got = await call(wire, CHAT)
        assert (got.status, got.body) == (503, ERROR)
        assert second.served == []


async def test_the_spare_itself_has_no_spare(tmp_path: Path) -> None:
    async with two_upstreams(tmp_path, CHAT) as (wire, second):
        second.script = play(answer(ERROR, 503))
        got = await wire.post(f"/spare{CHAT.path}", CHAT.request, x_bursar_run="r1")
        assert (got.status, wire.provider.served) == (503, [])


async def test_a_client_that_left_is_not_tried_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursar.edge.asgi.WATCH_AFTER_SECONDS", 0.0)
    may_answer = asyncio.Event()
    async with two_upstreams(tmp_path, RESPONSES) as (wire, second):

        async def slow(_served: object, writer: asyncio.StreamWriter) -> None:
            await may_answer.wait()
            writer.write(answer(ERROR, 503))
            await writer.drain()

        wire.provider.script = slow
        _reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        writer.write(wire.raw(RESPONSES.path, RESPONSES.request, x_bursar_run="r1"))
        await writer.drain()
        await wire.until(lambda: bool(wire.provider.served))
        writer.close()
        await writer.wait_closed()
        # Gateway and test share one loop: whoever asks later is answered when the end of that connection is known.
        for _ in range(5):
            assert (await wire.post("/v1/nothing", b"")).status == 404
        may_answer.set()
        await the_holds(wire, 1)
        assert second.served == []


# ---- the routes ---------------------------------------------------------------------------------------------------


class _Asked:
    def __init__(self, upstream: str, model: str) -> None:
        self.upstream, self.model = upstream, model


@pytest.mark.parametrize(
    ("upstream", "model", "after"),
    [
        ("openai", "gpt-5", ["azure/mine", "spare"]),
        ("azure", "mine", []),
        ("spare", "gpt-5", []),
        ("groq", "gpt-5", []),
        ("openai", "gpt-4.1-mini", ["spare"]),
        ("openai", "gpt-4.1-mini-2025", ["spare"]),
        ("openai", "o3", []),
    ],
)
def test_what_comes_after_is_asked(upstream: str, model: str, after: list[str]) -> None:
    routes = Fallbacks({"gpt-5": ["openai", "azure/mine", "spare"], "gpt-4.1-*": ["openai", "spare"]})
    found = routes.after(_Asked(upstream, model))  # type: ignore[arg-type]
    assert list(found) == [Route.of(text) for text in after]


def test_a_model_name_may_have_slashes() -> None:
    assert Route.of("openrouter/openai/gpt-5") == Route("openrouter", "openai/gpt-5")


def test_a_model_in_the_path_is_replaced_in_the_path() -> None:
    body = json.dumps({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}).encode()
    path, dialect = "/v1beta/models/gemini-2.5-pro:generateContent", DIALECTS["gemini"]
    call = dialect.parse(Request("gemini", path, {}, body, Quirks(), Head(path)))
    assert isinstance(call, Call), call
    routes = (Route("nobody", ""), Route("spare", "gemini-2.5-flash"), Route("spare", ""))
    spares = SpareCalls(call, dialect, {}, routes, {"spare": Quirks()}, ("gemini-*",))
    found = [spares.take(), spares.take(), spares.take()]
    assert [one and (one.upstream, one.model, one.head.target) for one in found] == [
        ("spare", "gemini-2.5-flash", "/v1beta/models/gemini-2.5-flash:generateContent"),
        ("spare", "gemini-2.5-pro", path),
        None,
    ]
