"""What a LiteLLM proxy is configured to do, as a `bursar.toml`: upstreams, prices, budgets, keys. Pure.

What has no counterpart is said, one line each; nothing is left out in silence. Secrets are never copied: a key that is
written into the file becomes the name of a variable, and virtual keys, of which LiteLLM itself keeps only a hash,
are made anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from bursar.settings.values import tag_text
from bursar.upstream.providers import PROVIDERS as KNOWN

# The part of a model's name before the slash, and the provider here that speaks for it.
PROVIDERS = {
    "openai": "openai",
    "text-completion-openai": "openai",
    "azure": "azure",
    "anthropic": "anthropic",
    "gemini": "gemini",
    "vertex_ai": "vertex",
    "bedrock": "bedrock",
    "mistral": "mistral",
    "deepseek": "deepseek",
    "groq": "groq",
    "xai": "xai",
    "openrouter": "openrouter",
    "ollama": "ollama",
    "ollama_chat": "ollama",
    "hosted_vllm": "vllm",
    "lm_studio": "lmstudio",
    "litellm_proxy": "litellm",
}
PERIODS = {"1h": "hour", "24h": "day", "1d": "day", "7d": "week", "30d": "month", "1mo": "month"}
_ENVIRONMENT = "os.environ/"
_PARAMS = frozenset(
    {
        *("api_base", "api_key", "api_version", "aws_region_name", "base_url", "budget_duration"),
        *("cache_read_input_token_cost", "input_cost_per_token", "max_budget", "model", "output_cost_per_token"),
        *("region_name", "vertex_location", "vertex_project"),
    }
)
_SILENT = frozenset({"set_verbose", "json_logs", "drop_params", "database_url", "store_model_in_db", "salt_key"})


@dataclass(slots=True)
class Imported:
    """The settings, and what could not be taken over."""

    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    routes: dict[str, list[str]] = field(default_factory=dict)
    """By model: where it is served, `UPSTREAM/MODEL`, in the order of the file."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """By the name that clients call there: the names that they call here."""

    def provider(self, upstream: str) -> str:
        """Give the provider of an upstream of the settings."""
        return str(self.settings["upstreams"][upstream].get("provider", upstream))

    def dialect(self, upstream: str) -> str:
        """Give the wire format of an upstream of the settings."""
        return KNOWN[self.provider(upstream)].dialect

    def table(self, *names: str) -> dict[str, Any]:
        """Give a table of the settings, made where it is not there."""
        found = self.settings
        for name in names:
            found = found.setdefault(name, {})
        return found


def imported(
    config: Mapping[str, Any], keys: Iterable[Mapping[str, Any]] = (), teams: Iterable[Mapping[str, Any]] = ()
) -> Imported:
    """Turn a configuration, and what `/key/list` and `/team/list` answer, into settings."""
    made = Imported()
    for entry in _mappings(config.get("model_list")):
        _model(made, entry)
    for name, several in made.routes.items():
        if len(several) > 1:
            made.table("fallback")[name] = several
            made.notes.append(f"{name} was shared out among {len(several)} deployments; here they are asked in order")
    _litellm_settings(made, config.get("litellm_settings") or {})
    _router_settings(made, config.get("router_settings") or {})
    _general_settings(made, config.get("general_settings") or {})
    names = {str(team.get("team_id")): _name(team.get("team_alias") or team.get("team_id")) for team in teams}
    for team in teams:
        name = _name(team.get("team_alias") or team.get("team_id"))
        made.table("teams", name).update(_budget(made, f"team {name}", team))
    for key in keys:
        _key(made, key, names)
    return made


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


# ---- models ---------------------------------------------------------------------------------------------------------


def _model(made: Imported, entry: Mapping[str, Any]) -> None:
    params, info = entry.get("litellm_params") or {}, entry.get("model_info") or {}
    alias, model = str(entry.get("model_name", "")), str(params.get("model", ""))
    prefix, slash, name = model.partition("/")
    provider = PROVIDERS.get(prefix) if slash else "anthropic" if model.startswith("claude") else "openai"
    if not slash:
        name = model
    if provider is None:
        made.notes.append(
            f"model {alias}: the provider {prefix!r} of {model} is not known here; add an upstream for it"
        )
        return
    upstream = _upstream(made, provider, params)
    base = str(info.get("base_model", "")).rpartition("/")[2]
    if provider in ("azure", "litellm") or base:
        made.table("upstreams", upstream, "deployments")[name] = base or name
        if provider in ("azure", "litellm") and not base:
            made.notes.append(f"model {alias}: is the deployment {name} really the model {name}? Its price hangs on it")
    if alias not in (name, model) and "*" not in alias:
        made.notes.append(f"model {alias}: clients have to call it {name}; requests pass here with the model they name")
    if name not in made.names.setdefault(alias, []):
        made.names[alias].append(name)
    route = f"{upstream}/{name}"
    if "*" not in name and route not in made.routes.setdefault(name, []):
        made.routes[name].append(route)
    _price(made, alias, name, params, info)
    if params.get("max_budget") is not None and "*" not in name:
        made.table("budgets", f"model:{name}").update(_budget(made, f"model {alias}", params))
    for other in sorted(params.keys() - _PARAMS):
        made.notes.append(f"model {alias}: {other} has no counterpart")


def _upstream(made: Imported, provider: str, params: Mapping[str, Any]) -> str:
    """Give the name of the upstream that serves a model, made where there is none like it yet."""
    wanted: dict[str, Any] = {}
    if base := str(params.get("api_base") or params.get("base_url") or ""):
        wanted["base_url"] = base.rstrip("/")
    if key_env := _variable(made, provider, params.get("api_key")):
        wanted["key_env"] = key_env
    for ours, theirs in (("api_version", "api_version"), ("project", "vertex_project"), ("region", "vertex_location")):
        if params.get(theirs):
            wanted[ours] = str(params[theirs])
    if region := params.get("aws_region_name") or params.get("region_name"):
        wanted["region"] = str(region)
    known = made.table("upstreams")
    for number in range(1, 1000):
        name = provider if number == 1 else f"{provider}-{number}"
        there = {key: value for key, value in known.get(name, {}).items() if key not in ("deployments", "provider")}
        if name not in known:
            known[name] = wanted if number == 1 else {"provider": provider, **wanted}
            return name
        if there == wanted:
            return name
    raise ValueError("more than 999 endpoints of one provider")


def _variable(made: Imported, provider: str, key: object) -> str:
    """Give the variable that has a provider's key; a key that is written out becomes one."""
    if not isinstance(key, str) or not key:
        return ""
    if key.startswith(_ENVIRONMENT):
        return key.removeprefix(_ENVIRONMENT)
    name = f"{re.sub('[^A-Z0-9]', '_', provider.upper())}_API_KEY"
    note = f"a key of {provider} is written out in the file; put it into {name} (it is not copied)"
    if note not in made.notes:
        made.notes.append(note)
    return name


