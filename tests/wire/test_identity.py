"""Which key, which run: the first name found counts, and nobody leaves the run of a run key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bodies import CHAT, MESSAGES
from conftest import KEY_ENV, SECRET, Wire, wire_up
from scripted import answer, exchange, play, request

from bursar.edge.callers import digest, new_run_secret, new_secret, template_to_json
from bursar.ledger.account import Limits, OpenScope

SESSION_HEADERS = [
    "x-claude-code-session-id",
    "session-id",
    "x-session-id",
    "goose-session-id",
    "x-cagent-session-id",
    "x-litellm-trace-id",
    "x-litellm-session-id",
    "langfuse_session_id",
    "helicone-session-id",
    "x-portkey-trace-id",
]


async def the_run(wire: Wire) -> str:
    (run,) = await wire.store.runs()
    return run.run


@pytest.mark.parametrize("header", SESSION_HEADERS)
async def test_a_session_that_the_client_names_is_its_run(wire: Wire, header: str) -> None:
    wire.provider.script = play(answer(CHAT.reply))
    raw = request(CHAT.path, json.dumps(CHAT.request).encode(), {"authorization": f"Bearer {SECRET}", header: "s-1"})
    assert (await exchange(wire.port, raw)).headers["x-bursar-run"] == "s-1"
    assert await the_run(wire) == "s-1"


async def test_open_telemetry_baggage_names_the_run(wire: Wire) -> None:
    wire.provider.script = play(answer(CHAT.reply))
    await wire.post(CHAT.path, CHAT.request, baggage="user=x, session.id=s-2;p=1")
    assert await the_run(wire) == "s-2"


async def test_the_body_of_claude_code_names_the_run(wire: Wire) -> None:
    wire.provider.script = play(answer(MESSAGES.reply))
    user = json.dumps({"device_id": "d", "account_uuid": "", "session_id": "s-3"})
    await wire.post(MESSAGES.path, MESSAGES.request | {"metadata": {"user_id": user}})
    assert await the_run(wire) == "s-3"


async def test_the_path_comes_before_the_header_and_the_header_before_the_session(wire: Wire) -> None:
    wire.provider.script = play(answer(CHAT.reply))
    names = {"x_session_id": "by-session"}
    got = await wire.post("/r/by-path/v1/chat/completions", CHAT.request, **names)
    assert got.headers["x-bursar-run"] == "by-path"
    got = await wire.post("/r/by-path/openai/v1/chat/completions", CHAT.request, **names)
    assert got.headers["x-bursar-run"] == "by-path"
    names["x_bursar_run"] = "by-header"
    assert (await wire.post(CHAT.path, CHAT.request, **names)).headers["x-bursar-run"] == "by-header"
    served = len(wire.provider.served)
    got = await wire.post("/r/by-path/v1/chat/completions", CHAT.request, **names)
    assert (got.status, len(wire.provider.served)) == (400, served)


async def test_without_a_name_there_is_one_run_per_key_and_day(wire: Wire) -> None:
    wire.provider.script = play(answer(CHAT.reply))
    first = (await wire.post(CHAT.path, CHAT.request)).headers["x-bursar-run"]
    second = (await wire.post(CHAT.path, CHAT.request)).headers["x-bursar-run"]
    assert first.startswith("wire@")
    assert first[:15] == second[:15]


async def test_a_run_key_cannot_leave_its_run(wire: Wire) -> None:
    wire.provider.script = play(answer(CHAT.reply))
    secret = new_run_secret()
    await wire.store.submit(OpenScope("run:mine", "key:wire", Limits(calls=1)))
    await wire.store.put_key("wire", digest(secret), "mine", template_to_json(Limits()))
    bearer = f"Bearer {secret}"
    got = await wire.post("/r/other/v1/chat/completions", CHAT.request, authorization=bearer, x_bursar_run="third")
    assert got.headers["x-bursar-run"] == "mine"
    got = await wire.post("/r/other/v1/chat/completions", CHAT.request, authorization=bearer, x_bursar_run="third")
    assert got.status == 429


async def test_a_run_key_whose_run_is_gone_opens_no_new_one(wire: Wire) -> None:
    secret = new_run_secret()
    await wire.store.put_key("wire", digest(secret), "lost", template_to_json(Limits()))
    got = await wire.post(CHAT.path, CHAT.request, authorization=f"Bearer {secret}")
    assert (got.status, wire.provider.served) == (403, [])


async def test_a_run_belongs_to_the_key_that_opened_it(wire: Wire) -> None:
    wire.provider.script = play(answer(CHAT.reply))
    await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")
    secret = new_secret()
    await wire.store.submit(OpenScope("key:other", "", Limits()))
    await wire.store.put_key("other", digest(secret), "", template_to_json(Limits(calls=5)))
    got = await wire.post(CHAT.path, CHAT.request, authorization=f"Bearer {secret}", x_bursar_run="r1")
    assert (got.status, got.json["error"]["code"]) == (403, "run_taken")  # type: ignore[index]
    assert len(wire.provider.served) == 1


async def test_renaming_runs_is_bounded_per_hour(tmp_path: Path) -> None:
    few = {"keys": {"wire": {"key_env": KEY_ENV, "run": {"calls": 5}, "runs_per_hour_max": 3}}}
    async with wire_up(tmp_path, **few) as wire:
        wire.provider.script = play(answer(CHAT.reply))
        statuses = [(await wire.post(CHAT.path, CHAT.request, x_bursar_run=f"r{n}")).status for n in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        assert (await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")).status == 200


@pytest.mark.parametrize("name", ["x_bursar_run", "x_session_id", "goose_session_id"])
@pytest.mark.parametrize("value", ["a b", "r1\t", "../r", "r1,r2", "é", "x" * 129, "-", "a@b", "r%0d%0aset-cookie: x"])
async def test_a_name_that_is_none_is_refused(wire: Wire, name: str, value: str) -> None:
    if value.strip() != value:
        value = "r\t1"
    got = await wire.post(CHAT.path, CHAT.request, **{name: value})
    assert (got.status, wire.provider.served, await wire.store.runs()) == (400, [], ())


async def test_a_line_break_in_a_run_name_reaches_nobody(wire: Wire) -> None:
    body = json.dumps(CHAT.request).encode()
    raw = request(CHAT.path, body, {"authorization": f"Bearer {SECRET}", "x-bursar-run": "r1\nset-cookie: a=b"})
    got = await exchange(wire.port, raw)
    # The server reads the second line as a header of its own; what matters is that no name carries it.
    assert "set-cookie" not in got.headers
    assert all("\n" not in run.run for run in await wire.store.runs())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {SECRET}"},
        {"authorization": f"Bearer {SECRET}", "x-api-key": "another"},
        {"x-api-key": "x" * 600},
    ],
    ids=["none", "unknown", "other scheme", "two keys", "too long"],
)
async def test_without_a_known_key_nothing_is_passed_on(wire: Wire, headers: dict[str, str]) -> None:
    got = await exchange(wire.port, request(CHAT.path, json.dumps(CHAT.request).encode(), headers))
    assert (got.status, wire.provider.served) == (401, [])


@pytest.mark.parametrize("headers", [{"x-api-key": SECRET}, {"authorization": f"bearer  {SECRET}"}])
async def test_a_key_is_taken_from_either_header(wire: Wire, headers: dict[str, str]) -> None:
    wire.provider.script = play(answer(CHAT.reply))
    assert (await exchange(wire.port, request(CHAT.path, json.dumps(CHAT.request).encode(), headers))).status == 200


async def test_a_key_that_would_open_runs_without_a_cap_opens_none(wire: Wire) -> None:
    secret = new_secret()
    await wire.store.submit(OpenScope("key:other", "", Limits()))
    await wire.store.put_key("other", digest(secret), "", template_to_json(Limits()))
    got = await wire.post(CHAT.path, CHAT.request, authorization=f"Bearer {secret}")
    assert (got.status, wire.provider.served, await wire.store.runs()) == (401, [], ())


async def test_a_revoked_key_is_refused_on_its_next_call(wire: Wire) -> None:
    wire.provider.script = play(answer(CHAT.reply))
    secret = new_secret()
    await wire.store.submit(OpenScope("key:other", "", Limits()))
    await wire.store.put_key("other", digest(secret), "", template_to_json(Limits(calls=5)))
    bearer = f"Bearer {secret}"
    assert (await wire.post(CHAT.path, CHAT.request, authorization=bearer)).status == 200
    assert await wire.store.revoke_key("other") == 1
    assert (await wire.post(CHAT.path, CHAT.request, authorization=bearer)).status == 401


async def test_a_key_calls_only_its_models(tmp_path: Path) -> None:
    narrow = {"keys": {"wire": {"key_env": KEY_ENV, "models": ["claude-*"]}}}
    async with wire_up(tmp_path, **narrow) as wire:
        got = await wire.post(CHAT.path, CHAT.request)
        assert (got.status, got.json["error"]["code"]) == (403, "model_not_allowed")  # type: ignore[index]
