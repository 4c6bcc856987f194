"""Gateways that a drill can storm, as data: how a run is named to each, and how it says that a cap is spent."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bursar.drill.agents import Manner, Sign, reader


class UnknownGatewayError(ValueError):
    """No gateway of this name, or a file that does not describe one."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of gateway; `{run}`, `{key}` and `{cap}` in headers and body are replaced, `{run}` in the path."""

    name: str
    says: str
    """How its caps are meant to be set for a drill."""
    path: str = ""
    """Between the URL of the gateway and the path of the API."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    spent: tuple[Sign, ...] = ()
    """What says that a cap is spent; without any, errors are read as bursar's."""
    held: tuple[Sign, ...] = ()
    """What says that the rest of a cap is held by others just now."""

    def manner(self, run: str, key: str, cap: str) -> Manner:
        """Give what agents do at this gateway for one run; `cap` is in dollars, or a number of calls."""
        values = {"run": run, "key": key, "cap": cap}
        return Manner(
            headers={name: _filled(value, values) for name, value in self.headers.items()},
            body={name: _filled(value, values) for name, value in self.body.items()},
            reads=reader(self.spent, self.held) if self.spent or self.held else None,
        )

    def base_url(self, target: str, run: str) -> str:
        """Give the URL to which agents add the path of the API."""
        # Many write it with the version, as SDKs want it; the agents bring their own.
        return target.rstrip("/").removesuffix("/v1") + self.path.replace("{run}", run)


KINDS: tuple[Kind, ...] = (
    Kind("bursar", "the cap is that of `run` of the key; the run is named by the path /r/RUN", path="/r/{run}"),
    Kind(
        "litellm",
        "max_budget_per_session of the agent whose key it is, or max_budget of a key",
        headers={"x-litellm-session-id": "{run}"},
        # The hook that keeps the budget looks for the session in the body and not in the header.
        body={"metadata": {"session_id": "{run}"}},
        spent=(Sign(429, "session budget exceeded"), Sign(0, "budget_exceeded"), Sign(0, "budget has been exceeded")),
    ),
    Kind(
        "hardcap",
        "the token budget of the tenant whose key it is; it knows no runs",
        spent=(Sign(429, "budget_exceeded"),),
        held=(Sign(429, "budget_busy"),),
    ),
    Kind(
        "inferrail",
        "the agents send the cap along, with the name of the run",
        headers={"x-inferrail-attribute-work-id": "{run}", "x-inferrail-budget-usd": "{cap}"},
        spent=(Sign(402, "INFERRAIL_E010"),),
    ),
    Kind(
        "portkey",
        "the budget of the key, or a usage policy on the metadata field `run`",
        headers={"x-portkey-api-key": "{key}", "x-portkey-trace-id": "{run}", "x-portkey-metadata": '{"run":"{run}"}'},
        spent=(Sign(412),),
    ),
    Kind(
        "openai",
        "any other with the API of OpenAI: 402, 412, or an error that speaks of a budget or a quota is a refusal",
        spent=(Sign(402), Sign(412), Sign(0, "budget"), Sign(0, "insufficient_quota"), Sign(0, "spend limit")),
    ),
)
BY_NAME: Mapping[str, Kind] = {kind.name: kind for kind in KINDS}


def find_kind(name: str) -> Kind:
    """Find a kind of gateway by its name, or read it from a TOML file; raises UnknownGatewayError."""
    if not name.endswith(".toml"):
        if name in BY_NAME:
            return BY_NAME[name]
        raise UnknownGatewayError(f"{name!r} is none of {', '.join(BY_NAME)}, and no .toml file that describes another")
    try:
        fields = tomllib.loads(Path(name).read_text(encoding="utf-8"))
        signs = {part: tuple(Sign(**sign) for sign in fields.pop(part, ())) for part in ("spent", "held")}
        kind = Kind(**{"name": Path(name).stem, "says": name, **fields, **signs})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UnknownGatewayError(f"{name}: {error}") from None
    if not kind.spent or Sign() in (*kind.spent, *kind.held):
        raise UnknownGatewayError(f"{name}: `spent` has to say by `status` or `has` how a spent cap is refused")
    return kind


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    """Put the values into every text of a piece of JSON."""
    if isinstance(value, Mapping):
        return {name: _filled(item, values) for name, item in value.items()}
    if isinstance(value, str):
        for name, known in values.items():
            value = value.replace(f"{{{name}}}", known)
    return value
