"""Real clients under real `bursar run`s; what starts the processes is shared with tests/process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import page
from catalogue import AGENTS

sys.path.insert(0, str(Path(__file__).parents[1] / "process"))


def pytest_sessionfinish() -> None:
    """Write what was measured down, when all of it was."""
    if os.environ.get("BURSAR_AGENTS") == "all" and page.has_all([agent.name for agent in AGENTS]):
        page.FILE.write_text(page.written(), encoding="utf-8")
        print(f"\n\n{page.written()}\nThis is in docs/{page.FILE.name}.")
