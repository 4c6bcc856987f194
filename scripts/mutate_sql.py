"""Break the SQL of a store in every small way and see that a test notices each: make mutants-sql.

    python scripts/mutate_sql.py --engine sqlite [--only NAME] [--jobs 2] [--resume FILE]

Conditions, orders, limits, locks, assignments and signs of the named queries are taken away or turned round, and so
are the constraints and triggers of the schema. A mutant that no test notices must be harmless for the cap, and
`scripts/survivors-sql.toml` must say why; else this exits with 1. Writes docs/mutants-sql-ENGINE.md.

Each result is appended to the file of --resume, and a run that finds it there does not try that mutant again; one that
survived without a reason is tried again when a test was added or changed. Queries that move money come first.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
REASONS = ROOT / "scripts" / "survivors-sql.toml"
SHARED = ("contract", "periods", "reports", "retention", "runs", "answers", "outbox")
FILES = {
    "sqlite": (*SHARED, "plans", "sqlite", "sqlite_checks", "restored"),
    "postgres": ("contract", "postgres_checks", *SHARED[1:4], "postgres_rows", *SHARED[4:], "postgres"),
}
"""The quick ones first: a mutant that they notice does not get to the others."""
NEAR = (
    (
        r"(read|write)_(\w*base|folded|compacting|meta|entries_(before|gone)|holds_(to_end|gone)|accounts_(named|gone))",
        {"retention", "postgres_rows", "sqlite", "sqlite_checks"},
    ),
    (r"grants|migrations|identity|adopt", {"postgres", "postgres_rows", "sqlite", "restored"}),
    (r"read_(spent|quarantined|holds_of)", {"reports", "retention"}),
    (r"(read|write)_(run|idle|used|patterns|path|holds_before)", {"runs", "contract", "postgres_rows"}),
    (r"\w*(answer|lease|deliver|happenings|again|untold|pruned)", {"answers", "outbox"}),
    (r"read_", {"contract", "periods", "reports", "retention", "postgres_rows", "plans", "sqlite", "restored"}),
)
"""Which tests can notice the rare queries; the others run all of them."""
FIRST = re.compile(
    r"load|books|write_(batch|account_terms|accounts|new_accounts|past_accounts|holds|entries)|\w+_keep$|forward|never"
    r"|\d{4}_|holds_life|cut_former_self|read_(suspects|lives)|revoke"
)
"""The queries, functions and migrations that money goes through."""
SECONDS_MAX = 180
LEFT_OUT = {
    "sqlite": "postgres",
    # Outages of servers of their own, and more seeds of the same: slow, and about the same SQL.
    "postgres": " or ".join(
        ["sqlite", "a_server_that", "a_standby_that", "no_url", *(f"postgres-{n}" for n in range(2, 8))]
    ),
}
MEMORY = Path("/dev/shm")  # noqa: S108
"""Where there is one: a server makes a database there in a seventh of the time."""
NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)

# (what is found, what stands there instead): each place where it is found makes one mutant.
CHANGES = (
    (re.compile(r" FOR (?:NO KEY UPDATE|UPDATE|SHARE)(?: OF \w+)?"), ""),
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
)
CONDITION = re.compile(
    r"\b(?P<word>WHERE|AND) (?P<what>(?:\([^()]*(?:\([^()]*\)[^()]*)*\)|[^()])+?)"
    r"(?=\s+AND\b|\s+ORDER BY|\s+LIMIT|\s+FOR |\s+GROUP BY|\s+RETURNING|\s+ON CONFLICT|\)|;|$)"
)
SET = re.compile(r"\bSET\b(.*?)(?=\bFROM\b|\bWHERE\b|\bRETURNING\b|;|\Z)", re.DOTALL)
ASSIGNED = re.compile(
    r"(?P<column>\b\w+) = (?P<value>(?:new|excluded|u|n|c|d)\.\w+|false|true)(?P<comma>,\s*|(?=[\s;]|$)(?! [-+]))"
)
TARGET = re.compile(r"(?:UPDATE|INTO) bursar\.(\w+)(?: AS (\w+))?")
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
    part: str
    """The query or function of it that was changed, or all of it."""
    at: int = 0
    """Which of those that look the same: 1 is the first, 0 is the only one."""

    @property
    def digest(self) -> str:
        """Give what a results file knows it by."""
        return hashlib.sha256(f"{self.file.name} {self.where} {self.part}".encode()).hexdigest()

    def __str__(self) -> str:
        number = f" ({self.at})" if self.at else ""
        return f"{self.where}{number}: {self.was} -> {self.became or '(taken away)'}"


def mutants(engine: str) -> list[Mutant]:
    """Give every mutant of an engine's queries and schema once, those of money first."""
    found = list({mutant.text: mutant for mutant in all_mutants(engine)}.values())
    alike: dict[tuple[str, str, str], list[int]] = {}
    for place, mutant in enumerate(found):
        alike.setdefault((mutant.where, mutant.was, mutant.became), []).append(place)
    for places in alike.values():
        if len(places) > 1:
            for at, place in enumerate(places, 1):
                found[place] = replace(found[place], at=at)
    return sorted(found, key=lambda mutant: FIRST.match(mutant.where) is None)


