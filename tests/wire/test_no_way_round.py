"""Whichever way a call names its tag, run or user, in every dialect, streamed or not: it hits the same budget."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from bodies import CHAT, MESSAGES, RESPONSES
from conftest import KEY_ENV, SECRET, Wire, wire_up
from scripted import Answer, answer, exchange, play, request

from bursar.ledger.account import AccountState, Limits, OpenScope, SetLimit, SetState, Unit

# As Claude Code writes them.
FREE_RUN, SPENT_RUN = "0a2f1e9c-0000-4000-8000-000000000001", "0a2f1e9c-0000-4000-8000-000000000002"
USERS_ENV, USERS_SECRET = "BURSAR_WIRE_USERS_KEY", "bursar-users-test-secret"
GEMINI = "/v1beta/models/gemini-2.5-flash"
ASK_GEMINI = {"contents": [{"parts": [{"text": "hello"}]}], "generationConfig": {"maxOutputTokens": 100}}


@dataclass(frozen=True)
class Way:
    """One place where something can be said; `WHAT` stands for what is said."""

    name: str
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    path: str = ""

    def said(self, what: str) -> tuple[str, dict[str, str], dict[str, Any]]:
        headers = {name: value.replace("WHAT", what) for name, value in self.headers.items()}
        return self.path.replace("WHAT", what), headers, json.loads(json.dumps(self.body).replace("WHAT", what))


def header(name: str, value: str = "WHAT") -> Way:
    return Way(f"{name}: {value}", headers={name: value})


def body(**members: Any) -> Way:
    return Way(f"body {json.dumps(members)}", body=members)


# What is said is the value of the tag `env`.
TAG_HEADERS = (
    header("x-bursar-tags", "team=x, env=WHAT"),
    header("X-Bursar-Tags", "ENV=WHAT"),
    header("x-litellm-tags", "env=WHAT,other"),
    header("helicone-property-env"),
    header("Helicone-Property-Env"),
    header("x-portkey-metadata", '{"env":"WHAT","_user":"x"}'),
    header("cf-aig-metadata", '{"Env":"WHAT"}'),
    header("databricks-ai-gateway-request-tags", '{"env":"WHAT"}'),
    header("x-litellm-spend-logs-metadata", '{"tags":["env=WHAT"]}'),
    header("baggage", "a=b,bursar.tag.env=WHAT;p=1"),
    header("baggage", "bursar.tag.ENV = WHAT"),
)
IN_METADATA = (
    body(metadata={"env": "WHAT"}),
    body(metadata={"tags": ["other", "env=WHAT"]}),
    body(metadata={"tags": "other,env=WHAT"}),
)
RUN_HEADERS = (
    Way("path", path="/r/WHAT"),
    header("x-bursar-run"),
    header("baggage", "bursar.run=WHAT"),
    header("baggage", "user=x, session.id=WHAT;p=1"),
    *map(
        header,
        (
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
        ),
    ),
)
USER_HEADERS = (
    header("x-bursar-user"),
    header("x-litellm-end-user-id"),
    header("x-litellm-customer-id"),
    header("helicone-user-id"),
    header("x-openwebui-user-id"),
    header("langfuse_trace_user_id"),
    header("x-portkey-metadata", '{"_user":"WHAT"}'),
    header("baggage", "bursar.user=WHAT"),
    header("baggage", "user.id=WHAT"),
    header("baggage", "enduser.id=WHAT"),
)


@dataclass(frozen=True)
class Form:
    """A dialect's request, and where its body can say something."""

    name: str
    path: str
    request: dict[str, Any]
    stream_path: str = ""
    streams: bool = True
    tags: tuple[Way, ...] = ()
    runs: tuple[Way, ...] = ()
    users: tuple[Way, ...] = ()

    def as_stream(self) -> Form:
        if self.stream_path:
            return Form(self.name, self.stream_path, self.request, "", False, self.tags, self.runs, self.users)
        asked = {**self.request, "stream": True}
        return Form(self.name, self.path, asked, "", False, self.tags, self.runs, self.users)


