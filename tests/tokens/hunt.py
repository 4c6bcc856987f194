"""Hunt for texts with more tokens than bursar holds for: `make tokens`, or

    python tests/tokens/hunt.py --cases 30000 --seed 7 [--tokenizers .venv/tokenizers] [--record]

Every round counts a thousand texts with real tokenizers: new ones, and mutants of those that came nearest to the bound.
A text with more tokens than were held for it is printed, and the exit status is 1. --record writes a sample of the
texts and their counts to tests/tokens/samples, which the tests go through everywhere.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from token_bound import bound_of
from token_texts import Text, fresh, mutant

from bursar.pricing.rates import Family

HERE = Path(__file__).parent
ROUND = 1_000
KEPT = 60
SAMPLED = 2_500
FAMILIES = {"tiktoken": Family.BYTE_LEVEL, "gemma": Family.BYTE_LEVEL, "claude": Family.CLAUDE}


@dataclass
class Counted:
    """One text, what was held for it, and its tokens by encoding."""

    text: Text
    bound: int
    tokens: list[int]

    @property
    def ratio(self) -> float:
        return max(self.tokens) / max(1, self.bound)


class Counter:
    """A real tokenizer in a process of its own."""

    def __init__(self, family: str, interpreter: Path, folder: Path) -> None:
        command = [str(interpreter), str(HERE / "token_counters.py"), family, str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.names: list[str] = self._line()

    def counts(self, text: str) -> list[int]:
        """Give the tokens of a text, by encoding."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(json.dumps(text) + "\n")
        stdin.flush()
        found: list[int] = self._line()
        return found

    def _line(self) -> Any:
        stdout: IO[str] | None = self._process.stdout
        assert stdout is not None
        return json.loads(stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@dataclass
class Hunt:
    """One family of tokenizers and what was found so far."""

    family: str
    counter: Counter
    chance: random.Random
    cases: int = 0
    over: list[Counted] = field(default_factory=list)
    nearest: list[Counted] = field(default_factory=list)
    sample: list[Counted] = field(default_factory=list)

    def round(self) -> None:
        """Count a thousand texts."""
        found = [self._counted(text) for text in self._texts()]
        self.cases += len(found)
        self.over += [one for one in found if one.ratio > 1]
        distinct = {one.text: one for one in self.nearest + found}
        ranked = sorted(distinct.values(), key=lambda one: -one.ratio)
        # Text that is not ASCII has a bound of its own on Claude; the dearest ASCII must not crowd it out.
        plain = [one for one in ranked if one.text.pattern.isascii()]
        mixed = [one for one in ranked if not one.text.pattern.isascii()]
        self.nearest = plain[:KEPT] + mixed[:KEPT]
        self.sample += self.chance.sample(found, k=min(len(found), 200))

    def _texts(self) -> Iterable[Text]:
        for _ in range(ROUND):
            if self.nearest and self.chance.random() < 0.5:
                yield mutant(self.chance, self.chance.choice(self.nearest).text)
            else:
                yield fresh(self.chance)

    def _counted(self, text: Text) -> Counted:
        return Counted(text, bound_of(text.whole, FAMILIES[self.family]), self.counter.counts(text.whole))

    def recorded(self, seed: int) -> str:
        """Give the sample file: one text a line."""
        distinct = {one.text: one for one in self.nearest + self.sample if len(one.text.pattern) < 200}
        rows = [
            json.dumps([one.text.pattern, one.text.times, *one.tokens]) for one in list(distinct.values())[:SAMPLED]
        ]
        head = {
            "made_by": "tests/tokens/hunt.py --record",
            "seed": seed,
            "columns": ["pattern", "times", *self.counter.names],
        }
        lines = [f" {json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
        return "{\n" + "\n".join(lines) + '\n "rows": [\n' + ",\n".join(rows) + "\n ]\n}\n"


def installed(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Give the interpreter and the vocabularies of each family that is there; see scripts/install_tokenizers.py."""
    found = {
        "tiktoken": (folder / "python" / "bin" / "python", folder / "tiktoken"),
        "gemma": (folder / "python" / "bin" / "python", folder / "gemma"),
        "claude": (folder / "claude" / "bin" / "python", folder),
    }
    return {name: paths for name, paths in found.items() if paths[0].exists()}


def main(arguments: list[str]) -> int:
    """Hunt in every family that is installed; give 1 when a text had more tokens than were held for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--tokenizers", type=Path, default=Path(".venv/tokenizers"))
    parser.add_argument("--only", choices=sorted(FAMILIES))
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}", flush=True)
    over = 0
    families = installed(options.tokenizers)
    for family in [options.only] if options.only else sorted(FAMILIES):
        if family not in families:
            print(f"{family}: left out, its tokenizer is not installed; see scripts/install_tokenizers.py")
            continue
        over += hunt(family, families[family], options)
    return 1 if over else 0


def hunt(family: str, paths: tuple[Path, Path], options: argparse.Namespace) -> int:
    """Hunt in one family, print what came nearest, and give the number of texts that were over."""
    counter = Counter(family, *paths)
    found = Hunt(family, counter, random.Random(f"{options.seed}:{family}"))
    try:
        while found.cases < options.cases:
            found.round()
    finally:
        counter.close()
    print(f"{family}: {found.cases} texts, {len(found.over)} over; tokens per token held, at most, by {counter.names}:")
    for one in [*found.over[:10], *found.nearest[:2], *found.nearest[-KEPT:][:2]]:
        print(
            f"  {one.ratio:.3f}  {one.tokens} of {one.bound}  {one.text.pattern[:60]!a} x {one.text.times}",
            flush=True,
        )
    if options.record:
        (HERE / "samples" / f"{family}.json").write_text(found.recorded(options.seed), encoding="utf-8")
    return len(found.over)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
