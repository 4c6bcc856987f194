"""The vendored table of context windows and output maxima, and when a dated name may stand for its model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

from bursar.money import Rate

_DATED = re.compile(r"(.+)[-@](20\d\d)-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])", re.ASCII)


class Limit(NamedTuple):
    """What one model takes and gives, and what the second price source says of it."""

    context_tokens: int
    output_tokens_max: int
    input_rate: Rate
    output_rate: Rate
    us_percent: int
    """What a call costs that runs in the US only, in hundredths."""
    cliff_tokens: int = 0
    """Where the second price source has a dearer rate for longer inputs; 0: nowhere."""
    one_price_a_day: bool = False
    """Whether the second price source says that no hour is cheaper than another."""
    audio_rate: Rate = Rate(0)
    """What the second price source asks for an input token of audio; 0: nothing apart."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The table, by provider and model name in lower case."""

    source: str
    made_on: str
    """YYYY-MM-DD"""
    models: dict[str, dict[str, Limit]]
    unbounded_names: re.Pattern[str]
    """Occurs in the names of models that search, speak, draw or listen, at rates which no bound of ours covers."""

    def find(self, provider: str, name: str) -> Limit | None:
        """Give the row of the model, or of the model that this is a dated snapshot of."""
        rows = self.models.get(provider, {})
        return rows.get(name) or rows.get(undated(name, self.made_on) or "")


def undated(name: str, known_on: str) -> str | None:
    """Give the name without its date, or None when it has none or a date after `known_on` (YYYY-MM-DD).

    A snapshot that is younger than our data may have any price.
    """
    found = _DATED.fullmatch(name)
    if found is None:
        return None
    base, *day = found.groups()
    return base if "-".join(day) <= known_on else None


def load_limits() -> Limits:
    """Read the table that is part of this package."""
    return limits_of(bundled_table())


def bundled_table() -> dict[str, Any]:
    """Give the table that is part of this package, as it is written."""
    table: dict[str, Any] = json.loads(
        files("bursar.pricing").joinpath("data", "model_limits.json").read_text(encoding="utf-8")
    )
    return table


def limits_of(table: Mapping[str, Any]) -> Limits:
    """Read a table; raises KeyError, TypeError or ValueError when it is none."""
    return Limits(
        source=f"{table['source']}, {table['made_on']}",
        made_on=table["made_on"],
        unbounded_names=re.compile(table["unbounded_names"]),
        models={
            provider: {name: _limit(*row) for name, row in rows.items()} for provider, rows in table["models"].items()
        },
    )


def _limit(context: int, output: int, input_: int, output_rate: int, us: int, *more: int) -> Limit:
    # A table that was stored by an older release has fewer columns.
    cliff, one_price_a_day, audio = (*more, 0, 0, 0)[:3]
    return Limit(context, output, Rate(input_), Rate(output_rate), us, cliff, bool(one_price_a_day), Rate(audio))
