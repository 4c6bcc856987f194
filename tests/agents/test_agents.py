"""Agents from the registries, unmodified, under `bursar run`: they answer, and stop at the cap. See `make agents`."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import page
import pytest
import pytest_asyncio
from catalogue import AGENTS, ANSWER, FOREIGN, QUIET, Agent
from installed import CannotInstallError
from under_run import AgentBench, Outcome, under_run

WANTED = os.environ.get("BURSAR_AGENTS", "")
CALLS = 4
SHOWN_AT_LEAST = 2
SHOWN_CHARACTERS = 80
ANSI = re.compile(r"\x1b\[[0-9;]*m")
# Where a report was written is of this machine, and of no other.
FOLDERS = re.compile(r"(?<=\s)(?:/[^\s/]+)+/(?=\S)")

pytestmark = pytest.mark.skipif(WANTED != "all", reason="agents from the registries: `make agents`")
each_agent = pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[AgentBench]:
    async with under_run(tmp_path) as made:
        for name in [name for name in made.environ if name.startswith(FOREIGN)]:
            if name not in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
                del made.environ[name]
        home, place = tmp_path / "home", tmp_path / "place"
        home.mkdir()
        place.mkdir()
        (place / "note.txt").write_text("a note\n")
        made.environ |= {**QUIET, "HOME": str(home), "PWD": str(place), "TERM": "dumb", "TMPDIR": str(tmp_path)}
        made.environ["GEMINI_API_KEY"] = "real-gemini"
        with (tmp_path / "bursar.toml").open("a") as settings:
            settings.write(f'[upstreams.gemini]\nbase_url = "{made.provider.base_url}"\n')
        yield made


async def run(bench: AgentBench, agent: Agent, *options: str) -> Outcome:
    """Install the agent where it is not, and run it with one sentence."""
    row = page.row(agent.name)
    try:
        program = agent.source.install()
    except CannotInstallError as error:
        row.failures.append(str(error))
        pytest.skip(f"{agent.name} is NOT shown to work: {error}")
    for name, text in agent.home.items():
        file = bench.folder / "home" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    arguments = [one.format(prompt="Read note.txt and say what is in it.") for one in agent.arguments]
    row.version = agent.source.version()
    if agent.source.program:
        row.command = shlex.join(["bursar", "run", "--calls", str(CALLS), "--", agent.source.program, *arguments])
    outcome = await bench.run([*program, *arguments], *options, cwd=bench.folder / "place")
    print(f"\n--- {agent.name} {row.version} {' '.join(options)}: exit {outcome.status}, {outcome.seconds} s")
    print(f"{outcome.out[-1500:]}\n{outcome.err[-1500:]}")
    return outcome


def reply(bench: AgentBench, fields: dict[str, Any]) -> dict[str, Any]:
    """Give a reply that names the agent's folder, and comes every time."""
    place = str(bench.folder / "place")
    calls = [
        {**call, "arguments": {name: value.format(folder=place) for name, value in call["arguments"].items()}}
        for call in fields.get("tool_calls", ())
    ]
    return {**fields, "tool_calls": calls, "repeat": True}


def ensure_the_books_are_the_till(outcome: Outcome) -> None:
    assert outcome.receipt["calls"] == outcome.till_calls
    assert outcome.receipt["spent_usd"] == outcome.till_usd
    assert (outcome.receipt["held_usd"], outcome.receipt["session"]["presumed"]) == ("0.00", 0)


def said_before(outcome: Outcome, message: str) -> str:
    """Give what the agent showed before our message, in the line that has it; fails when it did not show it."""
    said = ANSI.sub("", f"{outcome.out}\n{outcome.err}")
    words = re.escape(message).replace(r"\ ", r"\s+")
    found = re.findall(rf"([^\n]*)bursar: {words}", said)
    assert found, said
    before = FOLDERS.sub("", str(found[-1]).strip())
    return before if len(before) <= SHOWN_CHARACTERS else before[:SHOWN_CHARACTERS] + "…"


@each_agent
async def test_it_answers(bench: AgentBench, agent: Agent) -> None:
    asides = tuple(reply(bench, aside) for aside in agent.asides)
    bench.provider.script(replies=(*asides, {"text": ANSWER, "repeat": True}))
    outcome = await run(bench, agent, "--calls", "10")
    row = page.row(agent.name)
    assert ANSWER in outcome.out
    assert outcome.status == 0
    assert outcome.attempts == {}
    assert outcome.till_calls >= 1
    ensure_the_books_are_the_till(outcome)
    longest = max(bench.provider.till.ledger, key=lambda billed: billed.used.all_input_tokens)
    row.works, row.model, row.answer_usd = True, longest.model, outcome.till_usd


@each_agent
async def test_it_stops_at_the_cap_with_our_message(bench: AgentBench, agent: Agent) -> None:
    asides = tuple(reply(bench, aside) for aside in agent.asides)
    bench.provider.script(replies=(*asides, reply(bench, agent.never_done)))
    cap = 2 if agent.source.program == "aider" else CALLS  # it asks for a better edit three times and no more
    outcome = await run(bench, agent, "--calls", str(cap))
    ensure_the_books_are_the_till(outcome)
    assert outcome.till_calls == cap
    assert outcome.attempts == {agent.status: 1}
    row = page.row(agent.name)
    row.showed = said_before(outcome, f"the cap of {cap} calls on run:{outcome.receipt['run']} is spent")
    row.calls, row.cap, row.attempts, row.exit_status = outcome.till_calls, cap, outcome.attempts, outcome.status


@each_agent
async def test_without_money_it_sends_nothing_and_says_what_the_call_may_take(bench: AgentBench, agent: Agent) -> None:
    outcome = await run(bench, agent, "--usd", "0")
    assert (outcome.till_calls, bench.provider.till.requests) == (0, 0)
    assert set(outcome.attempts) == {agent.status}
    said_before(outcome, f"the cap of $0.00 on run:{outcome.receipt['run']} is spent")
    asked = re.findall(r"may\s+take\s+up\s+to\s+\$([0-9.]+[0-9])", ANSI.sub("", f"{outcome.out}\n{outcome.err}"))
    page.row(agent.name).least_usd = asked[-1]


def test_agents_enough_were_shown() -> None:
    shown = {agent.source for agent in AGENTS if page.row(agent.name).is_whole()}
    assert len(shown) >= SHOWN_AT_LEAST, page.ROWS