OPENAI_USERS = (body(user="WHAT"), body(safety_identifier="WHAT"), body(metadata={"user_id": "WHAT"}))
FORMS = (
    Form(
        "chat",
        CHAT.path,
        CHAT.request,
        tags=IN_METADATA,
        runs=(body(prompt_cache_key="WHAT"), body(metadata={"session_id": "WHAT"})),
        users=OPENAI_USERS,
    ),
    Form(
        "responses",
        RESPONSES.path,
        RESPONSES.request,
        tags=IN_METADATA,
        runs=(
            body(prompt_cache_key="WHAT"),
            body(metadata={"session_id": "WHAT"}),
            body(client_metadata={"session_id": "WHAT"}),
        ),
        users=OPENAI_USERS,
    ),
    Form(
        "completions",
        "/v1/completions",
        {"model": "gpt-3.5-turbo-instruct", "prompt": "hello", "max_tokens": 16},
        users=(body(user="WHAT"),),
    ),
    Form(
        "embeddings",
        "/v1/embeddings",
        {"model": "text-embedding-3-small", "input": "hello"},
        streams=False,
        users=(body(user="WHAT"),),
    ),
    Form(
        "messages",
        MESSAGES.path,
        MESSAGES.request,
        runs=(
            body(metadata={"user_id": '{"device_id":"d","session_id":"WHAT"}'}),
            body(metadata={"user_id": "user_1_account__session_WHAT"}),
        ),
        users=(body(metadata={"user_id": "WHAT"}),),
    ),
    Form(
        "gemini",
        f"{GEMINI}:generateContent",
        ASK_GEMINI,
        stream_path=f"{GEMINI}:streamGenerateContent?alt=sse",
        tags=(body(labels={"env": "WHAT"}),),
    ),
    Form(
        "gemini-embeddings",
        "/v1beta/models/gemini-embedding-001:embedContent",
        {"content": {"parts": [{"text": "hello"}]}},
        streams=False,
    ),
)
STREAMS = [form.as_stream() for form in FORMS if form.streams]
CASES = [*FORMS, *STREAMS]
NAMES = [*(form.name for form in FORMS), *(f"{form.name} stream" for form in FORMS if form.streams)]
SETTINGS: dict[str, Any] = {
    "upstreams": {"gemini": {}},
    "teams": {"red": {"calls": 1000}},
    "users": {"ann": {"calls": 0}},
    "tags": {"env=prod": {"calls": 0}},
    "keys": {
        "wire": {"key_env": KEY_ENV, "team": "red", "user": "eve", "run": {"usd": "none", "calls": 1000}},
        "users": {"key_env": USERS_ENV, "user": "*", "run": {"usd": "none", "calls": 1000}},
    },
}


@pytest.fixture
async def wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    monkeypatch.setenv(USERS_ENV, USERS_SECRET)
    async with wire_up(tmp_path, secrets={"gemini": "real-key"}, **copy.deepcopy(SETTINGS)) as made:
        made.provider.script = play(answer(b"{}"))
        for run, limits in ((FREE_RUN, Limits(calls=1000)), (SPENT_RUN, Limits(calls=0))):
            await made.store.submit(OpenScope(f"run:{run}", "key:wire", limits))
        yield made


async def ask(wire: Wire, form: Form, way: Way, what: str, secret: str = SECRET) -> Answer:
    prefix, headers, members = way.said(what)
    # Bodies say nothing twice: what a way says stands beside what the form asks.
    raw = json.dumps({**form.request, **members}).encode()
    return await exchange(wire.port, request(prefix + form.path, raw, {"authorization": f"Bearer {secret}", **headers}))


async def all_hit(wire: Wire, form: Form, ways: tuple[Way, ...], free: str, spent: str, scope: str, **key: str) -> None:
    """See that each way is let through with one value and refused by the one budget with the other."""
    for way in ways:
        served = len(wire.provider.served)
        refused = await ask(wire, form, way, spent, **key)
        assert (refused.status, len(wire.provider.served)) == (429, served), (way.name, refused.body)
        assert f'"{scope}"'.encode() in refused.body, (way.name, refused.body)
        if form in STREAMS:
            continue  # that the way itself is let through was seen without
        passed = await ask(wire, form, way, free, **key)
        assert (passed.status, len(wire.provider.served)) == (200, served + 1), (way.name, passed.body)


@pytest.mark.parametrize("form", CASES, ids=NAMES)
async def test_museum_3_every_way_to_name_a_tag_hits_its_budget(wire: Wire, form: Form) -> None:
    await all_hit(wire, form, TAG_HEADERS + form.tags, "dev", "prod", "tag:env=prod")
    assert await wire.audit() == []


@pytest.mark.parametrize("form", CASES, ids=NAMES)
async def test_museum_12_every_way_to_name_a_run_or_a_user_hits_its_budget(wire: Wire, form: Form) -> None:
    await all_hit(wire, form, RUN_HEADERS + form.runs, FREE_RUN, SPENT_RUN, f"run:{SPENT_RUN}")
    await all_hit(wire, form, USER_HEADERS + form.users, "bob@example.com", "ann", "user:ann", secret=USERS_SECRET)
    assert await wire.audit() == []


@pytest.mark.parametrize("form", FORMS, ids=NAMES[: len(FORMS)])
async def test_everybody_on_the_path_can_say_no(wire: Wire, form: Form) -> None:
    plain = Way("plain")
    model = str(form.request.get("model") or form.path.removeprefix("/v1beta/models/").partition(":")[0])
    upstream = "openai" if form.path.startswith("/v1/") else "gemini"
    upstream = "anthropic" if form.name == "messages" else upstream
    scopes = (
        "org",
        "team:red",
        "user:eve",
        "key:wire",
        f"model:{model}",
        f"model:{model[:4]}*",
        f"upstream:{upstream}",
    )
    for served, scope in enumerate(scopes):
        await wire.store.submit(SetLimit(scope, Unit.CALLS, 0, opens=True))
        refused = await ask(wire, form, plain, "")
        assert (refused.status, len(wire.provider.served)) == (429, served), (scope, refused.body)
        assert f'"{scope}"'.encode() in refused.body
        await wire.store.submit(SetLimit(scope, Unit.CALLS, None))
        await wire.store.submit(SetState(scope, AccountState.STOPPED))
        assert (await ask(wire, form, plain, "")).status == 429
        await wire.store.submit(SetState(scope, AccountState.OPEN))
        assert (await ask(wire, form, plain, "")).status == 200
