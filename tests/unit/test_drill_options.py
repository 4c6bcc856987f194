"""Which storms the options of `bursar drill` ask for."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from bursar.cli.drill import drill, scenarios_for
from bursar.drill.faults import NAMED_FAULTS
from bursar.drill.scenarios import FAULT_NAMES, SERIES, Scenario
from bursar.money import Money


def chosen(**options: object) -> tuple[Scenario, ...]:
    defaults: dict[str, object] = dict.fromkeys(
        ("agents", "cap_usd", "cap_calls", "workers", "stream", "latency_ms", "faults", "seed")
    )
    return scenarios_for(**{**defaults, "dialect": "all", **options})  # type: ignore[arg-type]


def test_without_options_it_is_the_series_with_a_fresh_seed_for_all() -> None:
    storms = chosen()
    assert [storm.name for storm in storms] == [storm.name for storm in SERIES]
    assert len({storm.seed for storm in storms}) == 1


def test_a_cap_replaces_the_series() -> None:
    assert [(storm.cap_calls, storm.cap_nanodollars) for storm in chosen(cap_calls=7)] == [(7, None)]
    assert [storm.cap_nanodollars for storm in chosen(cap_usd=Money(250_000_000))] == [250_000_000]
    assert [storm.name for storm in chosen(cap_calls=7, cap_usd=Money(5))] == ["calls", "dollars"]


def test_storms_are_chosen_by_name() -> None:
    assert [storm.name for storm in chosen(only="trouble, calls")] == ["trouble", "calls"]
    done = CliRunner().invoke(drill, ["--only", "calls,storm"])
    assert done.exit_code == 2
    assert "'storm' is none of: calls, dollars, trouble, long" in done.output


def test_other_options_change_every_storm() -> None:
    for storm in chosen(agents=3, workers=2, latency_ms=5, dialect="messages", stream=True, seed=9):
        assert (storm.agents, storm.workers, storm.latency_ms, storm.seed) == (3, 2, 5, 9)
        assert (storm.dialects, storm.streams) == (("messages",), (True,))


def test_faults_are_left_out_or_ordered_by_name() -> None:
    assert not any(storm.has_trouble for storm in chosen(faults="none"))
    (storm,) = chosen(cap_calls=7, faults="hang_up, status_500")
    assert storm.hang_up_percent
    assert [fault.name for fault in storm.faults] == ["status_500"]
    assert not storm.blows
    (storm,) = chosen(cap_calls=7, faults="all")
    assert storm.blows
    assert len(storm.faults) == len(NAMED_FAULTS)


def test_the_storms_run_on_the_stores_that_are_asked_for() -> None:
    assert [storm.store for storm in chosen(cap_calls=7, store="both", gateways=2)] == ["sqlite", "postgres"]
    assert {storm.gateways for storm in chosen(store="postgres", gateways=2)} == {2}
    (file, server) = chosen(cap_calls=7, faults="all", store="both")
    assert "kill_store" not in file.blows
    assert {"kill_worker", "pause_worker", "cut_store", "restart_store", "kill_store", "fail_over_store"} == {
        *server.blows
    }


@pytest.mark.parametrize(
    "wrong", [["--faults", "gremlins"], ["--dialect", "latin"], ["--agents", "0"], ["--cap-usd", "-1"]]
)
def test_a_wrong_option_cannot_run(wrong: list[str]) -> None:
    result = CliRunner().invoke(drill, wrong)
    assert result.exit_code == 2
    assert wrong[0] in result.output


def test_a_wrong_fault_is_answered_with_the_names_that_there_are() -> None:
    output = CliRunner().invoke(drill, ["--faults", "gremlins"]).output
    assert all(name in output for name in FAULT_NAMES)


def test_faults_that_would_leave_no_storm_or_do_nothing_are_refused() -> None:
    for faults in ("all", "none", "kill_worker"):
        done = CliRunner().invoke(drill, ["--scenario", "trouble", "--faults", faults])
        assert done.exit_code == 2
        assert "leave out one of the two" in done.output
    done = CliRunner().invoke(drill, ["--cap-calls", "7", "--faults", "kill_store"])
    assert done.exit_code == 2
    assert "--store postgres" in done.output
    (file, server) = chosen(cap_calls=7, faults="kill_store", store="both")
    assert not file.blows
    assert server.blows == ("kill_store",)
