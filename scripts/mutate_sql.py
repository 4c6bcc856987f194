"""Break the SQL of a store in every small way and see that a test notices each: make mutants-sql.

    python scripts/mutate_sql.py --engine sqlite [--only NAME] [--jobs 2]

Conditions, orders, limits, locks, assignments and signs of the named queries are taken away or turned round, and so
are the constraints and triggers of the schema. A mutant that no test notices must be harmless for the cap, and
`scripts/survivors-sql.toml` must say why; else this exits with 1. Writes docs/mutants-SQL-ENGINE.md.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
REASONS = ROOT / "scripts" / "survivors-sql.toml"
SHARED = ("contract", "periods", "retention", "reports")
TESTS = {
    engine: (*(f"tests/contract/test_store_{name}.py" for name in (*SHARED, *own)), "-k", f"not {other}")
    for engine, other, own in (
        ("sqlite", "postgres", ("plans", "sqlite", "sqlite_checks", "restored")),
        ("postgres", "sqlite", ("postgres",)),
    )
}
"""The quick ones first: a mutant that they notice does not get to the others."""
SECONDS_MAX = 600
NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)

# (what is found, what stands there instead): each place where it is found makes one mutant.
CHANGES = (
    (re.compile(r" FOR NO KEY UPDATE| FOR UPDATE| FOR SHARE"), ""),
    (re.compile(r"\s+ORDER BY [\w., ]+?(?= LIMIT|\s+FOR |\)|;|$)", re.MULTILINE), ""),
    (re.compile(r"\s+LIMIT \S+(?<!;)"), ""),
    (re.compile(r" DESC\b"), " ASC"),
    (re.compile(r"(?<=[\w)\]'] )=(?= (?!excluded|new\.)[\w('$?:@])"), "<>"),
    (re.compile(r"(?<= )>(?= )"), ">="),
    (re.compile(r"(?<= )>=(?= )"), ">"),
    (re.compile(r"(?<= )<(?= )"), "<="),
    (re.compile(r"(?<= )<=(?= )"), "<"),
    (re.compile(r"(?<= )\+(?= )"), "-"),
    (re.compile(r"(?<= )-(?= )"), "+"),
    (re.compile(r"\bIS NULL\b"), "IS NOT NULL"),
    (re.compile(r"\bIS NOT NULL\b"), "IS NULL"),
    (re.compile(r"\bDO NOTHING\b"), "DO UPDATE SET"),
)
CONDITION = re.compile(
    r"\b(?P<word>WHERE|AND) (?P<what>(?:\([^()]*(?:\([^()]*\)[^()]*)*\)|[^()])+?)"
    r"(?=\s+AND\b|\s+ORDER BY|\s+LIMIT|\s+FOR |\s+GROUP BY|\s+RETURNING|\s+ON CONFLICT|\)|;|$)"
)
ASSIGNED = re.compile(r"(?P<column>\b\w+) = (?P<value>(?:new|excluded|u|n|c|d)\.\w+)(?P<comma>,\s*|(?=\s))")
CHECK = re.compile(r"\s*(?:CONSTRAINT \w+\s+)?CHECK \((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)")
UNIQUE = re.compile(r"(?<=\w) UNIQUE\b(?! \()")
FUNCTION = re.compile(
    r"^CREATE FUNCTION (?:\w+\.)?(?P<name>\w+).*?\$(?P<tag>\w*)\$(?P<body>.*?)\$(?P=tag)\$", re.M | re.S
)
TRIGGER = re.compile(r"^CREATE TRIGGER .*?(?:^END;$|EXECUTE FUNCTION [^;]*;)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Mutant:
    """One change to one file of SQL."""

    file: Path
    where: str
    was: str
    became: str
    text: str
    """The whole file with the change in it."""


def mutants(engine: str) -> Iterator[Mutant]:
    """Give every mutant of an engine's queries and schema."""
    folder = ROOT / "src" / "bursar" / "stores" / "sql" / engine
    for file in sorted(folder.glob("*.sql")):
        text = file.read_text(encoding="utf-8")
        if file.name == "queries.sql":
            yield from of_queries(file, text)
        else:
            yield from of_schema(file, text)
            yield from of_functions(file, text)


def of_queries(file: Path, text: str) -> Iterator[Mutant]:
    """Give the mutants of the named queries."""
    starts = [*NAME.finditer(text)]
    for number, start in enumerate(starts):
        end = starts[number + 1].start() if number + 1 < len(starts) else len(text)
        for begin, stop, became in changes(text[start.end() : end]):
            at, to = start.end() + begin, start.end() + stop
            yield Mutant(file, start[1], line(text[at:to]), line(became), text[:at] + became + text[to:])


