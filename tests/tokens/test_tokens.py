"""What is held for a text is at least its tokens: on texts that real tokenizers have counted."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from token_bound import bound_of
from token_texts import fresh, mutant

from bursar.pricing.rates import Family

SAMPLES = Path(__file__).parent / "samples"
FAMILIES = {"tiktoken": Family.BYTE_LEVEL, "gemma": Family.BYTE_LEVEL, "claude": Family.CLAUDE}


def sample(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SAMPLES / f"{name}.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_text_is_held_for_at_least_its_tokens(name: str) -> None:
    rows = sample(name)["rows"]
    assert len(rows) >= 2_000
    over = []
    for pattern, times, *tokens in rows:
        bound = bound_of(pattern * times, FAMILIES[name])
        if max(tokens) > bound:
            over.append((ascii(pattern), times, tokens, bound))
    assert not over


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_recorded_texts_come_near_to_the_bound(name: str) -> None:
    """A bound that was never approached would not be tested at all."""
    nearest = max(max(tokens) / bound_of(text * times, FAMILIES[name]) for text, times, *tokens in sample(name)["rows"])
    assert 0.85 < nearest <= 1


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_bound_of_less_would_be_noticed(name: str) -> None:
    """Four fifths of what is held would not be enough."""
    rows = sample(name)["rows"]
    assert any(max(tokens) > bound_of(text * times, FAMILIES[name]) * 4 // 5 for text, times, *tokens in rows)


@pytest.mark.parametrize("seed", range(3))
def test_every_text_of_the_hunt_can_be_sent(seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    texts = [fresh(chance) for _ in range(100)]
    for text in texts + [mutant(chance, text) for text in texts]:
        assert len(text.whole) >= 1
        assert bound_of(text.whole, Family.BYTE_LEVEL) >= len(text.whole.encode())
