"""Break the money code in every small way that mutmut knows and see that a test notices each: make mutants.

With a part of a module's name (`python scripts/mutate.py ledger`) only that part is tried: docs/mutants-ledger.md.

A mutant that no test notices must be harmless, and `scripts/survivors.toml` must say why; else this exits with 1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
REASONS = ROOT / "scripts" / "survivors.toml"
PAGE = ROOT / "docs" / "mutants.md"
WORK = ROOT / "mutants"
# By a test, or by the type checker.
NOTICED = ("killed", "timeout", "caught by type check")
RESULT = re.compile(r"^\s+(?P<name>\S+): (?P<state>[a-z ]+)$")


@dataclass(frozen=True)
class Survivor:
    """A change to the code that no test noticed."""

    name: str
    was: str
    became: str

    @property
    def is_wording(self) -> bool:
        """Say whether only a sentence for people changed: three words or more, marked or in another case."""
        facts = re.compile(r"(ensure\(.*, \"I\d: [^\"]*\").*")
        if facts.sub(r"\1", self.was) == facts.sub(r"\1", self.became) != self.became:
            return True  # what is told beside the message of a broken invariant
        said = re.search(r"\w+ \w+ \w+", self.was)
        return bool(said) and self.became.replace("XX", "").lower() == self.was.lower()

    @property
    def where(self) -> str:
        """Give the module and function without mutmut's own marks: `money.Money.from_usd`."""
        plain = re.sub(r"__mutmut_\d+$", "", self.name).removeprefix("bursar.")
        return re.sub(r"x_|xǁ", "", plain, count=1).replace("ǁ", ".")


def mutmut(*arguments: str) -> str:
    """Run mutmut and give what it printed."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where mutmut finds mypy
    env = {**os.environ, "PATH": path}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def survivor(name: str) -> Survivor:
    """Ask mutmut what this mutant changed."""
    lines = mutmut("show", name).splitlines()
    changed = [line for line in lines if line[:1] in "+-" and not line.startswith(("+++", "---"))]
    was = " ".join(line[1:].strip() for line in changed if line.startswith("-"))
    became = " ".join(line[1:].strip() for line in changed if line.startswith("+"))
    return Survivor(name, was, became)


def reasons() -> dict[tuple[str, str, str], str]:
    """Read why the known survivors are harmless."""
    known = tomllib.loads(REASONS.read_text(encoding="utf-8")).get("survivor", [])
    return {(row["where"], row["was"], row["became"]): row["reason"] for row in known}


def page(counts: Counter[str], worded: int, rows: list[tuple[Survivor, str]], part: str) -> str:
    """Give docs/mutants.md, or that of a part."""
    noticed = sum(counts[state] for state in NOTICED)
    lines = [
        "# Mutants of the money code",
        "",
        f"Written by `{f'python scripts/mutate.py {part}' if part else 'make mutants'}`: {sum(counts.values())} small"
        f" changes to {'the rules' if part else 'the rules, the quote, the bill and money itself'}.\n"
        f"Tests or the type checker notice {noticed}; {worded} change the wording of a message; the other"
        f" {len(rows)} change nothing\nthat matters, for the reason given.",
        "",
    ]
    if rows:
        lines += ["| where | the code | the mutant | why it is harmless |", "|---|---|---|---|"]
        cells = (f"| `{row.where}` | `{row.was}` | `{row.became}` | {reason} |" for row, reason in rows)
        lines += [re.sub(r"(?<=\S) \| (?=None|[A-Z]\w+`)", r" \\| ", cell) for cell in cells]
    return "\n".join(lines).rstrip("\n") + "\n"


def main() -> None:
    """Run every mutant, write docs/mutants.md, and fail when one survived without a reason."""
    shutil.rmtree(WORK, ignore_errors=True)
    part = "".join(sys.argv[1:2])
    mutmut("run", *([f"bursar.{part}*"] if part else []))
    results = [match for line in mutmut("results", "--all", "true").splitlines() if (match := RESULT.match(line))]
    results = [match for match in results if match["state"] != "not checked"]
    counts = Counter(match["state"] for match in results)
    alive = [survivor(match["name"]) for match in results if match["state"] not in NOTICED]
    worded = sum(row.is_wording for row in alive)
    alive = [row for row in alive if not row.is_wording]
    shutil.rmtree(WORK, ignore_errors=True)
    known = reasons()
    rows = [(row, known.get((row.where, row.was, row.became), "")) for row in alive]
    print(dict(counts))
    unexplained = [row for row, reason in rows if not reason]
    for row in unexplained:
        print(f'\n[[survivor]]\nwhere = "{row.where}"\nwas = {row.was!r}\nbecame = {row.became!r}\nreason = ""')
    if unexplained:
        sys.exit(f"{len(unexplained)} mutants survive: test them, or say in {REASONS.name} why they are harmless")
    place = PAGE.with_stem(f"{PAGE.stem}-{part}") if part else PAGE
    place.write_text(page(counts, worded, rows, part), encoding="utf-8")


if __name__ == "__main__":
    main()
