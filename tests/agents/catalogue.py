"""The agents that `make agents` shows: where each comes from, and how it is started without a person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from installed import FromNpm, FromPip

ANSWER = "The fake provider says hello."
# Nothing of an agent that is not a model call has a place to go here.
QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
}
# What an agent left of its own in the environment could send it elsewhere.
FOREIGN = (
    "AIDER_",
    "ANTHROPIC_",
    "CLAUDE",
    "CODEX_",
    "GEMINI_",
    "GOOGLE_",
    "LANGCHAIN_",
    "LANGSMITH_",
    "OPENAI_",
    "OPENCODE",
    "QWEN_",
    "XDG_",
)


@dataclass(frozen=True)
class Agent:
    """One agent from a registry; `{folder}` in its replies is where it works, which has a file `note.txt`."""

    name: str
    source: FromNpm | FromPip
    arguments: tuple[str, ...]
    """What follows the program; the prompt is `{prompt}`."""
    never_done: dict[str, Any]
    """The reply of the model that makes this agent call it once more, for ever."""
    status: int
    """What the gateway refuses it with at the cap."""
    asides: tuple[dict[str, Any], ...] = field(default=())
    """Replies to what it asks besides, as for a title."""
    home: Mapping[str, str] = field(default_factory=dict)
    """Files of the user's that are there before it starts: what a person would have chosen once."""


def reads(tool: str, argument: str) -> dict[str, Any]:
    return {"tool_calls": [{"name": tool, "arguments": {argument: "{folder}/note.txt"}}]}


LANGCHAIN = """
import sys
from langchain.agents import create_agent
from langchain_core.tools import tool

@tool
def look() -> str:
    "Look at the thing once more."
    return "not done yet"

said = create_agent(sys.argv[1], tools=[look]).invoke({"messages": [{"role": "user", "content": sys.argv[2]}]})
print(said["messages"][-1].text)
"""

AI_SDK = """
import { generateText, stepCountIs, tool, jsonSchema } from "ai";
import { openai } from "@ai-sdk/openai";

const look = tool({
  description: "Look at the thing once more.",
  inputSchema: jsonSchema({ type: "object", properties: {} }),
  execute: async () => "not done yet",
});
const said = await generateText({
  model: openai("gpt-5"), prompt: process.argv[2], tools: { look }, stopWhen: stepCountIs(20),
});
console.log(said.text);
"""

LOOKS = {"tool_calls": [{"name": "look", "arguments": {}}]}
# An edit that does not fit makes aider ask for a better one.
MISFIT = {"text": "note.txt\n```\n<<<<<<< SEARCH\nno such line\n=======\nanother line\n>>>>>>> REPLACE\n```\n"}
AIDER = FromPip(("aider-chat",), program="aider")
AIDER_ALONE = ("--no-git", "--yes-always", "--no-check-update", "--analytics-disable", "--no-show-model-warnings")
CHAINS = FromPip(("langchain", "langchain-openai", "langchain-anthropic"), script=LANGCHAIN)

AGENTS = (
    Agent(
        name="Claude Code",
        source=FromNpm(("@anthropic-ai/claude-code",), program="claude"),
        arguments=("-p", "{prompt}", "--model", "claude-sonnet-4-5"),
        never_done=reads("Read", "file_path"),
        status=429,
    ),
    Agent(
        name="Codex",
        source=FromNpm(("@openai/codex",), program="codex"),
        arguments=(
            *("exec", "--skip-git-repo-check", "-c", "analytics.enabled=false", "-m", "gpt-5", "{prompt}"),
            *("-c", "check_for_update_on_startup=false"),
        ),
        never_done={"tool_calls": [{"name": "get_goal", "arguments": {}}]},
        status=400,
    ),
    Agent(
        name="opencode",
        source=FromNpm(("opencode-ai",), program="opencode"),
        arguments=("run", "-m", "openai/gpt-5", "{prompt}"),
        never_done=reads("read", "filePath"),
        status=402,
        asides=({"text": "A title", "when_model": "gpt-5.4-nano"},),
    ),
    Agent(
        name="Qwen Code",
        source=FromNpm(("@qwen-code/qwen-code",), program="qwen"),
        arguments=("--auth-type", "openai", "-m", "gpt-4.1-mini", "-p", "{prompt}"),
        never_done=reads("read_file", "file_path"),
        status=402,
    ),
    Agent(
        name="Gemini CLI",
        source=FromNpm(("@google/gemini-cli",), program="gemini"),
        arguments=("--skip-trust", "-m", "gemini-2.5-flash", "-p", "{prompt}"),
        never_done=reads("read_file", "file_path"),
        status=402,
        home={".gemini/settings.json": '{"security": {"auth": {"selectedType": "gemini-api-key"}}}'},
    ),
    Agent(
        name="aider, OpenAI",
        source=AIDER,
        arguments=("--model", "openai/gpt-4.1-mini", *AIDER_ALONE, "--message", "{prompt}", "note.txt"),
        never_done=MISFIT,
        status=400,
    ),
    Agent(
        name="aider, Anthropic",
        source=AIDER,
        arguments=("--model", "anthropic/claude-sonnet-4-5", *AIDER_ALONE, "--message", "{prompt}", "note.txt"),
        never_done=MISFIT,
        status=400,
    ),
    Agent(
        name="LangChain agent, OpenAI",
        source=CHAINS,
        arguments=("openai:gpt-4.1-mini", "{prompt}"),
        never_done=LOOKS,
        status=429,
    ),
    Agent(
        name="LangChain agent, Anthropic",
        source=CHAINS,
        arguments=("anthropic:claude-sonnet-4-5", "{prompt}"),
        never_done=LOOKS,
        status=429,
    ),
    Agent(
        name="Vercel AI SDK",
        source=FromNpm(("ai", "@ai-sdk/openai"), script=AI_SDK),
        arguments=("{prompt}",),
        never_done=LOOKS,
        status=402,
    ),
)
