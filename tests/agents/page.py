"""docs/agents.md: what was measured with real clients, as it was measured."""

from __future__ import annotations

import datetime
import platform
from dataclasses import dataclass, field
from pathlib import Path

FILE = Path(__file__).parents[2] / "docs" / "agents.md"

TEXT = """# Agents that were shown to work, and to stop

`make agents` installs each agent from its registry, unmodified, and runs it under `bursar run` with the fake provider
behind it: once to see it answer, once with a model that never lets it finish and a cap in calls, and once with a cap of
zero dollars. It wrote this page on {date}, on {system}.

In every row the run's spend was, to the nanodollar, what the fake provider's till says, and nothing past the cap
reached the provider. The SDKs and the OpenAI Agents SDK are part of `make test`, too.

## At the cap

*Attempts* counts the requests that were refused until the client stopped by itself: with one, it took the first no for
an answer. The status is the one that `refusal_status = "auto"` chose for it. *What it showed* is what stands before our
message in its own output, or the error that it raised with it.

| agent | version | works | calls, cap | attempts | status | exit | what it showed |
|---|---|---|---|---|---|---|---|
{caps}
## How each was started

`bursar run` knows three of them by the command, behind `npx`, `bunx`, `uvx`, `node` and `python -m` too. Codex reads no
variable for its base URL, so it is given flags, one of which turns the provider's own web search off: nothing bounds
what that costs, so a call with it is refused. aider sends what the OpenAI SDK sends and stops at a 400 only, so that is
what its run gets; where a script starts it, set `refusal_status = 400` under `[policy]`. Gemini CLI comes to the
gateway only when its own settings say `"selectedType": "gemini-api-key"`, as they do where a person chose a key once;
signed in with an account it would call Google past every cap, so `bursar run` does not start it then, and says what to
set.

{starts}{least}{failures}"""

LEAST = """
## The least cap in dollars

Before anything is sent, bursar sets aside the most that the call can cost. For a long prompt that is far above what it
will cost: its bytes are known, its tokens are not. A cap below this refuses the first call, and a run ends when less
than the next call may take is left. What was asked was one sentence; the rest is the agent's own system prompt and
tools.

| agent | model | first call holds at least | a whole answer cost |
|---|---|---|---|
{rows}"""

FAILURES = """
## Not shown

{rows}"""


@dataclass
class Row:
    """What was seen of one client."""

    agent: str
    version: str = ""
    command: str = ""
    model: str = ""
    works: bool = False
    answer_usd: str = ""
    calls: int = 0
    cap: int = 0
    attempts: dict[int, int] = field(default_factory=dict)
    exit_status: int = 0
    showed: str = ""
    least_usd: str = ""
    failures: list[str] = field(default_factory=list)

    def is_whole(self) -> bool:
        return self.works and bool(self.attempts) and not self.failures


ROWS: dict[str, Row] = {}


def has_all(agents: list[str]) -> bool:
    """Tell whether these were tried, and the SDKs."""
    return set(agents) <= ROWS.keys() and any("SDK:" in agent for agent in ROWS)


def row(agent: str) -> Row:
    return ROWS.setdefault(agent, Row(agent))


def cap_line(one: Row) -> str:
    attempts = ", ".join(str(count) for count in one.attempts.values())
    statuses = ", ".join(str(status) for status in one.attempts)
    calls = f"{one.calls} of {one.cap}"
    cells = (one.agent, one.version, "yes" if one.works else "NO", calls, attempts, statuses, one.exit_status)
    return f"| {' | '.join(map(str, cells))} | {escaped(one.showed)} |\n"


def escaped(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else "the message alone"


def written() -> str:
    """Give the page."""
    whole = [one for one in ROWS.values() if one.is_whole()]
    failed = [one for one in ROWS.values() if not one.is_whole()]
    least = [
        f"| {one.agent} | {one.model} | ${one.least_usd} | ${one.answer_usd} |\n" for one in whole if one.least_usd
    ]
    reasons = [f"- {one.agent} {one.version}: {'; '.join(one.failures) or 'did not get that far'}\n" for one in failed]
    return TEXT.format(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        caps="".join(map(cap_line, whole)),
        starts="".join(f"- {one.agent}: `{one.command}`\n" for one in whole if one.command),
        least=LEAST.format(rows="".join(least)) if least else "",
        failures=FAILURES.format(rows="".join(reasons)) if reasons else "",
    )
