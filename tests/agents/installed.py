"""Agents from the registries, each installed by its plain name into a build folder of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".venv" / "agents"
SECONDS_MAX = 900


class CannotInstallError(Exception):
    """This machine cannot have the agent; the message says why."""


@dataclass(frozen=True)
class FromNpm:
    """Packages of npm, the first of which is the agent; it is started by its program, or by a script for node."""

    packages: tuple[str, ...]
    program: str = ""
    script: str = ""

    @property
    def folder(self) -> Path:
        return FOLDER / self.packages[0].replace("/", "-").strip("@")

    def install(self) -> list[str]:
        """Give the beginning of the command; raises CannotInstallError."""
        if not (self.folder / "installed").exists():
            npm = shutil.which("npm")
            if npm is None:
                raise CannotInstallError("there is no npm here")
            self.folder.mkdir(parents=True, exist_ok=True)
            quiet = ("--no-audit", "--no-fund", "--loglevel=error")
            do([npm, "install", "--prefix", str(self.folder), *quiet, *self.packages])
            (self.folder / "installed").touch()
        if self.program:
            return [str(self.folder / "node_modules" / ".bin" / self.program)]
        script = self.folder / "agent.mjs"
        script.write_text(self.script)
        return ["node", str(script)]

    def version(self) -> str:
        found = [self.folder / "node_modules" / package / "package.json" for package in self.packages]
        return versions(
            {p: json.loads(file.read_text())["version"] for p, file in zip(self.packages, found, strict=True)}
        )


@dataclass(frozen=True)
class FromPip:
    """Packages for Python, the first of which is the agent; it is started by its program, or by a script."""

    packages: tuple[str, ...]
    program: str = ""
    script: str = ""

    @property
    def folder(self) -> Path:
        return FOLDER / self.packages[0]

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    def install(self) -> list[str]:
        """Give the beginning of the command; raises CannotInstallError."""
        if not (self.folder / "installed").exists():
            do([sys.executable, "-m", "venv", "--clear", "--without-pip", str(self.folder)])
            pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", self.python]
            do([*pip, "install", *self.packages])
            (self.folder / "installed").touch()
        return [str(self.folder / "bin" / self.program)] if self.program else [self.python, "-c", self.script]

    def version(self) -> str:
        script = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
        argv = [self.python, "-c", script, *self.packages]
        return versions(json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout))


def versions(found: dict[str, str]) -> str:
    """Give the versions as people read them: the agent's own, and what came with it."""
    (_, first), *others = found.items()
    return ", ".join([first, *(f"{package} {version}" for package, version in others)])


def do(argv: list[str]) -> None:
    """Run a command that installs; raises CannotInstallError."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    except subprocess.TimeoutExpired:
        raise CannotInstallError(f"the installation took more than {SECONDS_MAX} seconds") from None
    if done.returncode:
        raise CannotInstallError(f"it cannot be installed: {(done.stderr or done.stdout).strip()[-400:]}")
