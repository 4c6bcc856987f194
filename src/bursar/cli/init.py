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

[server]
# Where `bursar serve` listens, and how much it takes.
# host = "127.0.0.1"
# port = 4100
# body_bytes_max = 33554432
# connections_max = 10000          # per worker
# backlog_max = 2048
# keepalive_seconds_max = 75
# drain_seconds_max = 30           # after that, calls in flight are cut and their holds are booked whole

[defaults.run]
# The caps of a new run. "none" sets no limit; at least one has to stay.
# usd = "5.00"
# calls = 500
# tokens = "none"

[policy]
# Near the cap: "clamp" lowers the output bound to what is affordable, "refuse" refuses.
# near_cap = "clamp"
# output_tokens_default = 32768    # for calls that name no bound
# output_tokens_comfort = 4096     # while money is held by others, wait rather than get less than this
# output_tokens_floor = 256        # refuse rather than get less than this
# wait_seconds_max = 30
# read_on_seconds_max = 30         # when the client has left, to meter the rest of the reply
# refusal_status = "auto"          # or 429, 402, 400
# allow_fields = []                # request fields you vouch for, though bursar does not know them

# ---- Keys: who may call, and with which caps. `bursar keys create NAME` makes one without this file. ----
# [keys.ci]
# key_env = "BURSAR_KEY_CI"        # the variable that holds the secret
# run = {{ usd = "1.00", calls = 50 }}
# usd = "100.00"                   # over all runs of this key
# runs_per_hour_max = 100
# models = ["gpt-*", "claude-*"]

# ---- Upstreams: openai and anthropic are built in; any server that speaks one of the two can be added. ----
# [upstreams.openai]
# dialect = "openai"
# base_url = "https://api.openai.com"
# key_env = "OPENAI_API_KEY"
#
# [upstreams.groq]
# dialect = "openai"
# base_url = "https://api.groq.com/openai"
# key_env = "GROQ_API_KEY"
# prices = "groq"                  # provider id in the price book; default: the name of the upstream
# connect_seconds_max = 10
# idle_seconds_max = 600           # longest silence, also before the first byte
# total_seconds_max = 3600

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
