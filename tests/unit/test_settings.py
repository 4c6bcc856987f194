"""What bursar.toml may say, and what it hears when it says something else."""

from __future__ import annotations

import tomllib
from decimal import Decimal
from pathlib import Path

import pytest

from bursar.ledger.account import Limits
from bursar.settings import KeySettings, Settings, SettingsError, absolute_url, load, parse
from bursar.upstream.providers import COMPATIBLE, PROVIDERS


def read(text: str) -> Settings:
    return parse(tomllib.loads(text, parse_float=Decimal), "bursar.toml")


def test_with_no_file_every_setting_has_its_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    settings = load(None)
    assert settings == Settings()
    assert settings.ledger.url == f"sqlite:///{tmp_path}/state/bursar/ledger.db"
    assert settings.run_template("anyone").limits == Limits(usd=5_000_000_000, calls=500, tokens=None)
    assert set(settings.upstreams) == {"openai", "anthropic", "gemini"}


def test_a_relative_state_home_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings().ledger.url == f"sqlite:///{tmp_path}/.local/state/bursar/ledger.db"


def test_the_file_in_the_working_directory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bursar.toml").write_text("[server]\nport = 4200\n")
    monkeypatch.chdir(tmp_path)
    assert load(None).server.port == 4200


def test_a_relative_ledger_in_the_file_counts_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bursar.toml"
    path.write_text('[ledger]\nurl = "sqlite:///books/ledger.db"\n')
    assert load(path).ledger.url == f"sqlite:///{tmp_path}/books/ledger.db"
    assert absolute_url("postgresql://db/x", tmp_path) == "postgresql://db/x"
    assert absolute_url("sqlite:////var/x.db", tmp_path) == "sqlite:////var/x.db"


@pytest.mark.parametrize("url", ["mysql://me:geheim@db/x", "sqlite://x", "sqlite:///", "postgresql://", "books.db"])
def test_a_ledger_that_no_store_serves_is_refused_and_its_password_not_said(tmp_path: Path, url: str) -> None:
    path = tmp_path / "bursar.toml"
    path.write_text(f'[ledger]\nurl = "{url}"\n')
    with pytest.raises(SettingsError, match=r"ledger\.url") as refused:
        load(path)
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "usd"),
    [("5", 5_000_000_000), ("5.10", 5_100_000_000), ('"$0.000000001"', 1), ('"none"', None), ("0", 0)],
)
def test_an_amount_is_exact_however_it_is_written(text: str, usd: int | None) -> None:
    assert read(f"[defaults.run]\nusd = {text}\n").defaults.run.limits.usd == usd


def test_a_key_that_sets_one_cap_keeps_the_other_defaults() -> None:
    settings = read('[defaults.run]\nusd = "2.00"\ncalls = 7\n[keys.ci]\nkey_env = "CI"\nrun = { usd = "1.00" }\n')
    assert settings.run_template("ci").limits == Limits(usd=1_000_000_000, calls=7)
    assert settings.run_template("unknown").limits == Limits(usd=2_000_000_000, calls=7)


def test_a_key_without_template_takes_the_defaults() -> None:
    settings = read('[keys.ci]\nusd = "3"\ncalls = 9\n')
    assert settings.run_template("ci") == settings.defaults.run
    assert settings.keys["ci"].limits == Limits(usd=3_000_000_000, calls=9)
    assert Settings(keys={"ci": KeySettings()}).run_template("ci") == Settings().defaults.run


def test_a_built_in_upstream_keeps_what_is_not_overridden() -> None:
    openai = read('[upstreams.openai]\nbase_url = "http://127.0.0.1:9/v1/"\n').upstreams["openai"]
    assert (openai.base_url, openai.key_env, openai.dialect) == ("http://127.0.0.1:9", "OPENAI_API_KEY", "openai")
    assert (openai.prices, openai.takes_service_tier) == ("openai", True)


