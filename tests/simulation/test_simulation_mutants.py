"""The simulation can fail: it notices every gateway and every rule that is broken on purpose."""

from __future__ import annotations

import pytest
from sim_mutants import MUTANTS, Mutant
from sim_world import run_schedule


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "_"))
def test_the_simulation_notices_that(mutant: Mutant) -> None:
    with mutant.broken():
        seen = any(run_schedule(plan).violations for plan in mutant.plans())
    assert seen, f"{mutant.name}, and {mutant.schedules_max} schedules show nothing"
