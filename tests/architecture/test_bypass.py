"""Every attempt in bypass/ to spend without a hold is refused by the type checker, at its line, for its reason."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from source_tree import ROOT, SRC

FOLDER = Path(__file__).with_name("bypass")
FILES = sorted(FOLDER.glob("*.py"))
MARK = re.compile(r"# error: (?P<codes>[a-z, -]+)$")
FOUND = re.compile(r"^(?P<path>[^:]+):(?P<line>\d+): error: .*\[(?P<code>[a-z-]+)\]$")

Refusals = set[tuple[str, int, str]]


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Refusals:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context"]
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path_factory.mktemp("mypy"))]
    found = subprocess.run(  # noqa: PLW1510  (mypy exits 1 when it finds errors, which is the point)
        [*command, *options, *map(str, FILES)],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(SRC.parent)},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1, found.stdout + found.stderr
    matches = [match for line in found.stdout.splitlines() if (match := FOUND.match(line))]
    return {(Path(match["path"]).name, int(match["line"]), match["code"]) for match in matches}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_attempt_is_refused_for_its_own_reason(file: Path, refused: Refusals) -> None:
    lines = enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
    marked = [(number, match["codes"]) for number, line in lines if (match := MARK.search(line))]
    expected = {(file.name, number, code) for number, codes in marked for code in codes.split(", ")}
    assert {refusal for refusal in refused if refusal[0] == file.name} == expected


def test_there_is_an_attempt_in_every_file_but_the_honest_one() -> None:
    without = [file.stem for file in FILES if not any(map(MARK.search, file.read_text(encoding="utf-8").splitlines()))]
    assert without == ["honest"]


def test_the_source_itself_has_no_error(refused: Refusals) -> None:
    assert {name for name, _, _ in refused} <= {file.name for file in FILES}
