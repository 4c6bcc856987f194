"""`bursar init`: write a bursar.toml that says what every setting is and changes nothing."""

from __future__ import annotations

from pathlib import Path

import click

from bursar.cli.common import FailedError, json_option, show_json

TEMPLATE = """\
# Settings of bursar. Every line that is commented out shows its default; an unknown key refuses to start.

[ledger]
# Where the books are. A relative path counts from this file.
# url = "{ledger_url}"
# To fold entries into balances that are older (all are kept where it is not said): keep_days = 90

[server]
# Where `bursar serve` listens, and how much it takes.
# host = "127.0.0.1"
# port = 4100
# body_bytes_max = 33554432
# connections_max = 10000          # per worker
# backlog_max = 2048
# keepalive_seconds_max = 75
# drain_seconds_max = 30           # after that, calls in flight are cut and their holds are booked whole
# canary_seconds = 60              # how often each worker proves that a spent cap refuses; docs/canary.md

[defaults.run]
# The caps of a new run. "none" sets no limit; at least one has to stay.
# usd = "5.00"
# calls = 500
# tokens = "none"
# hours = 24                       # a run that does nothing for so long is stopped; `bursar runs resume` lets it go on
# loops = 8                        # equal requests, or equal tool calls with equal results, in a row; docs/loops.md

[policy]
# Near the cap: "clamp" lowers the output bound to what is affordable, "refuse" refuses.
# near_cap = "clamp"
# output_tokens_default = 32768    # for calls that name no bound
# output_tokens_comfort = 4096     # while money is held by others, wait rather than get less than this
# output_tokens_floor = 256        # refuse rather than get less than this
# wait_seconds_max = 30
# ask_seconds_max = 0              # at a spent cap, how long a call waits for a person to raise it
# read_on_seconds_max = 30         # when the client has left, to meter the rest of the reply
# refusal_status = "auto"          # or 429, 402, 400
# timezone = "UTC"                 # of budgets by the day, week or month that name no other
# allow_fields = []                # request fields you vouch for, though bursar does not know them
# server_tools = []                # paid tools of the provider: "web_search", "web_fetch", "file_search"
# server_tool_uses_default = 3     # for calls that name no bound of them

# ---- Keys: who may call, and with which caps. `bursar keys create NAME` makes one without this file. ----
# [keys.ci]
# key_env = "BURSAR_KEY_CI"        # the variable that holds the secret
# run = {{ usd = "1.00", calls = 50 }}
# usd = "100.00"                   # over all runs of this key
# budgets = [{{ usd = "50", period = "day" }}, {{ calls = 1000, period = "rolling 1h" }}]   # or hour, week, month
# runs_per_hour_max = 100
# models = ["gpt-*", "claude-*"]
# upstreams = ["openai"]           # globs; default: all
# team = "research"                # whose budgets pay as well
# user = "ann@example.com"         # "*" lets the client name the user, and refuses a call that names none
# tags = ["env=prod"]              # of every call of the key; no client can change them
# tags_required = ["job"]          # a call without such a tag is refused; docs/identity.md says how one is sent
# networks = ["10.0.0.0/8"]        # where calls may come from; default: everywhere
# expires = 2027-01-31             # or a time with its zone; the key is refused from then on
# role = "viewer"                  # or operator, admin: a key for the books, which makes no model calls

# ---- Budgets of everybody, and of who and what else pays: usd, calls or tokens for a lifetime, and any number
# of budgets that come anew. All that a call meets must have what it may cost. ----
# [organisation]
# budgets = [{{ usd = "1000", period = "month" }}]
# [teams.research]
# budgets = [{{ usd = "200", period = "week" }}, {{ usd = "50", period = "day" }}]
# [users."ann@example.com"]
# usd = "100"
# [tags."env=prod"]
# calls = 100000
# [budgets."model:gpt-*"]          # or "model:gpt-5", "upstream:openai"
# budgets = [{{ usd = "20", period = "day" }}]

# ---- People who manage by a token of an OpenID provider, beside keys with a role; pip install 'bursar[oidc]'. ----
# [oidc]
# issuer = "https://login.example.com/realms/main"
# audience = "bursar"
# role_claim = "roles"             # dots lead into objects, such as realm_access.roles
# roles = {{ "bursar-admins" = "admin", "oncall" = "operator" }}   # or viewer

# ---- Upstreams: openai, anthropic and gemini are built in, and mistral, deepseek, groq, xai and openrouter as soon as
# their key is set. An upstream that has the name of a provider has its ways; docs/providers.md has them all. ----
# [upstreams.openai]
# provider = "openai"              # default: the name of the upstream, where there is such a provider
# dialect = "openai"               # or anthropic, gemini: what the server speaks
# base_url = "https://api.openai.com"
# path_prefix = "/v1"              # what its paths begin with, where it is not /v1
# key_env = "OPENAI_API_KEY"       # "" for a server that takes no key
# prices = "openai"                # price list that holds: openai, anthropic, google, mistral, groq, deepseek, x-ai,
#                                  # openrouter, bedrock, or any (of the makers' lists the first that has the model)
# price_percent = 100              # what it charges of that list; 110 with data residency
# deployments = {{ "prod" = "gpt-4.1-mini" }}   # names of your own, each with the model whose price it has
# output_field = "max_completion_tokens"      # bounds the output of a chat that names no bound
# takes_stream_options = true      # false for a server that refuses stream_options
# takes_service_tier = true        # whether the ordinary tier is asked for by name
# counts_input = true              # whether its free count of tokens may make a hold smaller
# insecure = false                 # true lets http through to a public host, with keys and prompts in the clear
# connect_seconds_max = 10
# idle_seconds_max = 600           # longest silence, also before the first byte
# total_seconds_max = 3600
# read_on_seconds_max = 30         # instead of the policy's
#
# [upstreams.groq]
# key_env = "GROQ_API_KEY"
#
# [upstreams.azure]
# base_url = "https://my-resource.openai.azure.com"
# deployments = {{ "prod-eu" = "gpt-4.1-mini" }}  # only names that are explained here are priced
# api_version = ""                 # such as "2025-03-01": the dated paths; empty: /openai/v1
# price_percent = 120              # 100 where every deployment is global
#
# [upstreams.vertex]               # Gemini on Google Cloud; pip install 'bursar[vertex]'
# project = "my-project"
# region = "global"
#
# [upstreams.vertex-anthropic]     # Claude on Google Cloud
# project = "my-project"
# region = "europe-west1"
#
# [upstreams.bedrock]              # Claude on AWS; pip install 'bursar[bedrock]', or a key in AWS_BEARER_TOKEN_BEDROCK
# region = "us-east-1"
#
# [upstreams.ollama]               # likewise vllm, lmstudio; their models need prices, also free ones
# base_url = "http://127.0.0.1:11434"
#
# [upstreams.litellm]
# base_url = "http://127.0.0.1:4000"
# deployments = {{ "fast" = "gpt-4.1-mini", "good" = "anthropic:claude-sonnet-4-5" }}

# ---- Upstreams that are asked in turn for a model, when one is not reached or answers 429 or 5xx; in one dialect. ----
# [fallback]
# "gpt-4.1-mini" = ["openai", "azure/prod-eu"]

# ---- Webhooks: who is told of thresholds (50, 80, 100 %), first refusals, overruns, loops; docs/webhooks.md. ----
# [webhooks.ops]
# url = "https://ops.example.com/bursar"   # or url_env: the variable that holds it, where it is itself a secret
# secret_env = "OPS_WEBHOOK_SECRET"   # the variable with the secret to sign with: whsec_ and base64
# events = ["threshold", "exhausted", "overrun", "quarantine", "loop", "asking", "canary"]   # default: all
# format = "json"                  # or "slack", which needs no secret_env
# insecure = false                 # true lets http through to a public host

# ---- Models with prices of your own, in USD per million tokens. A free one has to say zero. ----
# [models."my-model"]
# input = "0"
# output = "0"
# context_tokens = 131072
# output_tokens_max = 8192
"""


@click.command()
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default=Path("bursar.toml"))
@json_option
def init(path: Path, force: bool, as_json: bool) -> None:
    """Write a commented bursar.toml; all of it is optional.

    Example: bursar init
    """
    from bursar.settings import LedgerSettings

    text = TEMPLATE.format(ledger_url=LedgerSettings().url)
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise FailedError(f"{path} is there already; --force overwrites it") from None
    except OSError as error:
        raise FailedError(f"{path}: {error.strerror}") from None
    if as_json:
        show_json({"path": str(path)})
    else:
        click.echo(f"wrote {path}; every setting in it is the default")
