"""The providers' own SDKs and a light agent, unmodified, under `bursar run`: they work, and at the cap they stop."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import page
import pytest
import pytest_asyncio
from installed import versions
from under_run import AgentBench, Outcome, under_run

CALLS = 3

# What the SDK's HTTP client logs of every attempt is the client's own count, which must be that of the gateway.
COUNTING = """
import json, logging, re

attempts = []

class Counter(logging.Handler):
    def emit(self, record):
        if found := re.search(r'HTTP Request: POST \\S+ "HTTP/1.1 (\\d+)', record.getMessage()):
            attempts.append(int(found[1]))

logging.basicConfig(level=logging.INFO, handlers=[Counter()])

def until_refused(ask, error_type):
    while len(attempts) < 9:
        before = len(attempts)
        try:
            said = {"text": ask()}
        except error_type as error:
            said = {"error": type(error).__name__, "status": error.status_code, "message": str(error)}
        print(json.dumps(said | {"attempts": attempts[before:]}), flush=True)
        if "error" in said:
            return
"""

OPENAI = f"""
import openai
{COUNTING}
client = openai.OpenAI()
hello = [{{"role": "user", "content": "hello"}}]

def chat():
    return client.chat.completions.create(model="gpt-4.1-mini", messages=hello).choices[0].message.content

def chat_stream():
    chunks = client.chat.completions.create(model="gpt-4.1-mini", messages=hello, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

def responses():
    return client.responses.create(model="gpt-5", input="hello").output_text

def responses_stream():
    with client.responses.stream(model="gpt-5", input=hello) as stream:
        return "".join(event.delta for event in stream if event.type == "response.output_text.delta")
"""

ANTHROPIC = f"""
import anthropic
{COUNTING}
client = anthropic.Anthropic()
asked = {{"model": "claude-sonnet-4-5", "max_tokens": 500, "messages": [{{"role": "user", "content": "hello"}}]}}

def messages():
    return client.messages.create(**asked).content[0].text

def messages_stream():
    with client.messages.stream(**asked) as stream:
        return stream.get_final_text()
"""

SDKS = {
    **{name: f"{OPENAI}\nuntil_refused({name}, openai.APIStatusError)" for name in ("chat", "chat_stream")},
    **{name: f"{OPENAI}\nuntil_refused({name}, openai.APIStatusError)" for name in ("responses", "responses_stream")},
    **{
        name: f"{ANTHROPIC}\nuntil_refused({name}, anthropic.APIStatusError)"
        for name in ("messages", "messages_stream")
    },
}

AGENT = f"""
import agents, openai
{COUNTING}

looked = []

@agents.function_tool
def look() -> str:
    "Look at the thing once more."
    looked.append(1)
    return "not done yet"

agent = agents.Agent(name="looper", instructions="Look until it is done.", model="gpt-5", tools=[look])
try:
    print(json.dumps({{"text": agents.Runner.run_sync(agent, "go", max_turns=20).final_output}}))
except openai.APIStatusError as error:
    said = {{"error": type(error).__name__, "status": error.status_code, "message": str(error)}}
    print(json.dumps(said | {{"attempts": attempts, "looked": len(looked)}}))
"""


@pytest_asyncio.fixture
async def sdk(tmp_path: Path) -> AsyncIterator[AgentBench]:
    async with under_run(tmp_path) as made:
        # Its traces would go to the provider; there is none here.
        made.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"
        yield made


def ensure_refused(said: dict[str, Any], outcome: Outcome) -> None:
    assert (said["error"], said["status"]) == ("RateLimitError", 429)
    assert f"the cap of {CALLS} calls on run:{outcome.receipt['run']} is spent" in said["message"]
    assert "stop here and report" in said["message"]


def note(name: str, packages: tuple[str, ...], outcome: Outcome, error: str) -> None:
    row = page.row(name)
    row.version = versions({package: importlib.metadata.version(package) for package in packages})
    row.works, row.calls, row.cap = True, outcome.till_calls, CALLS
    row.attempts, row.exit_status, row.showed = outcome.attempts, outcome.status, error


def ensure_the_books_are_the_till(outcome: Outcome) -> None:
    assert (outcome.till_calls, outcome.receipt["calls"], outcome.receipt["cap_calls"]) == (CALLS, CALLS, CALLS)
    assert outcome.receipt["spent_usd"] == outcome.till_usd
    assert outcome.receipt["held_usd"] == "0.00"
    assert outcome.attempts == {429: 1}
    assert "1 call refused, nothing sent" in outcome.err


@pytest.mark.parametrize("name", SDKS)
async def test_an_sdk_works_and_stops_at_the_cap_after_one_attempt(sdk: AgentBench, name: str) -> None:
    sdk.provider.script(replies=({"text": "The fake provider says hello.", "repeat": True},))
    outcome = await sdk.python(SDKS[name], "--calls", str(CALLS))
    *answers, refused = [json.loads(line) for line in outcome.out.splitlines()]
    assert answers == [{"text": "The fake provider says hello.", "attempts": [200]}] * CALLS, outcome.err
    ensure_refused(refused, outcome)
    assert refused["attempts"] == [429]
    ensure_the_books_are_the_till(outcome)
    package = "anthropic" if name.startswith("messages") else "openai"
    note(f"{package} SDK: {name.replace('_', ', ')}", (package,), outcome, f"{package}.{refused['error']}")


async def test_an_agent_of_the_openai_agents_sdk_answers_when_it_is_done(sdk: AgentBench) -> None:
    sdk.provider.script(replies=({"tool_calls": [{"name": "look", "arguments": {}}]}, {"text": "It is done."}))
    outcome = await sdk.python(AGENT, "--calls", str(CALLS))
    assert json.loads(outcome.out) == {"text": "It is done."}, outcome.err
    assert outcome.till_calls == 2
    assert outcome.receipt["spent_usd"] == outcome.till_usd
    assert outcome.attempts == {}


async def test_an_agent_that_loops_is_ended_by_the_cap_after_one_attempt(sdk: AgentBench) -> None:
    sdk.provider.script(replies=({"tool_calls": [{"name": "look", "arguments": {}}], "repeat": True},))
    outcome = await sdk.python(AGENT, "--calls", str(CALLS))
    said = json.loads(outcome.out)
    ensure_refused(said, outcome)
    assert said["looked"] == CALLS
    assert said["attempts"] == [200] * CALLS + [429]
    ensure_the_books_are_the_till(outcome)
    note("OpenAI Agents SDK", ("openai-agents", "openai"), outcome, f"openai.{said['error']}")