def _price(made: Imported, alias: str, name: str, params: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    both = {**info, **params}
    given = both.get("input_cost_per_token"), both.get("output_cost_per_token")
    if given == (None, None):
        return
    window = info.get("max_input_tokens") or info.get("max_tokens")
    most = info.get("max_output_tokens") or info.get("max_tokens")
    prices = [_per_million(one if one is not None else 0) for one in given]
    if window is None or most is None or None in prices:
        made.notes.append(
            f'model {alias}: its own price needs context_tokens and output_tokens_max too, in [models."{name}"]'
        )
        return
    own = {"input": prices[0], "output": prices[1], "context_tokens": int(window), "output_tokens_max": int(most)}
    if (read := _per_million(both.get("cache_read_input_token_cost"))) is not None:
        own["cache_read"] = read
    made.table("models")[name] = own


def _per_million(value: object) -> str | None:
    try:
        usd = Decimal(str(value)) * 1_000_000
    except InvalidOperation:
        return None
    return f"{usd.normalize():f}" if usd.is_finite() else None


# ---- budgets --------------------------------------------------------------------------------------------------------


def _budget(made: Imported, whose: str, given: Mapping[str, Any], limit: str = "max_budget") -> dict[str, Any]:
    """Give the caps of somebody: a lifetime where no duration is said."""
    amount = given.get(limit)
    if amount is None:
        return {}
    try:
        usd = f"{Decimal(str(amount)).normalize():f}"
    except InvalidOperation:
        made.notes.append(f"{whose}: {amount!r} is no amount")
        return {}
    duration = given.get("budget_duration") or given.get("time_period")
    if not duration:
        return {"usd": usd}
    period = PERIODS.get(str(duration))
    if period is None:
        found = re.fullmatch(r"(\d+)(s|m|h|d|mo)", str(duration))
        if found is None:
            made.notes.append(f"{whose}: the period {duration!r} is not known; its budget is left out")
            return {}
        count, unit = int(found[1]), found[2]
        period = f"rolling {count * 30}d" if unit == "mo" else f"rolling {count}{unit}"
        made.notes.append(
            f"{whose}: {duration} became {period!r}, a window that moves on; there it began anew each time"
        )
    return {"budgets": [{"usd": usd, "period": period}]}


def _litellm_settings(made: Imported, given: Mapping[str, Any]) -> None:
    rest = dict(given)
    if rest.get("max_budget") is not None:
        made.table("organisation").update(_budget(made, "the proxy", rest))
    for tag, budget in (rest.pop("tag_budget_config", None) or {}).items():
        if name := _tag(made, str(tag)):
            made.table("tags", name).update(_budget(made, f"tag {tag}", budget))
    for fallback in _mappings(rest.pop("fallbacks", None)):
        for model, others in fallback.items():
            _fallback(made, str(model), [str(other) for other in others])
    for name in ("max_budget", "budget_duration"):
        rest.pop(name, None)
    made.notes += [f"litellm_settings: {name} has no counterpart" for name in sorted(rest.keys() - _SILENT)]


def _fallback(made: Imported, model: str, others: list[str]) -> None:
    routes = [route for name in (model, *others) for route in made.routes.get(name, ())]
    speaks = {made.dialect(route.partition("/")[0]) for route in routes}
    if len(routes) < 2 or len(speaks) > 1 or any(name not in made.routes for name in (model, *others)):
        made.notes.append(f"fallback of {model} to {', '.join(others)}: only within one wire format; left out")
    else:
        made.table("fallback")[model] = routes[:8]


def _router_settings(made: Imported, given: Mapping[str, Any]) -> None:
    rest = dict(given)
    for prefix, budget in (rest.pop("provider_budget_config", None) or {}).items():
        provider = PROVIDERS.get(str(prefix))
        mine = [name for name in made.table("upstreams") if made.provider(name) == provider]
        if len(mine) != 1:
            made.notes.append(f"budget of the provider {prefix}: {len(mine)} upstreams here are its own; left out")
        else:
            budgets = made.table("budgets", f"upstream:{mine[0]}")
            budgets.update(
                _budget(
                    made, f"provider {prefix}", budget, "budget_limit" if "budget_limit" in budget else "max_budget"
                )
            )
    for fallback in _mappings(rest.pop("fallbacks", None)):
        for model, others in fallback.items():
            _fallback(made, str(model), [str(other) for other in others])
    made.notes += [f"router_settings: {name} has no counterpart" for name in sorted(rest.keys() - _SILENT)]


def _general_settings(made: Imported, given: Mapping[str, Any]) -> None:
    if given.get("master_key"):
        made.table("keys", "admin").update(key_env="BURSAR_ADMIN_KEY", role="admin")
        made.notes.append("the master key became [keys.admin]: it manages, and calls no model; set BURSAR_ADMIN_KEY")
    rest = sorted(given.keys() - _SILENT - {"master_key"})
    made.notes += [f"general_settings: {name} has no counterpart" for name in rest]


# ---- keys -----------------------------------------------------------------------------------------------------------


def _key(made: Imported, given: Mapping[str, Any], teams: Mapping[str, str]) -> None:
    name = _name(given.get("key_alias") or "")
    if not name or name in made.table("keys"):
        said = given.get("key_name") or given.get("token") or "?"
        made.notes.append(f"key {said}: it has no name of its own; left out")
        return
    key: dict[str, Any] = _budget(made, f"key {name}", given)
    key["key_env"] = f"{re.sub('[^A-Z0-9]', '_', name.upper())}_KEY"
    if team := given.get("team_id"):
        key["team"] = teams.get(str(team), _name(team))
    if user := _name(given.get("user_id") or ""):
        key["user"] = user
    if models := [str(one) for one in given.get("models") or () if "-team-models" not in str(one)]:
        names = [name for one in models for name in made.names.get(one, [one])]
        key["models"] = ["*"] if "all-proxy-models" in models else list(dict.fromkeys(names))
    if expires := given.get("expires"):
        key["expires"] = str(expires)
    if tags := [tag for one in (given.get("metadata") or {}).get("tags") or () if (tag := _tag(made, str(one)))]:
        key["tags"] = tags
    made.table("keys")[name] = key
    _say_of_key(made, name, given)


def _say_of_key(made: Imported, name: str, given: Mapping[str, Any]) -> None:
    if given.get("blocked"):
        made.notes.append(f"key {name}: it is blocked there; take [keys.{name}] out")
    if given.get("spend"):
        made.notes.append(f"key {name}: it has spent ${given['spend']} there; here it begins at zero")
    for other in ("tpm_limit", "rpm_limit", "max_parallel_requests", "soft_budget"):
        if given.get(other) is not None:
            made.notes.append(f"key {name}: {other} has no counterpart")


def _name(value: object) -> str:
    """Give a name that keys, teams and users may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", str(value or "")).strip("-._")[:64]


def _tag(made: Imported, tag: str) -> str:
    """Give a tag as it is written here; nothing for one that cannot be."""
    try:
        return tag_text(tag.lower())
    except ValueError as error:
        made.notes.append(f"tag {tag}: {error}; left out")
        return ""
