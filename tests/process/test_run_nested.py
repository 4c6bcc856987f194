"""`bursar run` inside `bursar run`: the inner one spends the outer one's money, and may have less of it."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from commands import AGENT, Bench, bench


@pytest_asyncio.fixture
async def here(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path) as made:
        yield made


def inner(script: str, *options: str) -> str:
    """Give a line of an agent that starts another agent under `bursar run`."""
    argv = [sys.executable, "-m", "bursar", "run", *options, "--", sys.executable, "-c", AGENT + script]
    return f"import subprocess; print(json.dumps([subprocess.run({argv!r}).returncode]), flush=True)\n"


async def test_an_inner_run_has_a_cap_of_its_own_within_the_outer_one(here: Bench) -> None:
    twice = inner("for _ in range(3): call()", "--calls", "2", "--run", "r-in", "--json", "inner.json")
    done = await here.run(f"{twice}for _ in range(4): call()", "--calls", "5", "--run", "r-out")
    assert done.statuses == [200, 200, 429, 0, 200, 200, 200, 429], done.err
    assert "run r-in inside run r-out: at most" in done.err
    assert here.provider.till.total.calls == 5
    facts = json.loads((here.folder / "inner.json").read_text())
    assert (facts["run"], facts["calls"], facts["cap_calls"]) == ("r-in", 2, 2)
    assert (facts["session"]["calls"], facts["session"]["refused"]) == (2, 1)
    spent = {row["run"]: row["accounts"] for row in await here.json("runs", "list")}
    assert {run: [a["captured"] for a in rows if a["unit"] == "calls"] for run, rows in spent.items()} == {
        "r-in": [2],
        "r-out": [5],
    }
    assert (await here.json("ledger", "verify"))["agrees"] is True


async def test_a_run_outside_is_not_gone_on_with_inside_and_a_key_that_nobody_knows_is_no_way_in(here: Bench) -> None:
    await here.run("call()", "--calls", "9", "--run", "r-free")
    script = inner("call()", "--run", "r-free") + inner("call()", "--stop")
    done = await here.run(script, "--calls", "5", "--run", "r-out")
    assert done.statuses == [125, 125]
    assert "run r-free is not part of run r-out" in done.err
    assert "--stop is for the outermost run" in done.err
    environ = here.environ | {
        "BURSAR_URL": "http://127.0.0.1:9",
        "BURSAR_KEY": "bursar-run-guessed",
        "BURSAR_RUN": "r-out",
    }
    outside = await here.run("call()", "--calls", "1", "--run", "r-else", env=environ)
    assert outside.statuses == [200], outside.err