def all_mutants(engine: str) -> Iterator[Mutant]:
    """Give the mutants file by file; two changes may come to the same text."""
    folder = ROOT / "src" / "bursar" / "stores" / "sql" / engine
    for file in sorted(folder.glob("*.sql")):
        text = file.read_text(encoding="utf-8")
        if NAME.search(text):
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
            changed = text[:at] + became + text[to:]
            part = changed[start.start() : end + len(changed) - len(text)]
            yield Mutant(file, start[1], line(text[at:to]), line(became), changed, part)


def changes(query: str) -> Iterator[tuple[int, int, str]]:
    """Give begin, end and replacement of every change of a query."""
    code = re.sub(r"--[^\n]*|'[^']*'", lambda found: "x" * len(found[0]), query)
    assigning = [found.span(1) for found in SET.finditer(code)]
    for pattern, became in CHANGES:
        for found in pattern.finditer(code):
            # An assignment is no comparison: turned round it is no SQL.
            is_assigned = became == "<>" and any(begin <= found.start() < end for begin, end in assigning)
            if not is_assigned:
                yield found.start(), found.end(), became
    for found in CONDITION.finditer(code):
        instead = "WHERE true" if found["word"] == "WHERE" else "AND true"
        yield found.start(), found.end(), instead
    for span in assigning:
        for found in ASSIGNED.finditer(code, *span):
            targets = TARGET.findall(code, 0, found.start())
            # Where two rows are in sight, PostgreSQL wants to hear which one is meant.
            target = f"{targets[-1][1] or targets[-1][0]}." if targets else ""
            yield found.start(), found.end(), f"{found['column']} = {target}{found['column']}{found['comma']}"


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
            yield Mutant(file, file.stem, line(found[0]), "", changed, changed)


def of_functions(file: Path, text: str) -> Iterator[Mutant]:
    """Give the mutants of the bodies of a migration's functions, which are queries too."""
    for found in FUNCTION.finditer(text):
        body = found["body"]
        for begin, stop, became in changes(body):
            at, to = found.start("body") + begin, found.start("body") + stop
            part = body[:begin] + became + body[stop:]
            yield Mutant(file, found["name"], line(text[at:to]), line(became), text[:at] + became + text[to:], part)


def line(text: str) -> str:
    """Give a text on one line."""
    return " ".join(text.split())