def test_an_upstream_of_ones_own_is_priced_under_its_name_and_gets_no_service_tier() -> None:
    groq = read('[upstreams.groq]\ndialect = "openai"\nbase_url = "https://api.groq.com/openai/v1"\n').upstreams["groq"]
    assert (groq.base_url, groq.prices, groq.takes_service_tier) == ("https://api.groq.com/openai", "groq", False)
    chosen = read(
        '[upstreams.x]\ndialect="openai"\nbase_url="https://x.io"\nprices="openai"\ntakes_service_tier=true\n'
    )
    assert (chosen.upstreams["x"].prices, chosen.upstreams["x"].takes_service_tier) == ("openai", True)


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is built in depends on the keys that are set."""
    for provider in PROVIDERS.values():
        monkeypatch.delenv(provider.key_env or "NONE", raising=False)


@pytest.mark.parametrize(
    ("key_env", "name"),
    [
        ("GROQ_API_KEY", "groq"),
        ("MISTRAL_API_KEY", "mistral"),
        ("DEEPSEEK_API_KEY", "deepseek"),
        ("XAI_API_KEY", "xai"),
        ("OPENROUTER_API_KEY", "openrouter"),
    ],
)
def test_a_provider_is_there_once_its_key_is_set(monkeypatch: pytest.MonkeyPatch, key_env: str, name: str) -> None:
    monkeypatch.setenv(key_env, "k")
    upstream = Settings().upstreams[name]
    assert (upstream.provider, upstream.key_env, upstream.base_url) == (name, key_env, PROVIDERS[name].base_url)
    assert upstream.needs_key


@pytest.mark.parametrize("key_env", ["AZURE_OPENAI_API_KEY", "LITELLM_API_KEY", "AWS_BEARER_TOKEN_BEDROCK"])
def test_a_key_alone_does_not_say_where_a_resource_is(monkeypatch: pytest.MonkeyPatch, key_env: str) -> None:
    monkeypatch.setenv(key_env, "k")
    assert set(Settings().upstreams) == {"openai", "anthropic", "gemini"}


@pytest.mark.parametrize("name", ["ollama", "vllm", "lmstudio"])
def test_a_local_server_needs_its_name_and_no_more(name: str) -> None:
    upstream = read(f"[upstreams.{name}]").upstreams[name]
    assert (upstream.dialect, upstream.output_field, upstream.needs_key) == ("openai", "max_tokens", False)
    assert upstream.base_url.startswith("http://127.0.0.1:")


def test_an_upstream_of_any_name_has_the_ways_of_the_provider_that_it_names() -> None:
    mine = read('[upstreams.mine]\nprovider = "xai"\nkey_env = "MINE"').upstreams["mine"]
    assert (mine.prices, mine.key_env, mine.record) == ("x-ai", "MINE", PROVIDERS["xai"])


def test_a_name_of_a_provider_with_another_dialect_is_any_server() -> None:
    claude = read('[upstreams.deepseek]\ndialect = "anthropic"\nbase_url = "https://api.deepseek.com/anthropic"')
    upstream = claude.upstreams["deepseek"]
    assert (upstream.provider, upstream.prices, upstream.record) == ("", "deepseek", COMPATIBLE["anthropic"])


@pytest.mark.parametrize(
    ("region", "base_url", "percent"),
    [
        ("global", "https://aiplatform.googleapis.com", 100),
        ("eu", "https://aiplatform.eu.rep.googleapis.com", 110),
        ("europe-west1", "https://europe-west1-aiplatform.googleapis.com", 110),
    ],
)
def test_a_region_decides_where_and_how_dear_vertex_is(region: str, base_url: str, percent: int) -> None:
    for name in ("vertex", "vertex-anthropic"):
        upstream = read(f'[upstreams.{name}]\nproject = "p"\nregion = "{region}"').upstreams[name]
        assert (upstream.base_url, upstream.price_percent, upstream.needs_key) == (base_url, percent, False)
    assert (
        read(f'[upstreams.vertex]\nproject = "p"\nregion = "{region}"\nprice_percent = 105')
        .upstreams["vertex"]
        .price_percent
        == 105
    )


@pytest.mark.parametrize("ending", ["", "/", "/openai", "/openai/v1/", "/openai/v1"])
def test_an_azure_resource_may_be_written_as_its_portal_shows_it(ending: str) -> None:
    upstream = read(f'[upstreams.azure]\nbase_url = "https://r.openai.azure.com{ending}"').upstreams["azure"]
    assert (upstream.base_url, upstream.price_percent) == ("https://r.openai.azure.com", 120)


def test_bedrock_takes_a_key_or_signs() -> None:
    upstream = read('[upstreams.bedrock]\nregion = "us-east-1"').upstreams["bedrock"]
    assert upstream.base_url == "https://bedrock-runtime.us-east-1.amazonaws.com"
    assert (upstream.key_env, upstream.needs_key) == ("AWS_BEARER_TOKEN_BEDROCK", False)


def test_settings_survive_being_validated_again() -> None:
    once = Settings()
    assert Settings(upstreams=once.upstreams) == once


def test_provider_keys_are_those_that_the_environment_has() -> None:
    assert Settings().provider_keys({"OPENAI_API_KEY": "sk", "ANTHROPIC_API_KEY": ""}) == {"openai": "sk"}


@pytest.mark.parametrize(
    "url",
    ["http://localhost:1", "http://127.0.0.1", "http://[::1]:8", "http://10.0.0.7", "http://vllm:8000", "https://a.io"],
)
def test_a_private_host_needs_no_tls(url: str) -> None:
    assert read(f'[upstreams.x]\ndialect = "openai"\nbase_url = "{url}"\n').upstreams["x"].base_url == url


def test_clear_text_to_a_public_host_has_to_be_said_aloud() -> None:
    text = '[upstreams.x]\ndialect = "openai"\nbase_url = "http://example.com"\n'
    with pytest.raises(SettingsError, match="insecure = true"):
        read(text)
    assert read(text + "insecure = true\n").upstreams["x"].insecure


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[serve]\nport = 1", r"bursar.toml: unknown key serve; did you mean server\? \(known here: ledger, server"),
        ('[defaults.run]\nusb = "1"', r"unknown key defaults.run.usb; did you mean usd\?"),
        ("[keys.ci]\nrun = { cals = 1 }", r"unknown key keys.ci.run.cals; did you mean calls\?"),
        ('[models."m.1"]\ninputs = "1"', r'unknown key models."m.1".inputs; did you mean input\?'),
        ('[upstreams.x]\ndialect = "openai"', "upstreams.x.base_url is missing"),
        ("[upstreams.x]", "upstreams.x.dialect is missing"),
        ("[upstreams.azure]", "upstreams.azure.base_url is missing"),
        ('[upstreams.x]\nprovider = "grok"', r"upstreams: x: there is no provider 'grok'; did you mean groq\?"),
        ('[upstreams.x]\nprovider = "?"', r"no provider '\?' \(known: anthropic, azure"),
        ('[upstreams.x]\nprovider = "groq"\ndialect = "anthropic"', "groq speaks the openai dialect, not anthropic"),
        ('[upstreams.vertex]\nproject = "p"', "vertex needs region"),
        ("[upstreams.x]\nprovider = 'vertex'", "x: vertex needs project and region"),
        ('[upstreams.bedrock]\nregion = "us/../x"', "upstreams.bedrock.region"),
        ('[upstreams.groq]\npath_prefix = "v1"', "upstreams.groq.path_prefix"),
        ("[upstreams.groq]\nprice_percent = 0", "upstreams.groq.price_percent"),
        ('[upstreams.groq]\ndeployments = { x = "" }', "upstreams.groq.deployments"),
        ('[upstreams.x]\ndialect = "soap"\nbase_url = "https://x.io"', "'anthropic' or 'gemini'"),
        ('[server]\nport = "1"', "server.port: .*integer"),
        ("[server]\nport = true", "server.port: .*integer"),
        ("[server]\nport = 70000", "server.port"),
        ("[server]\nbody_bytes_max = 0", "server.body_bytes_max"),
        ('[keys."a b"]', 'keys."a b"'),
        ("keys = 3", "keys: .*dictionary"),
        ("upstreams = 3", "upstreams: .*dictionary"),
        ("[upstreams]\nx = 3", "upstreams.x"),
        ('[upstreams.v1]\ndialect = "openai"\nbase_url = "https://x.io"', "path of the gateway itself"),
        ('[defaults.run]\nusd = "-1"', "defaults.run.usd: .*zero or more"),
        ('[defaults.run]\nusd = "1e-10"', "nine decimals"),
        ("[defaults.run]\nusd = nan", "zero or more"),
        ("[defaults.run]\nusd = true", "defaults.run.usd"),
        ("[defaults.run]\ncalls = -1", "defaults.run.calls"),
        ("[defaults.run]\ncalls = 1.5", "defaults.run.calls"),
        ('[defaults.run]\nusd = "none"\ncalls = "none"', "at least one of usd, calls and tokens"),
        ('[models.m]\ninput = "x"\noutput = "1"\ncontext_tokens = 1\noutput_tokens_max = 1', "USD per million"),
        ('[models.m]\ninput = "-1"\noutput = "1"\ncontext_tokens = 1\noutput_tokens_max = 1', "between 0 and"),
        ('[models.m]\ninput = "1e-7"\noutput = "1"\ncontext_tokens = 1\noutput_tokens_max = 1', "six decimals"),
        (
            '[models.m]\ninput = 1\noutput = 1.5\ncontext_tokens = 1\noutput_tokens_max = 1\nupstream = "opnai"',
            r"names the upstream 'opnai', which is not set; did you mean openai\?",
        ),
        ("[policy]\nrefusal_status = 500", "policy.refusal_status: .*'auto', 429, 402 or 400"),
        ("[policy]\nwait_seconds_max = -1", "policy.wait_seconds_max"),
        ('[upstreams.x]\ndialect = "openai"\nbase_url = "ftp://x.io"', "is not a URL such as"),
        ('[upstreams.x]\ndialect = "openai"\nbase_url = "https://[::1"', "is not a URL"),
        ('[upstreams.x]\ndialect = "openai"\nbase_url = "https://me:pw@x.io"', "must not carry a user"),
        ('[upstreams.x]\ndialect = "openai"\nbase_url = "https://x.io?k=1"', "must not carry"),
        ('[upstreams.x]\ndialect = "openai"\nbase_url = 3', "upstreams.x.base_url"),
    ],
)
def test_what_is_wrong_is_named(text: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        read(text)


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"gone.toml: cannot be read: .*`bursar init`"):
        load(tmp_path / "gone.toml")


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [(b"[server", "not valid TOML"), (b"\xff", "not valid TOML"), (b"#" * 1_048_577, "larger than")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, raw: bytes, complaint: str) -> None:
    path = tmp_path / "bursar.toml"
    path.write_bytes(raw)
    with pytest.raises(SettingsError, match=complaint):
        load(path)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().server.port = 1  # type: ignore[misc]
