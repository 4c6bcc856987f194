"""Rows of the books as HTTP shows them."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Sequence
from typing import TypeVar

from bursar.clock import Instant
from bursar.edge.admin import shapes
from bursar.edge.admin.books import Problem
from bursar.edge.admin.positions import Position, positions
from bursar.edge.admin.shapes import at, at_or_none
from bursar.edge.callers import template_from_json
from bursar.ledger.account import Account, Amounts, Limits
from bursar.ledger.periods import people
from bursar.ledger.store import Entry, HoldRow, KeyRow, QuarantineRow, RunRow
from bursar.money import Money
from bursar.pricing.show import ModelFacts

T = TypeVar("T")


def usd(nanodollars: int | None) -> str | None:
    """Give nanodollars as USD in text."""
    return None if nanodollars is None else str(Money(nanodollars))


def amounts(value: Amounts | Limits) -> shapes.Amounts:
    """Give one amount in each unit."""
    return shapes.Amounts(usd=usd(value.usd), calls=value.calls, tokens=value.tokens)


def opaque(*parts: str) -> str:
    """Make a stable id of what it stands for."""
    return base64.urlsafe_b64encode("\n".join(parts).encode()).decode().rstrip("=")


def plain(text: str, parts: int) -> list[str] | None:
    """Read such an id; None where it is none."""
    try:
        found = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True).decode().split("\n")
    except (binascii.Error, ValueError):
        return None
    return found if len(found) == parts and all(part.isascii() and part.isprintable() for part in found) else None


def page(rows: Sequence[T], limit: int, cursor: str) -> tuple[list[T], str | None]:
    """Cut one row too many off, and say where to go on where there was one."""
    return list(rows[:limit]), cursor if len(rows) > limit else None


def after(cursor: str) -> str | Problem:
    """Read where to go on; empty at the beginning."""
    found = plain(cursor, 1) if cursor else [""]
    return found[0] if found is not None else Problem(422, "invalid", "`after` is the `next` of an earlier answer")


def budget(row: Position) -> shapes.Budget:
    """Give where a budget stands."""
    return shapes.Budget.model_validate(
        {
            "id": opaque(*row.key),
            "scope": row.scope,
            "unit": row.unit,
            "period": people(row.spec),
            "limit": row.limit,
            "spent": row.spent,
            "held": row.held,
            "left": row.left,
            "state": row.state,
            "resets_at": at_or_none(row.ends_at),
        }
    )


def budgets(accounts: Iterable[Account], now: Instant) -> list[shapes.Budget]:
    """Give where accounts stand."""
    return [budget(row) for row in positions(accounts, now)]


def run(row: RunRow, now: Instant, path: tuple[str, ...] | None = None) -> shapes.Run:
    """Give a run; with what it was opened with where that is known."""
    states = {account.state.value for account in row.accounts}
    return shapes.Run(
        run=row.run,
        key=row.owner.removeprefix("key:"),
        label=row.label,
        state=next((state for state in ("overrun", "stopped") if state in states), "open"),
        parents=None if path is None else _of("run:", path),
        tags=None if path is None else _of("tag:", path),
        opened_at=at(row.opened_at),
        calls_open=row.calls_open,
        calls_refused=row.calls_refused,
        budgets=budgets(row.accounts, now),
    )


def _of(kind: str, path: tuple[str, ...]) -> list[str]:
    return [scope.removeprefix(kind) for scope in path if scope.startswith(kind)]


def key(row: KeyRow) -> shapes.Key:
    """Give a key; never its secret or its digest."""
    return shapes.Key(
        id=row.id,
        name=row.name,
        run=row.run or None,
        run_caps=amounts(template_from_json(row.limits_json)),
        terms=json.loads(row.terms_json),
        created_at=at(row.created_at),
        expires_at=at_or_none(row.expires_at),
        revoked_at=at_or_none(row.revoked_at),
    )


def hold(row: HoldRow) -> shapes.Hold:
    """Give a hold."""
    return shapes.Hold(
        call=row.call_id,
        state=row.state.value,
        model=row.model,
        upstream=row.upstream,
        accounts=list(row.accounts),
        held=amounts(row.held),
        captured=amounts(row.captured),
        overrun=amounts(row.overrun),
        basis=row.basis,
        why=row.why,
        opened_at=at(row.opened_at),
        settled_at=at_or_none(row.settled_at),
    )


def entry(row: Entry) -> shapes.Entry:
    """Give a line of the ledger."""
    return shapes.Entry(
        seq=row.seq,
        at=at(row.at),
        kind=row.kind,
        call=row.call_id,
        usd=row.usd,
        calls=row.calls,
        tokens=row.tokens,
        accounts=list(row.accounts),
        detail=row.detail,
    )


def quarantined(row: QuarantineRow) -> shapes.Quarantined:
    """Give a model in quarantine."""
    return shapes.Quarantined(
        model=row.model, since=at(row.since), call=row.call_id, held=amounts(row.held), cost=amounts(row.cost)
    )


def price(upstream: str, facts: ModelFacts) -> shapes.Price:
    """Give what a model costs."""
    return shapes.Price(
        upstream=upstream,
        model=facts.model,
        provider=facts.provider,
        context_tokens=facts.context_tokens,
        output_tokens_max=facts.output_tokens_max,
        rates=[shapes.Rates.model_validate(rate._asdict()) for rate in facts.rates],
        conditions=list(facts.conditions),
        source=facts.source,
        valid_until=at_or_none(facts.valid_until),
    )
