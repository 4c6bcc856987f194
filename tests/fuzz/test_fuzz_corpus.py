"""What the fuzzer once found interesting, replayed: the smallest input of every outcome."""

from __future__ import annotations

import random

import pytest
from fuzz_money import Case, broken, check_cuts, kept, originals, outcome

KEPT = kept()


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in KEPT])
def test_a_kept_input_does_no_harm(case: Case) -> None:
    for seed in range(3):
        assert outcome(case, random.Random(seed))


def test_the_kept_inputs_have_every_kind_of_outcome() -> None:
    found = {outcome(case, random.Random(0)) for _name, case in KEPT}
    assert {one.partition(":")[0].partition(" ")[0] for one in found} == {"refused", "unpriced", "held", "billed"}
    assert len(found) >= 50


@pytest.mark.parametrize("seed", range(3))
def test_the_fuzzer_finds_nothing_in_a_short_run(seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    cases = originals()
    found = {outcome(broken(chance, cases), chance) for _ in range(300)}
    assert len(found) > 20


def test_every_pair_of_the_golden_corpus_is_accepted_and_priced() -> None:
    for case in originals():
        assert outcome(case, random.Random(1)).startswith(("billed", "held"))


@pytest.mark.parametrize("seed", range(3))
def test_a_reply_that_breaks_off_never_costs_less_than_the_whole_of_it(seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    for case in originals():
        check_cuts(case, chance, cuts=10)
