"""How a command is pointed at the gateway, and what is taken from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bursar.cli.agents import PROVIDER_SECRETS, arguments, detour, environment, refusal_status

URL = "http://127.0.0.1:5555"
SECRET = "bursar-run-x"
BUILT_IN = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}


def made(environ: dict[str, str] | None = None, program: str = "agent", **changes: object) -> dict[str, str]:
    given: dict[str, object] = {"upstreams": BUILT_IN, **changes}
    return environment(environ or {}, [program], URL, SECRET, "r-1", **given)  # type: ignore[arg-type]


def test_no_provider_secret_reaches_the_command() -> None:
    real = {name: f"real-{name}" for name in PROVIDER_SECRETS | {"MY_KEY"}}
    child = made({**real, "HOME": "/home/me"}, upstreams={**BUILT_IN, "mine": "MY_KEY"})
    assert not [value for value in child.values() if value.startswith("real-")]
    assert child["HOME"] == "/home/me"


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "CODEX_API_KEY", "GEMINI_API_KEY", "MY_KEY"])
def test_the_run_key_stands_in_where_agents_look_for_a_key(name: str) -> None:
    assert made(upstreams={**BUILT_IN, "mine": "MY_KEY"})[name] == SECRET


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENAI_BASE_URL", f"{URL}/v1"),
        ("OPENAI_API_BASE", f"{URL}/v1"),
        ("OPENAI_HOST", URL),
        ("ANTHROPIC_BASE_URL", URL),
        ("ANTHROPIC_API_BASE", URL),
        ("ANTHROPIC_API_URL", URL),
        ("ANTHROPIC_BEDROCK_BASE_URL", URL),
        ("GOOGLE_GEMINI_BASE_URL", URL),
        ("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", URL),
        ("AWS_BEDROCK_RUNTIME_ENDPOINT", URL),
        ("BURSAR_URL", URL),
        ("BURSAR_RUN", "r-1"),
        ("BURSAR_KEY", SECRET),
    ],
)
def test_every_base_url_is_the_gateway_even_where_another_was_set(name: str, value: str) -> None:
    assert made({name: "https://elsewhere.example"})[name] == value


def test_an_upstream_of_ones_own_has_variables_of_its_own() -> None:
    child = made(upstreams={**BUILT_IN, "my-groq": "GROQ_API_KEY", "local": ""})
    assert child["MY_GROQ_BASE_URL"] == child["MY_GROQ_API_BASE"] == f"{URL}/my-groq/v1"
    assert child["LOCAL_BASE_URL"] == f"{URL}/local/v1"
    assert "" not in child


def test_a_secret_that_the_operator_keeps_stays_unless_the_gateway_uses_it() -> None:
    real = {"AWS_SECRET_ACCESS_KEY": "a", "OPENAI_API_KEY": "b", "GROQ_API_KEY": "c"}
    child = made(real, keep=frozenset({"AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY"}))
    assert child["AWS_SECRET_ACCESS_KEY"] == "a"
    assert child["OPENAI_API_KEY"] == SECRET
    assert "GROQ_API_KEY" not in child


def test_claude_code_gets_the_token_it_takes_without_asking_and_no_detour() -> None:
    child = made({"CLAUDE_CODE_USE_BEDROCK": "1", "CLAUDE_CODE_OAUTH_TOKEN": "x"}, program="/usr/bin/claude")
    assert child["ANTHROPIC_AUTH_TOKEN"] == SECRET
    assert not {"ANTHROPIC_API_KEY", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_OAUTH_TOKEN"} & child.keys()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "127.0.0.1,localhost,::1"),
        ("corp.example", "corp.example,127.0.0.1,localhost,::1"),
        ("localhost, corp.example", "corp.example,127.0.0.1,localhost,::1"),
    ],
)
def test_no_proxy_stands_between_the_command_and_the_gateway(before: str, after: str) -> None:
    child = made({"NO_PROXY": before, "no_proxy": before, "HTTPS_PROXY": "http://proxy:3128"})
    assert child["NO_PROXY"] == child["no_proxy"] == after
    assert child["HTTPS_PROXY"] == "http://proxy:3128"


CODEX_FLAGS = ["-c", f'openai_base_url="{URL}/v1"', "-c", 'web_search="disabled"']


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["/opt/codex"], ["exec", "fix it"]),
        (["npx", "codex"], ["exec", "npx codex"]),
        (["npx", "-y", "@openai/codex@0.169.0"], ["exec"]),
        (["npx", "-p", "@openai/codex", "codex"], ["exec"]),
        (["bunx", "@openai/codex"], []),
        (["node", "/lib/node_modules/@openai/codex/bin/codex.js"], ["exec"]),
    ],
)
def test_codex_is_told_by_flags_however_it_is_started(before: list[str], after: list[str]) -> None:
    assert arguments([*before, *after], URL) == [*before, *CODEX_FLAGS, *after]


@pytest.mark.parametrize(
    "argv",
    [["aider", "codex"], ["npx"], ["npx", "-y"], ["npx", "-p", "@openai/codex", "tsc"], ["node"], ["python3", "-m"]],
)
def test_what_is_not_codex_is_started_as_it_is(argv: list[str]) -> None:
    assert arguments(argv, URL) == argv


@pytest.mark.parametrize(
    "argv",
    [
        ["aider"],
        ["/opt/bin/aider", "--message", "hi"],
        ["python3.12", "-m", "aider"],
        ["uvx", "--from", "aider-chat", "aider"],
        ["uvx", "aider-chat@0.86.2"],
        ["uvx", "aider-chat==0.86.2"],
    ],
)
def test_aider_is_stopped_by_a_400_because_nothing_else_does(argv: list[str]) -> None:
    assert refusal_status(argv) == 400


@pytest.mark.parametrize("argv", [["claude", "aider"], ["codex"], ["python3", "aider.py"], ["python3", "-m", "venv"]])
def test_others_are_known_by_their_requests(argv: list[str]) -> None:
    assert refusal_status(argv) is None


# ---- Gemini CLI ------------------------------------------------------------------------------------------------------


def signs_in(folder: Path, way: str) -> None:
    (folder / ".gemini").mkdir(parents=True)
    settings = "// mine\n" + json.dumps({"security": {"auth": {"selectedType": way}}}, indent=1)
    (folder / ".gemini" / "settings.json").write_text(settings)


@pytest.mark.parametrize("own", ["", "oauth-personal", "vertex-ai", "gemini-api-key"])
@pytest.mark.parametrize("in_project", ["", "oauth-personal", "gemini-api-key"])
def test_gemini_is_started_only_where_it_will_come_to_the_gateway(tmp_path: Path, own: str, in_project: str) -> None:
    home, project = tmp_path / "home", tmp_path / "project"
    environ = {"HOME": str(home), "GEMINI_CLI_SYSTEM_SETTINGS_PATH": str(tmp_path / "none")}
    for folder, way in ((home, own), (project, in_project)):
        if way:
            signs_in(folder, way)
    chosen = in_project or own
    for argv in (["gemini", "-p", "hi"], ["npx", "-y", "@google/gemini-cli@0.61.0"]):
        said = detour(argv, environ, project)
        assert (said == "") == (chosen == "gemini-api-key")
        assert not said or '"selectedType": "gemini-api-key"' in said
        assert not said or (chosen or "no way to sign in") in said
    assert detour(["qwen", "gemini"], environ, project) == ""


def test_gemini_is_looked_for_where_its_own_variables_say(tmp_path: Path) -> None:
    signs_in(tmp_path / "own", "gemini-api-key")
    environ = {"HOME": "/nowhere", "GEMINI_CLI_HOME": str(tmp_path / "own")}
    assert detour(["gemini"], environ, tmp_path) == ""
    signs_in(tmp_path / "all", "oauth-personal")
    environ["GEMINI_CLI_SYSTEM_SETTINGS_PATH"] = str(tmp_path / "all" / ".gemini" / "settings.json")
    assert "'oauth-personal'" in detour(["gemini"], environ, tmp_path)


def test_googles_clients_take_no_detour_past_the_gateway() -> None:
    child = made({"GOOGLE_GENAI_USE_GCA": "true", "GOOGLE_GENAI_USE_VERTEXAI": "true"}, program="gemini")
    assert not {"GOOGLE_GENAI_USE_GCA", "GOOGLE_GENAI_USE_VERTEXAI"} & child.keys()
    assert (child["GEMINI_API_KEY"], child["GOOGLE_GEMINI_BASE_URL"]) == (SECRET, URL)


# ---- AWS -------------------------------------------------------------------------------------------------------------


def test_clients_of_aws_sign_with_the_run_key_where_the_gateway_serves_bedrock() -> None:
    real = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_BEARER_TOKEN_BEDROCK": "c"}
    child = made(real, upstreams={**BUILT_IN, "bedrock": "AWS_BEARER_TOKEN_BEDROCK"})
    assert (child["AWS_ACCESS_KEY_ID"], child["AWS_SECRET_ACCESS_KEY"]) == (SECRET, SECRET)
    assert "AWS_BEARER_TOKEN_BEDROCK" not in child
    assert not real.keys() & made(real).keys()
    kept = made(real, keep=frozenset(real), upstreams={**BUILT_IN, "bedrock": "AWS_BEARER_TOKEN_BEDROCK"})
    assert (kept["AWS_ACCESS_KEY_ID"], kept["AWS_SECRET_ACCESS_KEY"]) == ("a", "b")
