"""What is committed speaks of bursar only: no path of somebody's machine, no host of a package registry, no secret."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "a path of somebody's machine": re.compile(r"(?<![\w.:/~*-])/(root|work|Users)/\w"),
    "the host of a package registry": re.compile(r"\b(pypi|npmjs|pythonhosted)\.(org|com)\b|\bdebian\.org/debian\b"),
    "a provider key": re.compile(r"\bsk-(proj|ant-api03)-[A-Za-z0-9_-]{20,}"),
    "a merge that was not finished": re.compile(r"^(<{7}|>{7}) ", re.MULTILINE),
}


def texts() -> list[tuple[str, str]]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        data = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b"\0"
        if b"\0" not in data:
            found.append((name, data.decode()))
    return found


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_committed_names(what: str) -> None:
    # Recorded requests and fuzz seeds are what clients sent, paths of their machines included.
    own = [(name, text) for name, text in texts() if "/captures/" not in name and "/seeds/" not in name]
    assert own
    offences = [f"{name}: {match[0]!r}" for name, text in own for match in FORBIDDEN[what].finditer(text)]
    assert not offences
