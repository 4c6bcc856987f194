"""A PostgreSQL server for the tests of this folder; where it is not installed they fail and say which package it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cluster import Cluster, shared


@pytest.fixture(scope="session")
def postgres() -> Cluster:
    """Give the fast server that the tests of this process share."""
    return shared()


@pytest.fixture
def database(postgres: Cluster) -> Iterator[str]:
    """Give the URL of an empty database."""
    with postgres.database() as url:
        yield url
