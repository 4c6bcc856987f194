"""The fake provider's bill against figures that were worked out by hand, and its independence from what it checks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import bursar.drill.till
from bursar.drill.till import Billed, Metered, Till, bill_nanodollars, find_model

WITNESS = ("till", "prompt", "shapes", "answering", "faults", "fake_provider", "gemini")


@pytest.mark.parametrize(
    ("name", "used", "percent", "nanodollars"),
    [
        # 1,000 x $2 + 100 x $8 per million = $0.0028
        ("gpt-4.1", Metered(1_000, 100), 100, 2_800_000),
        # 200 x $2 + 800 x $0.50 + 10 x $8 per million = $0.00088
        ("gpt-4.1", Metered(200, 10, cache_read_tokens=800), 100, 880_000),
        # 1 x $0.15 per million is 150 nanodollars
        ("gpt-4o-mini", Metered(1, 0), 100, 150),
        # 1 x $0.125 per million is 125 nanodollars; half of it is rounded up to 63
        ("gpt-5", Metered(0, 0, cache_read_tokens=1), 50, 63),
        # 10 x $3 + 20 x $15 + 1,000 x $0.30 + 2,000 x $3.75 + 3,000 x $6 per million = $0.02613
        ("claude-sonnet-4-5", Metered(10, 20, 1_000, 2_000, 3_000), 100, 26_130_000),
        # at 272,000 tokens still $2.50, above it $5 and $22.50 for all tokens
        ("gpt-5.4", Metered(272_000, 1_000), 100, 695_000_000),
        ("gpt-5.4", Metered(272_001, 1_000), 100, 1_382_505_000),
        # what is read from the cache counts towards the step
        ("gpt-5.4", Metered(1, 0, cache_read_tokens=272_000), 100, 136_005_000),
        ("claude-haiku-4-5", Metered(0, 0), 100, 0),
    ],
)
def test_a_bill_is_what_it_is_by_hand(name: str, used: Metered, percent: int, nanodollars: int) -> None:
    model = find_model(name)
    assert model is not None
    assert bill_nanodollars(model, used, percent) == nanodollars


def test_a_model_is_found_with_its_date_and_not_by_a_part_of_its_name() -> None:
    assert find_model("claude-haiku-4-5-20251001") is find_model("claude-haiku-4-5")
    assert find_model("gpt-5.4-2026-03-05") is find_model("gpt-5.4")
    assert find_model("gpt-5.4-2026") is None
    assert find_model("claude-haiku-4") is None
    assert find_model("") is None


def test_the_till_counts_by_key_and_by_model_and_in_total() -> None:
    till = Till()
    for key, model, nanodollars in (("a", "x", 5), ("a", "y", 7), ("b", "x", 11)):
        till.ring(Billed(1, key, model, "chat", False, Metered(2, 3), nanodollars))
    assert (till.total.calls, till.total.nanodollars, till.total.input_tokens, till.total.output_tokens) == (
        3,
        23,
        6,
        9,
    )
    assert {key: tally.nanodollars for key, tally in till.by_key.items()} == {"a": 12, "b": 11}
    assert {model: tally.nanodollars for model, tally in till.by_model.items()} == {"x": 16, "y": 7}
    rows = till.as_json(ledger_rows=2)["ledger"]
    assert isinstance(rows, list)
    assert [row["nanodollars"] for row in rows] == [7, 11]


def test_a_till_that_is_reset_forgets_all_but_what_is_in_flight() -> None:
    till = Till()
    till.enter()
    till.enter()
    till.leave()
    till.ring(Billed(1, "a", "x", "chat", False, Metered(2, 3), 5))
    till.reset()
    assert (till.total.calls, till.requests, till.in_flight, till.in_flight_max) == (0, 0, 1, 1)
    assert not till.by_key
    assert not till.ledger


def test_the_witness_imports_nothing_of_what_it_bears_witness_against() -> None:
    folder = Path(bursar.drill.till.__file__).parent
    seen = set()
    for name in WITNESS:
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            seen |= {name for name in names if name.startswith("bursar")}
    assert seen
    assert seen <= {f"bursar.drill.{name}" for name in WITNESS}
