"""`bursar drill` as a user runs it, in small: real processes, a real ledger, real sockets. Takes about ten seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SRC = Path(__file__).parents[2] / "src"
SMALL = ["--agents", "12", "--workers", "2", "--latency-ms", "20", "--seed", "5"]


def drill(tmp_path: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    """Run a drill with its temp folder under `tmp_path`; give exit status, JSON and what people saw."""
    environ = {**os.environ, "PYTHONPATH": str(SRC), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "bursar", "drill", *options, "--json", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path, timeout=120, check=False)
    said = done.stdout + done.stderr
    file = tmp_path / "out.json"
    return done.returncode, json.loads(file.read_text()) if file.exists() else {}, said


def figures_of(document: dict[str, Any]) -> dict[str, Any]:
    (scenario,) = document["scenarios"]
    return scenario["figures"]


def test_a_cap_in_calls_is_used_up_and_never_passed(tmp_path: Path) -> None:
    status, document, said = drill(tmp_path, *SMALL, "--cap-calls", "7")
    assert status == 0, said
    figures = figures_of(document)
    assert (figures["till_calls"], figures["over"], figures["held"], figures["holds_open"]) == (7, 0, 0, 0)
    assert figures["captured_nanodollars"] == figures["till_nanodollars"] > 0
    assert "PASS" in said
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.json"]


def test_a_cap_in_dollars_holds_while_clients_hang_up_and_a_worker_is_killed(tmp_path: Path) -> None:
    status, document, said = drill(tmp_path, *SMALL, "--cap-usd", "0.30", "--faults", "hang_up,kill_worker,cut_middle")
    assert status == 0, said
    figures = figures_of(document)
    assert figures["blows"] == {"kill_worker": 1}
    assert figures["till_nanodollars"] <= figures["captured_nanodollars"] <= 300_000_000
    assert (figures["held"], figures["holds_open"]) == (0, 0)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for leftovers in /proc")
def test_a_drill_that_is_stopped_leaves_nothing_behind(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(SRC), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "bursar", "drill", *SMALL, "--latency-ms", "20000", "--cap-calls", "7"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            while not any(tmp_path.glob("bursar-drill-*/ledger.db")):
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 2
        finally:
            process.kill()
    assert not list(tmp_path.iterdir())
    assert not [line for line in commands() if str(tmp_path) in line]


def commands() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return found


def test_a_drill_that_cannot_run_says_so(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(SRC), "TMPDIR": str(tmp_path / "missing"), "HOME": str(tmp_path)}
    command = [
        sys.executable,
        "-c",
        "import tempfile; tempfile.tempdir = '/no/such/folder'; import runpy, sys;"
        "sys.argv = ['bursar', 'drill', '--cap-calls', '3']; runpy.run_module('bursar', run_name='__main__')",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=False)
    assert done.returncode == 2
    assert "could not run" in done.stderr
