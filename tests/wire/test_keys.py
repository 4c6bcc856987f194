"""What a key may do: where from, how long, at which upstreams, with which tags; and who it is for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bodies import CHAT, MESSAGES
from conftest import KEY_ENV, Wire, wire_up
from scripted import Answer, answer, play

from bursar.clock import Instant, SystemClock
from bursar.edge.callers import digest, new_run_secret, new_secret, template_to_json, terms_to_json
from bursar.ledger.account import Limits, OpenScope


async def key(wire: Wire, name: str = "made", run: str = "", expires_at: int | None = None, **terms: Any) -> str:
    """Make a key in the books; give it as a header."""
    secret = new_run_secret() if run else new_secret()
    await wire.store.submit(OpenScope(f"key:{name}", "", Limits()))
    template = template_to_json(Limits() if terms.get("role") else Limits(calls=50))
    end = None if expires_at is None else Instant(expires_at)
    await wire.store.put_key(name, digest(secret), run, template, terms_to_json(terms), end)
    return f"Bearer {secret}"


async def ask(wire: Wire, bearer: str | None = None, **headers: str) -> Answer:
    wire.provider.script = play(answer(CHAT.reply))
    named = {"authorization": bearer} if bearer else {}
    return await wire.post(CHAT.path, CHAT.request, **named, **headers)


def code(got: Answer) -> tuple[int, object]:
    return got.status, json.loads(got.body)["error"].get("code")


async def test_a_key_ends_when_it_expires(wire: Wire) -> None:
    now = SystemClock().now()
    assert (await ask(wire, await key(wire, expires_at=now + 60_000_000))).status == 200
    ended = await key(wire, expires_at=now)
    assert code(await ask(wire, ended)) == (401, "invalid_key")


async def test_a_key_works_where_it_may(wire: Wire) -> None:
    here = await key(wire, networks=["10.0.0.0/8", "127.0.0.0/8"])
    assert (await ask(wire, here)).status == 200
    elsewhere = await key(wire, networks=["10.0.0.0/8", "::1/128"])
    got = await ask(wire, elsewhere, x_forwarded_for="10.0.0.1", forwarded="for=10.0.0.1")
    assert code(got) == (403, "network_not_allowed")


async def test_a_key_calls_its_upstreams_only(wire: Wire) -> None:
    only = await key(wire, upstreams=["anth*"])
    assert code(await ask(wire, only)) == (403, "upstream_not_allowed")
    wire.provider.script = play(answer(MESSAGES.reply))
    assert (await wire.post(MESSAGES.path, MESSAGES.request, authorization=only)).status == 200
    got = await wire.post("/v1/models/gpt-4.1-mini", b"", authorization=only)
    assert got.status == 404


async def test_a_fallback_is_no_way_to_an_upstream_that_the_key_may_not_call(tmp_path: Path) -> None:
    settings = {
        "upstreams": {"spare": {"provider": "openai", "key_env": "WIRE_OPENAI"}},
        "fallback": {CHAT.request["model"]: ["openai", "spare"]},
        "keys": {"wire": {"key_env": KEY_ENV, "upstreams": ["openai"]}},
    }
    async with wire_up(tmp_path, secrets={"spare": "sk-spare"}, **settings) as wire:
        wire.provider.script = play(answer(b"{}", status=503))
        assert (await wire.post(CHAT.path, CHAT.request)).status == 503
        assert [served.header("authorization") for served in wire.provider.served] == ["Bearer sk-real-openai"]


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
async def test_a_key_for_the_books_makes_no_calls(wire: Wire, role: str) -> None:
    bearer = await key(wire, role=role)
    assert code(await ask(wire, bearer)) == (403, "not_for_calls")
    assert wire.provider.served == []


async def test_a_tag_that_a_key_requires_comes_from_anywhere(wire: Wire) -> None:
    bearer = await key(wire, tags_required=["env", "job"], tags=["env=prod"])
    assert code(await ask(wire, bearer)) == (400, "tag_required")
    for headers in ({"x_bursar_tags": "job=1"}, {"helicone_property_job": "1"}, {"baggage": "bursar.tag.job=1"}):
        assert (await ask(wire, bearer, **headers)).status == 200
    await wire.store.submit(OpenScope("run:tagged", "key:made", Limits(calls=9), path=("tag:job=7",)))
    assert (await ask(wire, bearer, x_bursar_run="tagged")).status == 200
    bound = await key(wire, run="tagged", tags_required=["job"])
    assert (await ask(wire, bound)).status == 200


async def test_what_the_settings_say_of_a_name_holds_where_the_key_says_nothing(tmp_path: Path) -> None:
    declared = {"key_env": KEY_ENV, "upstreams": ["openai"], "tags": ["env=prod"], "models": ["gpt-*"]}
    async with wire_up(tmp_path, keys={"wire": declared}, tags={"env=prod": {"calls": 2}}) as wire:
        plain, other = await key(wire, "wire"), await key(wire, "wire", tags=["env=dev"], models=["claude-*"])
        assert code(await ask(wire, other)) == (403, "model_not_allowed")
        assert [(await ask(wire, bearer)).status for bearer in (None, plain, plain)] == [200, 200, 429]


async def test_a_term_that_this_version_does_not_know_lets_nobody_in(wire: Wire) -> None:
    secret = new_secret()
    await wire.store.put_key("new", digest(secret), "", template_to_json(Limits(calls=1)), '{"moon_phase":"full"}')
    assert code(await ask(wire, f"Bearer {secret}")) == (403, "unknown_term")


async def test_what_the_settings_declare_is_in_the_books_and_is_lifted_when_it_is_taken_out(tmp_path: Path) -> None:
    said: dict[str, Any] = {
        "organisation": {"budgets": [{"usd": "1000", "period": "month"}]},
        "teams": {"red": {"usd": "50", "budgets": [{"calls": 9, "period": "rolling 1h"}]}},
        "users": {"ann@example.com": {"tokens": 1000}},
        "tags": {"env=prod": {"calls": 5}},
        "budgets": {"model:gpt-*": {"usd": "7"}, "upstream:openai": {"calls": 3}},
    }
    async with wire_up(tmp_path, **said) as wire:
        limits = {account.id.partition(" ")[0]: account.limit for account in await wire.store.accounts()}
        assert limits["team:red/usd/lifetime"] == 50_000_000_000
        assert limits["user:ann@example.com/tokens/lifetime"] == 1000
        assert limits["tag:env=prod/calls/lifetime"] == 5
        assert limits["model:gpt-*/usd/lifetime"] == 7_000_000_000
        assert limits["upstream:openai/calls/lifetime"] == 3
        assert 1000_000_000_000 in limits.values()
        assert [(await ask(wire)).status for _ in range(4)] == [200, 200, 200, 429]
    said["budgets"] = {"upstream:openai": {"usd": "1"}}
    async with wire_up(tmp_path, **said) as wire:
        assert (await ask(wire)).status == 200
