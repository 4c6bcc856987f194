"""A LiteLLM proxy's configuration becomes settings that a gateway takes, and what has no counterpart is said."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bursar.cli.import_litellm import imported
from bursar.cli.main import cli
from bursar.settings import parse

CONFIG = """
model_list:
  - model_name: gpt-4o
    litellm_params:
      {model: azure/my-dep, api_base: "https://x.openai.azure.com/", api_key: os.environ/AZURE_API_KEY, rpm: 6}
    model_info: {base_model: azure/gpt-4o}
  - model_name: gpt-4o
    litellm_params: {model: openai/gpt-4o, api_key: sk-planted-secret, max_budget: 10, budget_duration: 1d}
  - model_name: gpt-4o-two
    litellm_params: {model: openai/gpt-4o, api_base: "https://eu.api.openai.com/v1", api_key: os.environ/EU_KEY}
  - model_name: claude
    litellm_params: {model: claude-sonnet-4-5, api_key: os.environ/ANTHROPIC_API_KEY}
  - model_name: own
    litellm_params:
      model: hosted_vllm/qwen
      api_base: http://10.0.0.5:8000/v1
      input_cost_per_token: 0.0000005
      output_cost_per_token: 0.000001
    model_info: {max_input_tokens: 32768, max_output_tokens: 8192}
  - model_name: odd
    litellm_params: {model: nobody/x, input_cost_per_token: 1}
litellm_settings:
  max_budget: 100
  budget_duration: 30d
  tag_budget_config: {"product:chat-bot": {max_budget: 5, budget_duration: 1d}}
  fallbacks: [{"gpt-4o": ["claude"]}]
router_settings:
  provider_budget_config: {anthropic: {budget_limit: 50, time_period: 12d}}
general_settings: {master_key: sk-planted-master}
"""
KEYS = {
    "keys": [
        {
            "key_alias": "ci bot",
            "max_budget": 3,
            "budget_duration": "7d",
            "models": ["gpt-4o"],
            "team_id": "t1",
            "spend": 1.5,
            "expires": "2027-01-31T00:00:00+00:00",
            "metadata": {"tags": ["env=ci"]},
            "tpm_limit": 5,
        },
        {"key_name": "sk-...abcd", "max_budget": 1},
    ]
}
TEAMS = [{"team_id": "t1", "team_alias": "Research", "max_budget": 200, "budget_duration": "1mo"}]


def run(folder: Path, *options: str) -> Result:
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "keys.json").write_text(json.dumps(KEYS))
    (folder / "teams.json").write_text(json.dumps(TEAMS))
    files = ("--keys", str(folder / "keys.json"), "--teams", str(folder / "teams.json"))
    return CliRunner().invoke(cli, ["import", "litellm", str(folder / "config.yaml"), *files, *options])


def test_what_is_imported_is_what_a_gateway_reads_and_no_secret_is_in_it(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.exit_code == 0, result.output
    assert "planted" not in result.output
    settings = parse(tomllib.loads(result.stdout), "imported")
    assert settings.upstreams["azure"].deployments == {"my-dep": "gpt-4o"}
    assert settings.upstreams["openai"].key_env == "OPENAI_API_KEY"
    assert (settings.upstreams["openai-2"].provider, settings.upstreams["openai-2"].key_env) == ("openai", "EU_KEY")
    assert settings.fallback["gpt-4o"] == ("openai/gpt-4o", "openai-2/gpt-4o")
    assert settings.models["qwen"].output == "1"
    payers = {scope: [(b.usd, b.period) for b in one.budgets] for scope, one in settings.payers().items()}
    assert payers == {
        "org": [("100", "month")],
        "team:Research": [("200", "month")],
        "tag:product:chat-bot": [("5", "day")],
        "model:gpt-4o": [("10", "day")],
        "upstream:anthropic": [("50", "rolling 12d")],
    }
    key = settings.keys["ci-bot"]
    assert (key.key_env, key.team, key.models, key.tags) == (
        "CI_BOT_KEY",
        "Research",
        ("my-dep", "gpt-4o"),
        ("env=ci",),
    )
    assert settings.keys["admin"].role == "admin"
    assert key.expires is not None


@pytest.mark.parametrize(
    "said",
    [
        "clients have to call it my-dep",
        "rpm has no counterpart",
        "put it into OPENAI_API_KEY",
        "the provider 'nobody' of nobody/x is not known",
        "fallback of gpt-4o to claude",
        "it has spent $1.5 there; here it begins at zero",
        "tpm_limit has no counterpart",
        "key sk-...abcd: it has no name of its own",
        "the master key became [keys.admin]",
    ],
)
def test_what_could_not_be_taken_over_is_said(tmp_path: Path, said: str) -> None:
    notes = json.loads(run(tmp_path, "--json").stdout)["notes"]
    assert any(said in note for note in notes), notes


def test_odd_values_are_said_and_never_become_a_budget_that_is_larger() -> None:
    made = imported(
        {
            "model_list": [
                {"model_name": "a", "litellm_params": {"model": "gpt-4o", "max_budget": "much"}},
                {"model_name": "b", "litellm_params": {"model": "gpt-4.1", "max_budget": 3, "budget_duration": "soon"}},
                {"model_name": "c", "litellm_params": {"model": "gpt-5", "input_cost_per_token": 1e-6}},
            ],
            "litellm_settings": {"tag_budget_config": {"Bad Tag!": {"max_budget": 1}}},
        }
    )
    assert not any(made.settings.get("budgets", {}).values())
    assert len([note for note in made.notes if "is no amount" in note or "is not known" in note]) == 2
    assert any("needs context_tokens" in note for note in made.notes)
    assert any("is not a tag" in note for note in made.notes)


@pytest.mark.parametrize(("text", "said"), [("- 1", "has no model_list"), ("a: [", "cannot be read")])
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    result = CliRunner().invoke(cli, ["import", "litellm", str(tmp_path / "c.yaml")])
    assert result.exit_code == 1
    assert said in result.output
