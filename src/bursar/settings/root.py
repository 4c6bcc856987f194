"""All settings of a gateway together, and what has to be true between their parts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from bursar.ledger.account import Budget
from bursar.settings.oidc import OidcSettings
from bursar.settings.sections import LedgerSettings, PolicySettings, ServerSettings
from bursar.settings.spenders import Defaults, KeySettings, RunTemplate, SpenderSettings
from bursar.settings.upstreams import ModelSettings, UpstreamSettings
from bursar.settings.values import KeyName, Payer, Section, Spender, Tag, UpstreamName, nearest
from bursar.settings.webhooks import WebhookName, WebhookSettings
from bursar.upstream.configured import built_in, filled

# These are the first path segments of the gateway's own routes; an upstream of that name could not be reached.
_TAKEN_NAMES = frozenset({"v1", "v1beta", "r", "bursar", "livez", "readyz", "metrics"})


class Settings(Section):
    """All settings of one gateway; what is not set has its default."""

    ledger: LedgerSettings = Field(default_factory=LedgerSettings)
    server: ServerSettings = ServerSettings()
    defaults: Defaults = Defaults()
    organisation: SpenderSettings = SpenderSettings()
    teams: dict[Spender, SpenderSettings] = Field(default_factory=dict)
    users: dict[Spender, SpenderSettings] = Field(default_factory=dict)
    tags: dict[Tag, SpenderSettings] = Field(default_factory=dict)
    budgets: dict[Payer, SpenderSettings] = Field(default_factory=dict)
    """Of models and upstreams, by their scope: `model:gpt-*`, `upstream:openai`."""
    keys: dict[KeyName, KeySettings] = Field(default_factory=dict)
    upstreams: Annotated[dict[UpstreamName, UpstreamSettings], Field(validate_default=True)] = Field(
        default_factory=dict
    )
    models: dict[str, ModelSettings] = Field(default_factory=dict)
    fallback: dict[str, Annotated[tuple[str, ...], Field(min_length=2, max_length=8, strict=False)]] = Field(
        default_factory=dict
    )
    """By model, or a pattern such as `gpt-5*`: `UPSTREAM` or `UPSTREAM/MODEL`, in the order in which they are asked."""
    policy: PolicySettings = PolicySettings()
    oidc: OidcSettings | None = None
    webhooks: dict[WebhookName, WebhookSettings] = Field(default_factory=dict)

    @field_validator("upstreams", mode="before")
    @classmethod
    def _with_built_ins(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        merged: dict[Any, Any] = {name: filled(name, {}) for name in built_in(os.environ)}
        for name, given in value.items():
            own = given.model_dump(exclude_unset=True) if isinstance(given, UpstreamSettings) else given
            merged[name] = filled(name, own) if isinstance(own, dict) else own
        return merged

    @field_validator("upstreams")
    @classmethod
    def _reachable_names(cls, value: dict[str, UpstreamSettings]) -> dict[str, UpstreamSettings]:
        taken = sorted(_TAKEN_NAMES & value.keys())
        if taken:
            raise ValueError(f"{taken[0]!r} is a path of the gateway itself; give the upstream another name")
        return value

    @model_validator(mode="before")
    @classmethod
    def _runs_take_the_defaults(cls, data: Any) -> Any:
        # `run = { usd = "1.00" }` of a key must not lose the caps that [defaults.run] sets.
        match data:
            case {"keys": dict() as keys, "defaults": {"run": dict() as base}}:
                filled = {
                    name: {**key, "run": {**base, **key["run"]}}
                    if isinstance(key, dict) and isinstance(key.get("run"), dict)
                    else key
                    for name, key in keys.items()
                }
                return {**data, "keys": filled}
            case _:
                return data

    @model_validator(mode="after")
    def _models_name_upstreams(self) -> Settings:
        for name, model in self.models.items():
            if model.upstream and model.upstream not in self.upstreams:
                hint = nearest(model.upstream, list(self.upstreams))
                raise ValueError(f'[models."{name}"] names the upstream {model.upstream!r}, which is not set{hint}')
        return self

    @model_validator(mode="after")
    def _fallbacks_stay_in_a_dialect(self) -> Settings:
        for model, routes in self.fallback.items():
            names = [route.partition("/")[0] for route in routes]
            unknown = [name for name in names if name not in self.upstreams]
            if unknown:
                hint = nearest(unknown[0], list(self.upstreams))
                raise ValueError(f'[fallback] "{model}" names the upstream {unknown[0]!r}, which is not set{hint}')
            if len({self.upstreams[name].dialect for name in names}) > 1:
                raise ValueError(
                    f'[fallback] "{model}" goes from one dialect to another; a request cannot be sent in both'
                )
            if len(set(routes)) < len(routes):
                raise ValueError(f'[fallback] "{model}" names the same upstream and model twice')
        return self

    @model_validator(mode="after")
    def _budgets_differ(self) -> Settings:
        for table, spender in self._tables().items():
            budgets = {(budget.unit, budget.period) for budget in spender.in_periods(self.policy.timezone)}
            if len(budgets) < len(spender.budgets):
                raise ValueError(f"[{table}] has two budgets of the same unit and period")
        return self

    def _tables(self) -> dict[str, SpenderSettings]:
        return {
            "organisation": self.organisation,
            **{f"teams.{name}": team for name, team in self.teams.items()},
            **{f"users.{name}": user for name, user in self.users.items()},
            **{f'tags."{name}"': tag for name, tag in self.tags.items()},
            **{f'budgets."{name}"': payer for name, payer in self.budgets.items()},
            **{f"keys.{name}": key for name, key in self.keys.items()},
        }

    def payers(self) -> dict[str, SpenderSettings]:
        """Give who pays beside keys and runs, by scope: organisation, teams, users, tags, models, upstreams."""
        return {
            **({"org": self.organisation} if "organisation" in self.model_fields_set else {}),
            **{f"team:{name}": team for name, team in self.teams.items()},
            **{f"user:{name}": user for name, user in self.users.items()},
            **{f"tag:{name}": tag for name, tag in self.tags.items()},
            **self.budgets,
        }

    def with_ledger(self, url: str) -> Settings:
        """Give these settings with the ledger at another place; the marker belongs to the ledger of the settings."""
        marker = self.ledger.marker if url == self.ledger.url else ""
        return self.model_copy(update={"ledger": self.ledger.model_copy(update={"url": url, "marker": marker})})

    def run_template(self, key: str) -> RunTemplate:
        """Give the caps that a new run of this key is opened with."""
        own = self.keys.get(key)
        return self.defaults.run if own is None or own.run is None else own.run

    def with_loops(self, loops: int | None) -> Settings:
        """Give these settings with another bound on loops, for the runs of every key."""
        return self._with_runs({"loops": loops})

    def without_idle_end(self) -> Settings:
        """Give these settings for a gateway that stops no run for being idle: that is left to those that stay."""
        return self._with_runs({"hours": None})

    def _with_runs(self, new: dict[str, int | None]) -> Settings:
        run = self.defaults.run.model_copy(update=new)
        keys = {
            name: key.model_copy(update={"run": key.run and key.run.model_copy(update=new)})
            for name, key in self.keys.items()
        }
        return self.model_copy(update={"defaults": self.defaults.model_copy(update={"run": run}), "keys": keys})

    def key_budgets(self, key: str) -> tuple[Budget, ...]:
        """Give the budgets of a key that come anew, as the ledger takes them."""
        return self.keys[key].in_periods(self.policy.timezone)

    def provider_keys(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Give the secret of every upstream whose key is in the environment, by the upstream's name."""
        found = {name: environ.get(upstream.key_env, "") for name, upstream in self.upstreams.items()}
        return {name: secret for name, secret in found.items() if secret}
