"""What holds for every test: no example is timed, and one that fails can be repeated from what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("house", deadline=None, print_blob=True, database=None)
settings.load_profile("house")

HERE = Path(__file__).parent
# Covered is what a test reaches on purpose, not what a search at random happens to; and tracing doubles its time.
SEARCHES = {"fuzz", "simulation"}
# Tests that share what takes seconds to make stay in one process when there are several.
TOGETHER = ("simulation/test_simulation.py", "architecture/test_bypass.py", "admin/test_admin_schema.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(HERE).parts[0] in SEARCHES:
            item.add_marker("no_cover")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Give each process the next test when it is free, and the long groups first."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):  # not its loadgroup: pytest-xdist#1386
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return path if path.endswith(TOGETHER) else nodeid

    return Scheduler(config, log)