def changes(query: str) -> Iterator[tuple[int, int, str]]:
    """Give begin, end and replacement of every change of a query."""
    code = re.sub(r"--[^\n]*|'[^']*'", lambda found: "x" * len(found[0]), query)
    for pattern, became in CHANGES:
        for found in pattern.finditer(code):
            if became != "DO UPDATE SET":
                yield found.start(), found.end(), became
    for found in CONDITION.finditer(code):
        instead = "WHERE true" if found["word"] == "WHERE" else "AND true"
        yield found.start(), found.end(), instead
    for found in ASSIGNED.finditer(code):
        yield found.start(), found.end(), f"{found['column']} = {found['column']}{found['comma']}"


def of_schema(file: Path, text: str) -> Iterator[Mutant]:
    """Give the mutants of a migration: each constraint and each trigger taken away."""
    for pattern in (CHECK, UNIQUE, TRIGGER):
        for found in pattern.finditer(text):
            begin, end = found.span()
            before, after = text[:begin], text[end:]
            if not before.rstrip().endswith((",", "(")) or pattern is not CHECK:
                changed = before + after
            else:
                # A line of its own: its comma goes with it.
                changed = before.rstrip().removesuffix(",") + after if not after.startswith(",") else before + after[1:]
            yield Mutant(file, file.stem, line(found[0]), "", changed)


def of_functions(file: Path, text: str) -> Iterator[Mutant]:
    """Give the mutants of the bodies of a migration's functions, which are queries too."""
    for found in FUNCTION.finditer(text):
        body = found["body"]
        for begin, stop, became in changes(body):
            at, to = found.start("body") + begin, found.start("body") + stop
            yield Mutant(file, found["name"], line(text[at:to]), line(became), text[:at] + became + text[to:])


def line(text: str) -> str:
    """Give a text on one line."""
    return " ".join(text.split())


def is_noticed(mutant: Mutant, engine: str) -> bool:
    """Run the tests of the store on a copy of the sources that has the mutant."""
    with tempfile.TemporaryDirectory(prefix="bursar-mutant-") as folder:
        src = Path(folder) / "src"
        shutil.copytree(ROOT / "src", src, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        (src / mutant.file.relative_to(ROOT / "src")).write_text(mutant.text, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS[engine]]
        try:
            done = subprocess.run(  # noqa: S603
                command,
                cwd=ROOT,
                env={"PYTHONPATH": str(src), "PATH": "/usr/bin:/bin", "HYPOTHESIS_STORAGE_DIRECTORY": folder},
                capture_output=True,
                timeout=SECONDS_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return True
        return done.returncode != 0


def reasons(engine: str) -> dict[tuple[str, str, str], str]:
    """Read why the known survivors are harmless."""
    known = tomllib.loads(REASONS.read_text(encoding="utf-8")).get(engine, [])
    return {(row["where"], row["was"], row["became"]): row["reason"] for row in known}


def main() -> None:
    """Run every mutant, write the page, and fail when one survived without a reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=sorted(TESTS), required=True)
    parser.add_argument("--only", default="", help="parts of the names of queries, functions or files, with commas")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    parts = given.only.split(",")
    chosen = [mutant for mutant in mutants(given.engine) if any(part in mutant.where for part in parts)]
    known = reasons(given.engine)
    untouched = chosen[0]
    if is_noticed(replace(untouched, text=untouched.file.read_text(encoding="utf-8")), given.engine):
        sys.exit("the tests fail without any mutant; a mutant would look noticed")
    with ThreadPoolExecutor(given.jobs) as pool:
        noticed = list(pool.map(lambda mutant: is_noticed(mutant, given.engine), chosen))
    alive = [mutant for mutant, is_seen in zip(chosen, noticed, strict=True) if not is_seen]
    rows = [(mutant, known.get((mutant.where, mutant.was, mutant.became), "")) for mutant in alive]
    unexplained = [mutant for mutant, reason in rows if not reason]
    for mutant in unexplained:
        print(f'\n[[{given.engine}]]\nwhere = "{mutant.where}"\nwas = {mutant.was!r}\nbecame = {mutant.became!r}')
        print('reason = ""')
    print(f"{len(chosen)} mutants, {len(chosen) - len(alive)} noticed, {len(unexplained)} survive without a reason")
    if not given.only and not unexplained:
        write_page(given.engine, len(chosen), rows)
    sys.exit(1 if unexplained else 0)


def write_page(engine: str, count: int, rows: list[tuple[Mutant, str]]) -> None:
    """Write docs/mutants-sql-ENGINE.md."""
    lines = [
        f"# Mutants of the SQL of {engine}",
        "",
        f"Written by `make mutants-sql`: {count} small changes to the queries, constraints and triggers. Tests notice",
        f"{count - len(rows)}; the other {len(rows)} weaken no cap, for the reason given.",
        "",
        "| where | the SQL | the mutant | why it is harmless |",
        "|---|---|---|---|",
    ]
    cells = (f"| {m.where} | `{m.was}` | `{m.became or '(taken away)'}` | {reason} |" for m, reason in rows)
    (ROOT / "docs" / f"mutants-sql-{engine}.md").write_text("\n".join([*lines, *cells]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
