"""How each known agent is pointed at the gateway: which variables it reads, and what has to be taken from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Literal

# Clients that are spoken to with and without /v1 disagree; the gateway takes both, so each gets what it expects.
_WITH_V1 = (
    "OPENAI_BASE_URL",  # OpenAI SDKs, Agents SDK, LangChain, CrewAI, Qwen Code, @ai-sdk/openai, opencode
    "OPENAI_API_BASE",  # LiteLLM, aider, older LangChain
)
_WITHOUT_V1 = (
    "ANTHROPIC_BASE_URL",  # Anthropic SDKs, LangChain, Claude Code; @ai-sdk/anthropic adds no /v1 and is routed too
    "ANTHROPIC_API_BASE",  # LiteLLM, aider
    "ANTHROPIC_API_URL",  # LangChain
    "ANTHROPIC_HOST",  # goose
    "OPENAI_HOST",  # goose
    # What follows speaks wire formats that are not metered: a 404 that says so, rather than a call past the cap.
    "ANTHROPIC_BEDROCK_BASE_URL",
    "ANTHROPIC_VERTEX_BASE_URL",
    "ANTHROPIC_FOUNDRY_BASE_URL",
    "AZURE_OPENAI_ENDPOINT",
    "AZURE_API_BASE",
    "GOOGLE_GEMINI_BASE_URL",
    "GOOGLE_VERTEX_BASE_URL",
    "GEMINI_API_BASE",
    "AWS_ENDPOINT_URL_BEDROCK_RUNTIME",  # boto3 and the other SDKs of AWS: the Converse API is metered
    "AWS_BEDROCK_RUNTIME_ENDPOINT",  # LiteLLM, aider
)
# Agents look for these before they start, so the run key stands in.
_RUN_KEY = (
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "CODEX_API_KEY",
    "GEMINI_API_KEY",
    "AZURE_OPENAI_API_KEY",
    "AZURE_API_KEY",
)
# The clients of AWS send this token to nobody without TLS, so they are given a pair to sign with instead.
_AWS_BEARER = "AWS_BEARER_TOKEN_BEDROCK"
_AWS_PAIR = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"})
# Whatever can pay a provider, whoever the provider is.
PROVIDER_SECRETS = frozenset(
    {
        "AI21_API_KEY",
        "AI_GATEWAY_API_KEY",
        "ANTHROPIC_ADMIN_KEY",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "ANTHROPIC_FOUNDRY_API_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_BEARER_TOKEN_BEDROCK",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_PROFILE",
        "AWS_SESSION_TOKEN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AZURE_API_KEY",
        "AZURE_OPENAI_API_KEY",
        "AZURE_OPENAI_AD_TOKEN",
        "CEREBRAS_API_KEY",
        "CLAUDE_CODE_OAUTH_TOKEN",
        "CODEX_API_KEY",
        "COHERE_API_KEY",
        "CO_API_KEY",
        "DASHSCOPE_API_KEY",
        "DATABRICKS_TOKEN",
        "DEEPINFRA_API_KEY",
        "DEEPSEEK_API_KEY",
        "FIREWORKS_API_KEY",
        "GEMINI_API_KEY",
        "GOOGLE_API_KEY",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_GENAI_API_KEY",
        "GOOGLE_GENERATIVE_AI_API_KEY",
        "GROQ_API_KEY",
        "HF_TOKEN",
        "HUGGINGFACE_API_KEY",
        "LITELLM_API_KEY",
        "LITELLM_MASTER_KEY",
        "MINIMAX_API_KEY",
        "MISTRAL_API_KEY",
        "MOONSHOT_API_KEY",
        "NVIDIA_API_KEY",
        "OPENAI_ADMIN_KEY",
        "OPENAI_API_KEY",
        "OPENROUTER_API_KEY",
        "PERPLEXITYAI_API_KEY",
        "PERPLEXITY_API_KEY",
        "REPLICATE_API_TOKEN",
        "SAMBANOVA_API_KEY",
        "TOGETHERAI_API_KEY",
        "TOGETHER_API_KEY",
        "VERCEL_OIDC_TOKEN",
        "VOYAGE_API_KEY",
        "WATSONX_APIKEY",
        "XAI_API_KEY",
        "ZAI_API_KEY",
        "ZHIPUAI_API_KEY",
    }
)
# Switches that send Claude Code and Google's clients to where the gateway does not meter them.
_DETOURS = frozenset(
    {
        "CLAUDE_CODE_USE_BEDROCK",
        "CLAUDE_CODE_USE_VERTEX",
        "CLAUDE_CODE_USE_FOUNDRY",
        "GOOGLE_GENAI_USE_GCA",
        "GOOGLE_GENAI_USE_VERTEXAI",
    }
)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# What fetches a package and starts the agent in it, and the options of theirs that take a value.
_FETCHERS = frozenset({"npx", "bunx", "uvx"})
_FETCHERS_OPTIONS = frozenset({"-p", "--package", "--from", "--with", "--python"})
# Packages and files are not always called as the agent is.
_VERSION = re.compile(r"(?<=.)[@=].*")
_AGENT_IN = {"codex.js": "codex", "claude-code": "claude", "aider-chat": "aider", "gemini-cli": "gemini"}
# How Gemini CLI signs in is in its settings, where no variable reaches; only with a key does it come this way.
_GEMINI_SIGNS_IN = re.compile(r'"selectedType"\s*:\s*"([^"]*)"')
_GEMINI_WITH_KEY = "gemini-api-key"
_GEMINI_SYSTEM_SETTINGS = "/etc/gemini-cli/settings.json"


def environment(
    environ: Mapping[str, str],
    argv: Sequence[str],
    base_url: str,
    secret: str,
    run: str,
    upstreams: Mapping[str, str],
    keep: frozenset[str] = frozenset(),
) -> dict[str, str]:
    """Give the child's environment: no provider secret in it, and every known agent pointed at the gateway.

    `upstreams` maps each configured upstream to the variable of its key; `keep` names secrets of providers that the
    gateway does not serve and that the operator lets the child have.
    """
    own = {key_env for key_env in upstreams.values() if key_env}
    taken = (PROVIDER_SECRETS - keep) | own | _DETOURS
    child = {name: value for name, value in environ.items() if name not in taken}
    child |= dict.fromkeys(_WITH_V1, f"{base_url}/v1")
    child |= dict.fromkeys(_WITHOUT_V1, base_url)
    child |= dict.fromkeys((*_RUN_KEY, *own), secret)
    for upstream in upstreams.keys() - {"openai", "anthropic", "gemini"}:
        prefix = upstream.upper().replace("-", "_")
        child |= {f"{prefix}_BASE_URL": f"{base_url}/{upstream}/v1", f"{prefix}_API_BASE": f"{base_url}/{upstream}/v1"}
    child |= {"BURSAR_URL": base_url, "BURSAR_KEY": secret, "BURSAR_RUN": run}
    if _AWS_BEARER in own:
        del child[_AWS_BEARER]
        child |= dict.fromkeys(_AWS_PAIR - keep, secret)
    if _agent(argv)[0] == "claude":
        # Claude Code asks a person before it uses ANTHROPIC_API_KEY; the token it takes at once.
        del child["ANTHROPIC_API_KEY"]
        child["ANTHROPIC_AUTH_TOKEN"] = secret
    for name in ("NO_PROXY", "no_proxy"):
        others = [host.strip() for host in child.get(name, "").split(",")]
        child[name] = ",".join([*(host for host in others if host and host not in _LOOPBACK), *_LOOPBACK])
    return child


def arguments(argv: Sequence[str], base_url: str) -> list[str]:
    """Give the command to start: Codex reads no variable for its base URL, so it gets flags."""
    agent, place = _agent(argv)
    if agent != "codex":
        return list(argv)
    # It offers the provider's own web search unless told otherwise; nothing bounds that, so every call of it would be
    # refused. What the user says about it comes later on the line, and counts.
    flags = ["-c", f'openai_base_url="{base_url}/v1"', "-c", 'web_search="disabled"']
    return [*argv[: place + 1], *flags, *argv[place + 1 :]]


def refusal_status(argv: Sequence[str]) -> Literal[400] | None:
    """Give the status that stops this command at a cap, when its requests do not tell who sends them.

    Measured: aider, whose User-Agent is that of the OpenAI SDK, goes on after a 429 or a 402, and stops at a 400.
    """
    return 400 if _agent(argv)[0] == "aider" else None


def detour(argv: Sequence[str], environ: Mapping[str, str], folder: Path) -> str:
    """Give why this command would not call the gateway, and what to do about it; empty when it would.

    Gemini CLI that is signed in with an account calls Google past every base URL, and does not start when its settings
    say nothing.
    """
    if _agent(argv)[0] != "gemini":
        return ""
    own = Path(environ.get("GEMINI_CLI_HOME") or environ.get("HOME") or Path.home()) / ".gemini" / "settings.json"
    system = Path(environ.get("GEMINI_CLI_SYSTEM_SETTINGS_PATH") or _GEMINI_SYSTEM_SETTINGS)
    chosen = ""
    for file in (own, folder / ".gemini" / "settings.json", system):
        found = _GEMINI_SIGNS_IN.findall(_text_of(file))
        chosen = found[-1] if found else chosen
    if chosen == _GEMINI_WITH_KEY:
        return ""
    instead = f"signs in with {chosen!r}, past the gateway" if chosen else "has no way to sign in that leads here"
    wanted = f'{{"security": {{"auth": {{"selectedType": "{_GEMINI_WITH_KEY}"}}}}}}'
    return f"Gemini CLI {instead}; set {wanted} in {own} (the key itself stays with bursar)"


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _agent(argv: Sequence[str]) -> tuple[str, int]:
    """Give the name of the program that the command comes down to, and its place in the command."""
    program = PurePath(argv[0]).name
    place = 0
    if program in _FETCHERS:
        place = _first_word(argv)
    elif program in ("node", "bun"):
        place = min(1, len(argv) - 1)
    elif program.startswith("python") and list(argv[1:2]) == ["-m"]:
        place = min(2, len(argv) - 1)
    name = _VERSION.sub("", PurePath(argv[place]).name)
    return _AGENT_IN.get(name, name), place


def _first_word(argv: Sequence[str]) -> int:
    """Give the place of the first word behind the options of a program that starts another; 0 when there is none."""
    place = 1
    while place < len(argv) and argv[place].startswith("-"):
        place += 2 if argv[place] in _FETCHERS_OPTIONS else 1
    return place if place < len(argv) else 0
