"""Who may spend how much: runs and keys, and the budgets that come anew."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from bursar.ledger.account import Budget, Limits, Unit
from bursar.ledger.periods import LIFETIME, period_spec
from bursar.settings.values import CountLimit, EnvName, Section, UsdLimit, nanodollars


class RunTemplate(Section):
    """The caps that a new run is opened with; `"none"` counts without a limit, at least one has to be set."""

    usd: UsdLimit = "5.00"
    calls: CountLimit = 500
    tokens: CountLimit = None

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


class KeySettings(Section):
    """One key of the gateway: its secret comes from an environment variable, its runs take its template."""

    key_env: EnvName = ""
    run: RunTemplate | None = None
    usd: UsdLimit = None
    calls: CountLimit = None
    budgets: Annotated[tuple[BudgetSettings, ...], Field(strict=False)] = ()
    runs_per_hour_max: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    models: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = ("*",)

    @property
    def limits(self) -> Limits:
        """Give the caps of the key itself, over all its runs."""
        return Limits(usd=nanodollars(self.usd), calls=self.calls)
