"""`bursar drill --target`: storms a gateway that runs already; `bursar drill provider`: the till it is judged by."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bursar.cli.common import USD, say, show_json

if TYPE_CHECKING:
    from bursar.drill.gateway import Gateway
    from bursar.drill.manners import Kind
    from bursar.drill.purse import RealPurse
    from bursar.drill.scenarios import Scenario
    from bursar.drill.witness import Witness
    from bursar.money import Money

F = TypeVar("F", bound=Callable[..., Any])

PORT = 4747
"""Where `bursar drill provider` listens, and `--target` looks for the till, unless they are told otherwise."""
_OPTIONS = ("target", "key", "model", "till", "gateway", "run", "real", "max_usd", "price_as", "yes")
# What belongs to a gateway that the drill starts itself, or to its provider.
_FOREIGN = ("workers", "gateways", "scenario", "only", "faults", "latency_ms")
_REAL_AGENTS, _REAL_TOKENS, _REAL_BYTES = 8, 64, (400, 800)
_ERRORS_MAX = 20


def target_options(command: F) -> F:
    """Add the options of a drill on a gateway that runs already."""
    options = (
        click.option("--target", metavar="URL", help="Storm the gateway at this URL instead of one of our own."),
        click.option("--key", envvar="BURSAR_DRILL_KEY", help="The key of the agents there; or in BURSAR_DRILL_KEY."),
        click.option("--model", help="What that gateway calls the model."),
        click.option("--till", metavar="URL", help=f"Where its provider is; default http://127.0.0.1:{PORT}."),
        click.option(
            "--gateway", metavar="KIND", help="bursar, litellm, inferrail, hardcap, portkey, openai, or FILE.toml."
        ),
        click.option("--run", metavar="NAME", help="How the run is called there; default a fresh name."),
        click.option("--real", is_flag=True, help="Its provider is a real one: costs money, asks before."),
        click.option("--max-usd", type=USD, metavar="USD", help="With --real: what the drill may spend in all."),
        click.option(
            "--price-as", metavar="MODEL", help="With --real: whose list price counts; default that of --model."
        ),
        click.option("--yes", is_flag=True, help="With --real: do not ask."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Ordered:
    """A storm on a gateway that runs already."""

    scenario: Scenario
    meet: Callable[[], AbstractAsyncContextManager[tuple[Witness, Gateway]]]
    settings: dict[str, object]
    """For the evidence; keys are left out."""


def ordered(options: dict[str, Any]) -> Ordered | None:
    """Take the options of `--target` out of all; None when there is no target."""
    own = {name: options.pop(name) for name in _OPTIONS}
    if own["target"] is None:
        stray = [name for name in _OPTIONS if name != "key" and own[name]]
        if stray:
            raise click.UsageError(f"--{stray[0].replace('_', '-')} is for a drill with --target")
        return None
    foreign = [name for name in _FOREIGN if options.get(name) is not None]
    if foreign:
        name = foreign[0].replace("_", "-")
        raise click.UsageError(
            f"--{name} is not for --target; what its provider does is said to `bursar drill provider`"
        )
    if not own["key"]:
        raise click.UsageError("--target needs --key, or the key in BURSAR_DRILL_KEY")
    kind = _kind(own["gateway"] or "bursar")
    scenario = _scenario(own, options)
    purse = _purse(own, scenario) if own["real"] else None
    settings = {name: own[name] for name in ("target", "model", "till", "run", "real", "price_as")}
    settings |= {"gateway": kind.name, "max_usd": str(own["max_usd"]) if own["max_usd"] else None}
    cap = str(options["cap_usd"] or options["cap_calls"])
    run = own["run"] or f"drill-{time.time_ns() // 1_000_000}"
    return Ordered(scenario, lambda: _met(kind, own, run, cap, purse), settings)


def _kind(name: str) -> Kind:
    from bursar.drill.manners import UnknownGatewayError, find_kind

    try:
        return find_kind(name)
    except UnknownGatewayError as error:
        raise click.BadParameter(str(error), param_hint="--gateway") from None


def _scenario(own: Mapping[str, Any], options: Mapping[str, Any]) -> Scenario:
    from bursar.drill.scenarios import calls, dollars

    cap_calls, cap_usd = options["cap_calls"], options["cap_usd"]
    if (cap_calls is None) == (cap_usd is None):
        raise click.UsageError("--target needs one of --cap-calls and --cap-usd: the cap that is set at that gateway")
    storm = calls(cap_calls) if cap_calls is not None else dollars(cap_usd.nanodollars)
    dialects = ("chat",) if options["dialect"] == "all" else (options["dialect"],)
    changes: dict[str, Any] = {
        "dialects": dialects,
        "target": own["target"],
        "store": "target",
        "errors_max": _ERRORS_MAX,
        "seed": time.time_ns() % 2**31 if options["seed"] is None else options["seed"],
    }
    if own["model"]:
        changes["models"] = dict.fromkeys(dialects, own["model"])
    if own["real"]:
        # Small, and all of one size: what the drill can see of a real provider's till is the usage in whole answers.
        changes |= {"agents": _REAL_AGENTS, "max_tokens": _REAL_TOKENS, "prompt_bytes": _REAL_BYTES}
        changes |= {"streams": (False,), "unbounded_percent": 0, "growing_percent": 0}
    if options["agents"] is not None:
        changes["agents"] = options["agents"]
    if options["stream"] is not None and not own["real"]:
        changes["streams"] = (options["stream"],)
    return replace(storm, **changes)


def _purse(own: Mapping[str, Any], scenario: Scenario) -> RealPurse:
    """Give the drill its money, after somebody has agreed; a gateway that leaks does not get more than this."""
    from bursar.drill.purse import RealPurse
    from bursar.drill.till import find_model

    limit: Money | None = own["max_usd"]
    if limit is None:
        raise click.UsageError("--real needs --max-usd: what this drill may spend at the provider in all")
    if scenario.cap_nanodollars is not None and limit.nanodollars <= scenario.cap_nanodollars:
        raise click.UsageError("--max-usd must be above --cap-usd, or a cap that leaks could not be seen")
    if scenario.dialects == ("gemini",):
        raise click.UsageError("--real reads the usage of chat, responses and messages")
    name = own["price_as"] or own["model"] or scenario.models[scenario.dialects[0]]
    model = find_model(name.rpartition("/")[2])
    if model is None:
        from bursar.drill.till import MODELS

        raise click.BadParameter(f"no list price of {name!r} here; one of {', '.join(MODELS)}", param_hint="--price-as")
    if own["till"]:
        raise click.UsageError("--till is for a fake provider; with --real the usage in the replies is the till")
    if not own["yes"]:
        click.confirm(f"Spend up to ${limit} of real money through {own['target']}?", abort=True, err=True)
    return RealPurse(model, limit.nanodollars)


@asynccontextmanager
async def _met(
    kind: Kind, own: Mapping[str, Any], run: str, cap: str, purse: RealPurse | None
) -> AsyncIterator[tuple[Witness, Gateway]]:
    from bursar.drill.target import FarTill, RunningGateway

    gateway = RunningGateway(kind, own["target"], run, own["key"], cap, purse)
    if purse is not None:
        yield purse, gateway
        return
    async with FarTill(own["till"] or f"http://127.0.0.1:{PORT}") as till:
        yield till, gateway


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens.")
@click.option("--port", type=click.IntRange(0, 65_535), default=PORT, show_default=True, help="0 takes a free one.")
@click.option("--latency-ms", type=click.IntRange(0, 60_000), default=200, show_default=True, help="To the first byte.")
@click.option("--faults", metavar="NAMES", default="none", show_default=True, help="all, or names with commas.")
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=1, show_default=True, help="For what is left to chance."
)
@click.option("--json", "as_json", is_flag=True, help="Say where it is as JSON.")
def provider(host: str, port: int, latency_ms: int, faults: str, seed: int, as_json: bool) -> None:
    """Serve the drill's fake provider, with its till, until you stop it: point any gateway at it.

    It speaks the APIs of OpenAI, Anthropic and Gemini, takes any key, and bills by its own list prices.
    GET /till gives what it billed, GET /till?ledger=100 the last hundred calls too, POST /till/reset empties it.

    Example: bursar drill provider --port 4747
    """
    import asyncio

    from bursar.drill.answering import Config
    from bursar.drill.fake_provider import serve
    from bursar.drill.faults import NAMED_FAULTS
    from bursar.drill.till import MODELS

    names = (
        [] if faults == "none" else list(NAMED_FAULTS) if faults == "all" else [n.strip() for n in faults.split(",")]
    )
    unknown = [name for name in names if name not in NAMED_FAULTS]
    if unknown:
        known = ", ".join(NAMED_FAULTS)
        raise click.BadParameter(f"{unknown[0]!r} is none of: none, all, {known}", param_hint="--faults")

    def tell(url: str) -> None:
        if as_json:
            show_json({"url": url, "till": f"{url}/till", "models": list(MODELS)})
        else:
            click.echo(f"{url}\n  the till: {url}/till\n  models: {', '.join(MODELS)}")

    config = Config(seed, first_byte_ms=latency_ms, chunk_ms=2, faults=tuple(NAMED_FAULTS[name] for name in names))
    try:
        asyncio.run(serve(config, host, port, tell))
    except OSError as error:
        say(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port")
        raise SystemExit(2) from None
