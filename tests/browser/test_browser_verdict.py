"""The page of a drill in a real browser, as wide as a phone: no error, no request, nothing to scroll sideways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from chromium import PROGRAM, browser

from bursar.cli.drill import write_evidence
from bursar.drill.agents import Attempt, Outcome
from bursar.drill.places import STORE_FAULTS
from bursar.drill.scenarios import WORKER_FAULTS, Scenario, dollars
from bursar.drill.verdict import Balance, BilledCall, Look, Measured, Struck, judge

PHONE = (390, 844)
DOLLARS: Scenario = replace(dollars(1_000_000_000), agents=2, gateways=2, store="postgres")
BLOWS = (*WORKER_FAULTS, *STORE_FAULTS)
# A storm of twenty seconds in which everything happened that can happen, and in which the cap leaked.
LEAKED = Measured(
    scope="run:r",
    attempts=tuple(
        Attempt(n % 2, n, n * 90_000, 900, Outcome.BROKEN if n % 7 else Outcome.EXHAUSTED) for n in range(220)
    ),
    probes=(),
    till=tuple(BilledCall(n * 90_000, 5_123_456) for n in range(220)),
    balances=(Balance("run:r", "usd", 1_000_000_000, 980_123_457, 3, 0),),
    holds_open=1,
    audit=("account:run:r: captured (booked 980123457, replayed 980123456)",),
    looks=tuple(
        Look(n * 5_123_456, n, n * 90_000, n * 5_123_456, n * 4_000_000, n * 900_000, n % 17, n // 30)
        for n in range(220)
    ),
    blows=BLOWS,
    seconds=20,
    struck=tuple(Struck(name, n * 3_000_000, n * 3_000_000 + 1_500_000) for n, name in enumerate(BLOWS, 1)),
)


@pytest.mark.skipif(PROGRAM is None, reason="needs Chromium: scripts/machine.sh installs it")
async def test_the_verdict_is_readable_on_a_phone_and_asks_nobody_for_anything(tmp_path: Path) -> None:
    files: dict[str, Path | None] = {"html": tmp_path / "drill.html", "svg": tmp_path / "drill.svg"}
    write_evidence([judge(DOLLARS, LEAKED)], {"faults": "all", "cap_usd": "1.00"}, files)
    async with browser(tmp_path / "profile") as tab:
        await tab.open((tmp_path / "drill.html").as_uri(), *PHONE)
        assert await tab.value("document.documentElement.scrollWidth") <= PHONE[0]
        assert await tab.value("innerWidth") == PHONE[0]
        words = "[...document.querySelectorAll('svg text')]"
        outside = f"{words}.map(t => t.getBoundingClientRect()).filter(r => r.left < 0 || r.right > innerWidth).length"
        assert await tab.value(outside) == 0
        # As large as they are drawn; nothing under eight pixels can be read at arm's length.
        assert await tab.value(f"Math.min(...{words}.map(t => t.getBoundingClientRect().height))") >= 8
        assert "passed by $0.1" in await tab.value("document.body.innerText")
        await tab.screenshot(tmp_path / "drill.png")
        assert (tmp_path / "drill.png").read_bytes().startswith(b"\x89PNG")
        await tab.open((tmp_path / "drill.svg").as_uri(), *PHONE)
        assert await tab.value("document.documentElement.tagName") == "svg"
        assert await tab.value("document.querySelectorAll('.over, .booked, .cap').length") == 4
        assert tab.complaints == []