class Runner:
    """Runs the tests on mutants, remembers what came of it, and begins with the tests that noticed a neighbour."""

    def __init__(self, engine: str, results: Path | None) -> None:
        """Read what is known from a former run."""
        self._engine = engine
        self._results = results
        self._lock = threading.Lock()
        self._telling: dict[str, dict[str, bool]] = {}
        self._tests = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in _paths(FILES[engine]))).hexdigest()
        self._known: dict[str, dict[str, str]] = {}
        if results is not None and results.exists():
            for row in map(json.loads, results.read_text(encoding="utf-8").splitlines()):
                self._known[row["mutant"]] = row
                self._telling.setdefault(row["where"], {}).update(dict.fromkeys(row["by"].splitlines(), True))

    def is_noticed(self, mutant: Mutant, reason: str) -> bool:
        """Say whether a test notices; a survivor is tried again when the tests are others and it has no reason."""
        known = self._known.get(mutant.digest)
        if known is not None and (known["by"] or reason or known["tests"] == self._tests):
            return bool(known["by"])
        began = time.monotonic()
        by = self.run(mutant)
        seconds = round(time.monotonic() - began)
        row = {"mutant": mutant.digest, "where": mutant.where, "what": str(mutant), "by": by, "tests": self._tests}
        with self._lock:
            self._telling.setdefault(mutant.where, {}).update(dict.fromkeys(by.splitlines(), True))
            if self._results is not None:
                with self._results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            print(f"{'noticed' if by else 'ALIVE'} {seconds} s {mutant}", flush=True)
        return bool(by)

    def run(self, mutant: Mutant) -> str:
        """Run the tests on a copy of the sources that has the mutant; give those that failed, empty for none."""
        memory = MEMORY if os.access(MEMORY, os.W_OK) else None
        with tempfile.TemporaryDirectory(prefix="bursar-mutant-", dir=memory, ignore_cleanup_errors=True) as folder:
            # A PostgreSQL server runs in it under another user.
            Path(folder).chmod(0o755)
            src, cache = Path(folder) / "src", Path(folder) / "cache"
            shutil.copytree(ROOT / "src", src, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            (src / mutant.file.relative_to(ROOT / "src")).write_text(mutant.text, encoding="utf-8")
            failed = cache / "v" / "cache" / "lastfailed"
            failed.parent.mkdir(parents=True)
            before = self._telling.get(mutant.where, {})
            failed.write_text(json.dumps(before), encoding="utf-8")
            # Without the house's options: they switch the memory of what has failed off.
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-o", "addopts=", "-o", f"cache_dir={cache}"]
            try:
                done = subprocess.run(  # noqa: S603
                    [*command, "--failed-first", *tests_of(mutant, self._engine)],
                    cwd=ROOT,
                    env={"PYTHONPATH": str(src), "PATH": "/usr/bin:/bin", "TMPDIR": folder}
                    | {"HYPOTHESIS_STORAGE_DIRECTORY": folder},
                    capture_output=True,
                    timeout=SECONDS_MAX,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return "(the time is over)"
            if not done.returncode:
                return ""
            after = json.loads(failed.read_text(encoding="utf-8"))
            said = done.stdout.decode(errors="replace")
            # The tests that were to come first and were not reached are still there.
            names = [name for name in after if name not in before or f" {name}" in said]
            return "\n".join(names) or f"(exit {done.returncode}) {said[-500:]}"


def tests_of(mutant: Mutant, engine: str) -> list[str]:
    """Give the tests that can notice a mutant."""
    near = next((names for where, names in NEAR if re.match(where, mutant.where)), set(FILES[engine]))
    return [*_paths(name for name in FILES[engine] if name in near), "-k", f"not ({LEFT_OUT[engine]})"]


def _paths(names: Iterable[str]) -> list[str]:
    return [f"tests/contract/test_store_{name}.py" for name in names]


def reasons(engine: str) -> dict[tuple[str, str, str, int], str]:
    """Read why the known survivors are harmless."""
    known = tomllib.loads(REASONS.read_text(encoding="utf-8")).get(engine, [])
    return {(row["where"], row["was"], row["became"], row.get("at", 0)): row["reason"] for row in known}


def main() -> None:
    """Run every mutant, write the page, and fail when one survived without a reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=sorted(FILES), required=True)
    parser.add_argument("--only", default="", help="parts of the names of queries, functions or files, with commas")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--resume", type=Path, metavar="FILE", help="results of this run and of the one broken off")
    given = parser.parse_args()
    parts = given.only.split(",")
    chosen = [mutant for mutant in mutants(given.engine) if any(part in mutant.where for part in parts)]
    known = reasons(given.engine)
    why = [known.get((m.where, m.was, m.became, m.at)) or known.get((m.where, m.was, m.became, 0), "") for m in chosen]
    runner = Runner(given.engine, given.resume)
    untouched = chosen[0]
    if said := runner.run(replace(untouched, text=untouched.file.read_text(encoding="utf-8"))):
        sys.exit(f"the tests fail without any mutant; a mutant would look noticed:\n{said}")
    with ThreadPoolExecutor(given.jobs) as pool:
        noticed = list(pool.map(runner.is_noticed, chosen, why))
    rows = [(mutant, reason) for mutant, reason, seen in zip(chosen, why, noticed, strict=True) if not seen]
    unexplained = [mutant for mutant, reason in rows if not reason]
    for mutant in unexplained:
        print(f'\n[[{given.engine}]]\nwhere = "{mutant.where}"\nwas = {mutant.was!r}\nbecame = {mutant.became!r}')
        print(f"at = {mutant.at}\n" * (mutant.at > 0) + 'reason = ""')
    print(f"{len(chosen)} mutants, {len(chosen) - len(rows)} noticed, {len(unexplained)} survive without a reason")
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
    cells = (
        f"| {m.where}{f' ({m.at})' * (m.at > 0)} | `{m.was}` | `{m.became or '(taken away)'}` | {reason} |"
        for m, reason in ((m, reason.replace("|", "\\|")) for m, reason in rows)
    )
    (ROOT / "docs" / f"mutants-sql-{engine}.md").write_text("\n".join([*lines, *cells]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
