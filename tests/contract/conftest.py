"""Leaves no database behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from databases import drop_all


@pytest.fixture(autouse=True)
def _databases() -> Iterator[None]:
    yield
    drop_all()
