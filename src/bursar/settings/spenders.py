"""Who may spend how much: runs and keys, teams and users, and the budgets that come anew."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from bursar.clock import Instant
from bursar.ledger.account import Budget, Limits, Unit
from bursar.ledger.periods import LIFETIME, period_spec
from bursar.settings.values import (
    CountLimit,
    EnvName,
    HourLimit,
    LoopLimit,
    Network,
    Section,
    SpenderName,
    Tag,
    TagName,
    UsdLimit,
    instant,
    nanodollars,
)


class RunTemplate(Section):
    """The caps that a new run is opened with; `"none"` counts without a limit, at least one has to be set."""

    usd: UsdLimit = "5.00"
    calls: CountLimit = 500
    tokens: CountLimit = None
    hours: HourLimit = 24
    """How long a run may do nothing before it is stopped; one that was stopped can be resumed."""
    loops: LoopLimit = 8
    """How often it may call the same tools with the same results, or send the same request, in a row."""

    @model_validator(mode="after")
    def _has_a_cap(self) -> RunTemplate:
        if self.usd is None and self.calls is None and self.tokens is None:
            raise ValueError("a run needs at least one of usd, calls and tokens")
        return self

    @property
    def limits(self) -> Limits:
        """Give the caps as the ledger takes them."""
        return Limits(usd=nanodollars(self.usd), calls=self.calls, tokens=self.tokens)


class Defaults(Section):
    """What applies where nothing else is said."""

    run: RunTemplate = RunTemplate()


class BudgetSettings(Section):
    """A cap in one unit that comes anew with every period; `"none"` counts without a limit."""

    usd: UsdLimit = None
    calls: CountLimit = None
    tokens: CountLimit = None
    period: str
    timezone: str = ""
    """Of calendar periods; empty takes the policy's."""

    @model_validator(mode="after")
    def _is_one_cap(self) -> BudgetSettings:
        if len(self.model_fields_set & {"usd", "calls", "tokens"}) != 1:
            raise ValueError("a budget has one of usd, calls and tokens")
        if self.budget("UTC").period == LIFETIME:
            raise ValueError('a cap without a period is written beside budgets, such as usd = "50"')
        if self.timezone and self.period.startswith("rolling"):
            raise ValueError(f"{self.period!r} is the same in every time zone; leave timezone out")
        return self

    def budget(self, timezone: str) -> Budget:
        """Give the budget as the ledger takes it; raises PeriodError."""
        (unit,) = self.model_fields_set & {"usd", "calls", "tokens"}
        limit = nanodollars(self.usd) if unit == "usd" else getattr(self, unit)
        return Budget(Unit(unit), limit, period_spec(self.period, self.timezone or timezone))


class SpenderSettings(Section):
    """Caps of a lifetime, and budgets that come anew: of the organisation, a team, a user, a tag, a model, a key."""

    usd: UsdLimit = None
    calls: CountLimit = None
    tokens: CountLimit = None
    budgets: Annotated[tuple[BudgetSettings, ...], Field(strict=False)] = ()

    @property
    def limits(self) -> Limits:
        """Give the caps of the lifetime."""
        return Limits(usd=nanodollars(self.usd), calls=self.calls, tokens=self.tokens)

    def in_periods(self, timezone: str) -> tuple[Budget, ...]:
        """Give the budgets that come anew as the ledger takes them."""
        return tuple(budget.budget(timezone) for budget in self.budgets)

    def all(self, timezone: str) -> tuple[Budget, ...]:
        """Give everything that is said: the caps of the lifetime, and the budgets that come anew."""
        limits = self.limits
        caps = ((Unit.USD, limits.usd), (Unit.CALLS, limits.calls), (Unit.TOKENS, limits.tokens))
        said = (Budget(unit, limit, LIFETIME) for unit, limit in caps if unit.value in self.model_fields_set)
        return (*said, *self.in_periods(timezone))


class KeySettings(SpenderSettings):
    """One key of the gateway: its secret comes from an environment variable, its runs take its template."""

    key_env: EnvName = ""
    run: RunTemplate | None = None
    runs_per_hour_max: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    models: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = ("*",)
    upstreams: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = ("*",)
    team: Annotated[str, SpenderName] = ""
    user: Annotated[str, SpenderName] = ""
    """Whose budget pays as well; `*` lets the client name the user, and refuses a call that names none."""
    tags: Annotated[tuple[Tag, ...], Field(strict=False)] = ()
    """Of every call of the key; no client can change them."""
    tags_required: Annotated[tuple[TagName, ...], Field(strict=False)] = ()
    """Names of tags that a call must have."""
    networks: Annotated[tuple[Network, ...], Field(strict=False)] = ()
    """Where calls may come from, such as `10.0.0.0/8`; empty: from everywhere."""
    expires: Annotated[Instant | None, BeforeValidator(instant)] = None
    """A date or a time with its zone, from which on the key is refused."""
    role: Literal["", "viewer", "operator", "admin"] = ""
    """What the key may do with the books; such a key makes no model calls."""

    @model_validator(mode="after")
    def _one_value_for_each_tag(self) -> KeySettings:
        names = [tag.partition("=")[0] for tag in self.tags]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"tags has {twice!r} twice; a tag has one value")
        if self.team == "*":
            raise ValueError("team is a name; only user can be left to the client")
        return self
