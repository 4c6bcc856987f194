"""How a command is pointed at the gateway, and what is taken from it."""

from __future__ import annotations

import pytest

from bursar.cli.agents import PROVIDER_SECRETS, arguments, environment

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


def test_codex_is_told_by_a_flag() -> None:
    expected = ["/opt/codex", "-c", f'openai_base_url="{URL}/v1"', "exec", "fix it"]
    assert arguments(["/opt/codex", "exec", "fix it"], URL) == expected
    assert arguments(["aider", "codex"], URL) == ["aider", "codex"]
