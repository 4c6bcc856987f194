"""Budgets in the settings: one unit, one period, a time zone that there is; anything else does not start."""

from __future__ import annotations

from typing import Any

import pytest

from bursar.ledger.account import Budget, Unit
from bursar.settings import SettingsError, parse


def key(*budgets: dict[str, Any]) -> dict[str, Any]:
    return {"keys": {"ci": {"budgets": list(budgets)}}}


def test_a_budget_is_what_the_ledger_takes() -> None:
    settings = parse(
        key(
            {"usd": "50", "period": "day", "timezone": "Europe/Berlin"},
            {"calls": 1000, "period": "rolling 1h"},
            {"tokens": 7, "period": "month"},
            {"usd": "none", "period": "week", "timezone": "UTC"},
        )
        | {"policy": {"timezone": "Asia/Tokyo"}},
        "test",
    )
    assert settings.key_budgets("ci") == (
        Budget(Unit.USD, 50_000_000_000, "day@Europe:Berlin"),
        Budget(Unit.CALLS, 1000, "rolling-1h"),
        Budget(Unit.TOKENS, 7, "month@Asia:Tokyo"),
        Budget(Unit.USD, None, "week"),
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (key({"usd": "1"}), "period is missing"),
        (key({"period": "day"}), "one of usd, calls and tokens"),
        (key({"usd": "1", "calls": 1, "period": "day"}), "one of usd, calls and tokens"),
        (key({"usd": "1", "period": "year"}), "'year' is not a period"),
        (key({"usd": "1", "period": "lifetime"}), "without a period is written beside budgets"),
        (key({"usd": "1", "period": "day", "timezone": "Mars/Base"}), "not a time zone"),
        (key({"usd": "1", "period": "rolling 5h", "timezone": "Asia/Tokyo"}), "leave timezone out"),
        (key({"usd": "-1", "period": "day"}), "usd"),
        (key({"calls": -1, "period": "day"}), "calls"),
        (key({"calls": 1, "periods": "day"}), "unknown key"),
        (key({"calls": 1, "period": "day"}, {"calls": 2, "period": "day"}), "same unit and period"),
        (
            key({"calls": 1, "period": "day"}, {"calls": 2, "period": "day", "timezone": "Asia/Tokyo"})
            | {"policy": {"timezone": "Asia/Tokyo"}},
            "same unit and period",
        ),
        ({"policy": {"timezone": "Nowhere"}}, "not a time zone"),
        ({"ledger": {"keep_days": 1}}, "keep_days"),
    ],
)
def test_what_is_no_budget_does_not_start(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse(given, "bursar.toml")
